// Signatures of Android's classes that this repository uses, for type checks without its SDK. They compute nothing.
@file:Suppress("UNUSED_PARAMETER")

package android.database

import java.io.Closeable

interface Cursor : Closeable {
    fun moveToFirst(): Boolean

    fun moveToNext(): Boolean

    fun getString(columnIndex: Int): String

    fun getLong(columnIndex: Int): Long
}
