// Signatures of Android's classes that this repository uses, for type checks without its SDK. They compute nothing.
@file:Suppress("UNUSED_PARAMETER")

package android.app

import android.content.ComponentCallbacks2
import android.content.Context
import android.content.Intent
import android.os.Bundle
import android.view.Window

open class Application : Context()

open class Activity :
    Context(),
    ComponentCallbacks2 {
    val intent: Intent get() = TODO()
    val window: Window get() = TODO()

    protected open fun onCreate(savedInstanceState: Bundle?): Unit = TODO()

    protected open fun onNewIntent(intent: Intent): Unit = TODO()

    open fun onTrimMemory(level: Int): Unit = TODO()

    fun setShowWhenLocked(showWhenLocked: Boolean): Unit = TODO()

    fun setTurnScreenOn(turnScreenOn: Boolean): Unit = TODO()

    fun finishAndRemoveTask(): Unit = TODO()
}

class ActivityManager {
    fun getMemoryInfo(outInfo: MemoryInfo): Unit = TODO()

    class MemoryInfo {
        @JvmField
        var totalMem: Long = 0
    }
}
