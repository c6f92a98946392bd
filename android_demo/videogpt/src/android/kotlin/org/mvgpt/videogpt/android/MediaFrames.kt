package org.mvgpt.videogpt.android

import android.content.Context
import android.graphics.Bitmap
import android.media.MediaExtractor
import android.media.MediaFormat
import android.media.MediaMetadataRetriever
import android.net.Uri
import android.os.Build
import org.mvgpt.videogpt.Frame
import org.mvgpt.videogpt.FrameSource
import org.mvgpt.videogpt.MvgptException
import java.io.Closeable
import java.io.File
import java.io.IOException

private const val STAGE = "video"
private const val CONVERT =
    "if a player shows it, convert it: ffmpeg -i INPUT -c:v libx264 -pix_fmt yuv420p OUTPUT.mp4"

/**
 * Step 1 on Android: a video file becomes upright RGB frames, by the phone's own decoder ([CodecFrames]). Where that gives no
 * 4:2:0 pictures of 8 bits (10-bit HDR, say), MediaMetadataRetriever decodes, which is slower and maps HDR as it sees fit;
 * [decoder] says who it was.
 *
 * Pixels are not those of a desktop to the last bit, nor those of another phone: decoders round differently, chroma is
 * interpolated or not, and which edit lists are followed is the system's choice. Key frames with close scores may differ by it.
 *
 * Not thread-safe. [close] it: sequences that were not read to their end hold a decoder.
 */
