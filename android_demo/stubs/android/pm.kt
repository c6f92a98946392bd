// Signatures of Android's classes that this repository uses, for type checks without its SDK. They compute nothing.
@file:Suppress("UNUSED_PARAMETER")

package android.content.pm

class PackageInfo {
    @JvmField
    var versionName: String? = null
}

abstract class PackageManager {
    fun getPackageInfo(packageName: String, flags: Int): PackageInfo = TODO()
}
