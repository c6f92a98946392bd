// Signatures of Android's classes that this repository uses, for type checks without its SDK. They compute nothing.
@file:Suppress("UNUSED_PARAMETER")

package android.util

object Log {
    fun i(tag: String?, msg: String): Int = TODO()
}
