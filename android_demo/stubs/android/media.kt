// Signatures of Android's classes that this repository uses, for type checks without its SDK. They compute nothing.
@file:Suppress("UNUSED_PARAMETER")

package android.media

import android.content.Context
import android.graphics.Bitmap
import android.graphics.Rect
import android.net.Uri
import android.view.Surface
import java.nio.ByteBuffer

class MediaFormat {
    fun containsKey(name: String): Boolean = TODO()

    fun getInteger(name: String): Int = TODO()

    fun getString(name: String): String? = TODO()

    fun setInteger(name: String, value: Int): Unit = TODO()

    companion object {
        const val KEY_MIME = "mime"
        const val KEY_COLOR_FORMAT = "color-format"
        const val KEY_COLOR_RANGE = "color-range"
        const val KEY_COLOR_STANDARD = "color-standard"
        const val KEY_ROTATION = "rotation-degrees"
        const val COLOR_STANDARD_BT709 = 1
        const val COLOR_STANDARD_BT2020 = 6
        const val COLOR_RANGE_FULL = 1
    }
}

class MediaExtractor {
    val trackCount: Int get() = TODO()
    val sampleTrackIndex: Int get() = TODO()
    val sampleTime: Long get() = TODO()
    val sampleFlags: Int get() = TODO()

    fun setDataSource(path: String): Unit = TODO()

    fun setDataSource(context: Context, uri: Uri, headers: Map<String, String>?): Unit = TODO()

    fun getTrackFormat(index: Int): MediaFormat = TODO()

    fun selectTrack(index: Int): Unit = TODO()

    fun seekTo(timeUs: Long, mode: Int): Unit = TODO()

    fun advance(): Boolean = TODO()

    fun readSampleData(byteBuf: ByteBuffer, offset: Int): Int = TODO()

    fun release(): Unit = TODO()

    companion object {
        const val SAMPLE_FLAG_SYNC = 1
        const val SEEK_TO_PREVIOUS_SYNC = 0
    }
}

abstract class MediaCrypto

class MediaCodecInfo {
    class CodecCapabilities {
        companion object {
            const val COLOR_FormatYUV420Flexible = 0x7F420888
        }
    }
}

class MediaCodecList(kind: Int) {
    fun findDecoderForFormat(format: MediaFormat): String? = TODO()

    companion object {
        const val REGULAR_CODECS = 0
    }
}

abstract class Image {
    abstract val format: Int
    abstract val planes: Array<Plane>
    val cropRect: Rect get() = TODO()

    abstract class Plane {
        abstract val buffer: ByteBuffer
        abstract val rowStride: Int
        abstract val pixelStride: Int
    }
}

class MediaCodec private constructor() {
    fun configure(format: MediaFormat?, surface: Surface?, crypto: MediaCrypto?, flags: Int): Unit = TODO()

    fun start(): Unit = TODO()

    fun flush(): Unit = TODO()

    fun release(): Unit = TODO()

    fun dequeueInputBuffer(timeoutUs: Long): Int = TODO()

    fun getInputBuffer(index: Int): ByteBuffer? = TODO()

    fun queueInputBuffer(index: Int, offset: Int, size: Int, presentationTimeUs: Long, flags: Int): Unit = TODO()

    fun dequeueOutputBuffer(info: BufferInfo, timeoutUs: Long): Int = TODO()

    fun getOutputImage(index: Int): Image? = TODO()

    fun getOutputFormat(index: Int): MediaFormat = TODO()

    fun releaseOutputBuffer(index: Int, render: Boolean): Unit = TODO()

    class BufferInfo {
        @JvmField
        var size: Int = 0

        @JvmField
        var presentationTimeUs: Long = 0

        @JvmField
        var flags: Int = 0
    }

    companion object {
        const val BUFFER_FLAG_END_OF_STREAM = 4

        @JvmStatic
        fun createByCodecName(name: String): MediaCodec = TODO()
    }
}

class MediaMetadataRetriever {
    fun setDataSource(path: String): Unit = TODO()

    fun setDataSource(context: Context, uri: Uri): Unit = TODO()

    fun getFrameAtIndex(frameIndex: Int, params: BitmapParams): Bitmap? = TODO()

    fun release(): Unit = TODO()

    class BitmapParams {
        var preferredConfig: Bitmap.Config
            get() = TODO()
            set(value) = TODO()
    }
}
