// Signatures of Android's classes that this repository uses, for type checks without its SDK. They compute nothing.
@file:Suppress("UNUSED_PARAMETER")

package android.graphics

class Bitmap private constructor() {
    val width: Int get() = TODO()
    val height: Int get() = TODO()

    fun getPixels(pixels: IntArray, offset: Int, stride: Int, x: Int, y: Int, width: Int, height: Int): Unit = TODO()

    fun recycle(): Unit = TODO()

    enum class Config { ARGB_8888 }

    companion object {
        @JvmStatic
        fun createBitmap(colors: IntArray, width: Int, height: Int, config: Config): Bitmap = TODO()
    }
}

object ImageFormat {
    const val YUV_420_888 = 35
}

class Rect {
    @JvmField
    var left: Int = 0

    @JvmField
    var top: Int = 0

    fun width(): Int = TODO()

    fun height(): Int = TODO()
}
