// Signatures of Android's classes that this repository uses, for type checks without its SDK. They compute nothing.
@file:Suppress("UNUSED_PARAMETER")

package android.content

import android.content.pm.PackageManager
import android.database.Cursor
import android.net.Uri
import java.io.File
import java.io.InputStream

interface ComponentCallbacks2 {
    companion object {
        const val TRIM_MEMORY_BACKGROUND = 40
    }
}

abstract class BroadcastReceiver

class IntentFilter(action: String)

open class Intent {
    val action: String? get() = TODO()

    fun getStringExtra(name: String): String? = TODO()

    fun getIntExtra(name: String, defaultValue: Int): Int = TODO()

    companion object {
        const val ACTION_BATTERY_CHANGED = "android.intent.action.BATTERY_CHANGED"
    }
}

class ActivityNotFoundException : RuntimeException()

abstract class ContentResolver {
    fun openInputStream(uri: Uri): InputStream? = TODO()

    fun query(
        uri: Uri,
        projection: Array<String>?,
        selection: String?,
        selectionArgs: Array<String>?,
        sortOrder: String?,
    ): Cursor? = TODO()
}

abstract class Context {
    val packageName: String get() = TODO()
    val packageManager: PackageManager get() = TODO()
    val contentResolver: ContentResolver get() = TODO()
    val filesDir: File get() = TODO()
    val cacheDir: File get() = TODO()

    fun getExternalFilesDir(type: String?): File? = TODO()

    fun <T> getSystemService(serviceClass: Class<T>): T = TODO()

    fun registerReceiver(receiver: BroadcastReceiver?, filter: IntentFilter): Intent? = TODO()
}
