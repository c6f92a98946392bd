// Signatures of Android's classes that this repository uses, for type checks without its SDK. They compute nothing.
@file:Suppress("UNUSED_PARAMETER")

package android.widget

import android.content.Context

class Toast private constructor() {
    fun show(): Unit = TODO()

    companion object {
        const val LENGTH_LONG = 1

        @JvmStatic
        fun makeText(context: Context, text: CharSequence, duration: Int): Toast = TODO()
    }
}
