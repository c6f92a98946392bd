// Signatures of Android's classes that this repository uses, for type checks without its SDK. They compute nothing.
@file:Suppress("UNUSED_PARAMETER")

package android.view

class Surface

open class View {
    var keepScreenOn: Boolean
        get() = TODO()
        set(value) = TODO()
}

abstract class Window {
    fun addFlags(flags: Int): Unit = TODO()
}

interface WindowManager {
    class LayoutParams {
        companion object {
            const val FLAG_KEEP_SCREEN_ON = 0x80
        }
    }
}