class MediaFrames private constructor(
    private val openExtractor: () -> MediaExtractor,
    private val openRetriever: () -> MediaMetadataRetriever,
    private val name: String,
) : FrameSource,
    Closeable {
    private val track: Int
    private val format: MediaFormat
    private val times: LongArray // µs of every frame that a player shows, ascending
    private val syncTimes: LongArray // of those among them where decoding can begin
    private var open: Closeable? = null

    override val numFrames: Int get() = times.size
    override val fps: Double

    /** Who decodes, as the system calls it; null before the first frame. */
    var decoder: String? = null
        private set

    init {
        val extractor = openExtractor()
        try {
            track = (0 until extractor.trackCount).firstOrNull { isVideo(extractor.getTrackFormat(it)) }
                ?: throw error("this file has no video", "a video track", "${extractor.trackCount} other tracks")
            format = extractor.getTrackFormat(track)
            extractor.selectTrack(track)
            val samples = samples(extractor)
            times = samples.map { it.first }.toLongArray()
            syncTimes = samples.filter { it.second }.map { it.first }.toLongArray()
        } finally {
            extractor.release()
        }
        if (times.isEmpty()) throw error("this video has no frames", ">= 1 frame", 0)
        val span = times.last() - times.first()
        fps = if (span > 0) (times.size - 1) * 1e6 / span else 1.0
    }

    override fun frames(indices: List<Int>): Sequence<Frame> =
        sequence {
            close()
            val codec = startCodec()
            if (codec == null) {
                yieldAll(retrieved(indices))
                return@sequence
            }
            open = codec
            decoder = codec.name
            for ((position, index) in indices.withIndex()) {
                val frame = try {
                    codec.frame(times[index])
                } catch (e: UnsupportedPicture) {
                    if (position > 0) throw error("frame $index has another pixel format", "8-bit 4:2:0", e.message, e)
                    null
                } catch (e: IllegalStateException) {
                    // MediaCodec.CodecException too
                    throw error("frame $index cannot be decoded", "a video whose frames decode", e.message, e)
                }
                if (frame == null) {
                    close()
                    yieldAll(retrieved(indices))
                    return@sequence
                }
                yield(frame)
            }
            close()
        }

    /** Release the decoder. Frames can be asked for again. */
    override fun close() {
        open?.close()
        open = null
    }

    private fun startCodec(): CodecFrames? {
        val extractor = openExtractor()
        extractor.selectTrack(track)
        return try {
            CodecFrames(extractor, format, syncTimes)
        } catch (e: UnsupportedPicture) {
            extractor.release()
            null
        }
    }

    private fun retrieved(indices: List<Int>): Sequence<Frame> =
        sequence {
            if (Build.VERSION.SDK_INT < Build.VERSION_CODES.P) {
                throw error("this phone has no decoder for this video", "8-bit 4:2:0", format)
            }
            val retriever = openRetriever()
            open = Closeable { retriever.release() }
            decoder = "MediaMetadataRetriever"
            val parameters = MediaMetadataRetriever.BitmapParams().apply { preferredConfig = Bitmap.Config.ARGB_8888 }
            for (index in indices) {
                val bitmap = try {
                    retriever.getFrameAtIndex(index, parameters)
                } catch (e: RuntimeException) {
                    // IllegalStateException, IllegalArgumentException
                    throw error("frame $index cannot be decoded", "$numFrames frames", e.message, e)
                }
                yield(toFrame(bitmap ?: throw error("frame $index cannot be decoded", "$numFrames frames", "nothing")))
                bitmap.recycle()
            }
            close()
        }

    private fun error(what: String, expected: Any, got: Any?, cause: Throwable? = null) =
        MvgptException("$what: $name", STAGE, expected, got, CONVERT, cause)

    companion object {
        /** @throws MvgptException the file cannot be read, or has no video with frames. */
        fun open(file: File): MediaFrames {
            val path = file.absolutePath
            if (!file.isFile) throw MvgptException("no such video", STAGE, expected = "a file", got = path)
            return MediaFrames(
                { extractor(path) { setDataSource(path) } },
                { MediaMetadataRetriever().apply { setDataSource(path) } },
                path,
            )
        }

        /**
         * @param uri of a content provider, as a picker gives it; the right to read it must last while this is open.
         * @throws MvgptException it cannot be read, or has no video with frames.
         */
        fun open(context: Context, uri: Uri): MediaFrames =
            MediaFrames(
                { extractor("$uri") { setDataSource(context, uri, null) } },
                { MediaMetadataRetriever().apply { setDataSource(context, uri) } },
                "$uri",
            )

        private fun extractor(name: String, setSource: MediaExtractor.() -> Unit): MediaExtractor {
            val extractor = MediaExtractor()
            return try {
                extractor.apply(setSource)
            } catch (e: Exception) {
                // IOException, SecurityException, IllegalArgumentException
                extractor.release()
                if (e !is IOException && e !is RuntimeException) throw e
                throw MvgptException(
                    "this video cannot be opened: $name",
                    STAGE,
                    expected = "MP4, MOV, MKV or WebM",
                    got = e.message,
                    remedy = CONVERT,
                    cause = e,
                )
            }
        }
    }
}

private fun isVideo(format: MediaFormat) = format.getString(MediaFormat.KEY_MIME)?.startsWith("video/") == true

/** Time (µs) of every frame from 0 on, ascending, and whether decoding can begin there. Nothing is decoded. */
private fun samples(extractor: MediaExtractor): List<Pair<Long, Boolean>> {
    val samples = ArrayList<Pair<Long, Boolean>>()
    while (extractor.sampleTrackIndex >= 0) {
        val sync = extractor.sampleFlags and MediaExtractor.SAMPLE_FLAG_SYNC != 0
        if (extractor.sampleTime >= 0) samples += extractor.sampleTime to sync // before 0: hidden by an edit list
        if (!extractor.advance()) break
    }
    return samples.sortedBy { it.first }
}

private fun toFrame(bitmap: Bitmap): Frame {
    val pixels = IntArray(bitmap.width * bitmap.height)
    bitmap.getPixels(pixels, 0, bitmap.width, 0, 0, bitmap.width, bitmap.height)
    val rgb = ByteArray(pixels.size * 3)
    for ((i, pixel) in pixels.withIndex()) {
        rgb[3 * i] = (pixel shr 16).toByte()
        rgb[3 * i + 1] = (pixel shr 8).toByte()
        rgb[3 * i + 2] = pixel.toByte()
    }
    return Frame(bitmap.width, bitmap.height, rgb)
}
