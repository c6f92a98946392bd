package org.mvgpt.videogpt.android

import android.graphics.ImageFormat
import android.media.Image
import android.media.MediaCodec
import android.media.MediaCodecInfo.CodecCapabilities
import android.media.MediaCodecList
import android.media.MediaExtractor
import android.media.MediaFormat
import org.mvgpt.videogpt.Frame
import org.mvgpt.videogpt.media.ColourStandard
import org.mvgpt.videogpt.media.Crop
import org.mvgpt.videogpt.media.Plane
import org.mvgpt.videogpt.media.YuvToRgb
import java.io.Closeable
import java.io.IOException
import kotlin.math.abs

/** The decoder gives no 4:2:0 pictures of 8 bits, or there is none. */
internal class UnsupportedPicture(message: String, cause: Throwable? = null) : Exception(message, cause)

/**
 * MediaCodec, asked for one frame after the other in the order of time. Frames between are decoded, since others are made from
 * them, but not converted; where a frame that needs no other comes first, decoding goes on from there.
 *
 * @param extractor at its start, the track selected; belongs to this from now on, unless this throws.
 * @param syncTimes µs, ascending: where decoding can begin.
 * @throws UnsupportedPicture no decoder takes the format.
 */
internal class CodecFrames(private val extractor: MediaExtractor, format: MediaFormat, private val syncTimes: LongArray) :
    Closeable {
    private val codec: MediaCodec
    private val rotation = format.number(MediaFormat.KEY_ROTATION) ?: 0
    private val info = MediaCodec.BufferInfo()
    private var fedAll = false
    private var shown = -1L // time of the last frame that came out

    val name: String

    init {
        // The container's own format asks for a surface's layout; this one lets the app read the planes.
        format.setInteger(MediaFormat.KEY_COLOR_FORMAT, CodecCapabilities.COLOR_FormatYUV420Flexible)
        val mime = format.getString(MediaFormat.KEY_MIME)
        name = MediaCodecList(MediaCodecList.REGULAR_CODECS).findDecoderForFormat(format)
            ?: throw UnsupportedPicture("this phone decodes no $mime of this size and profile")
        codec = try {
            MediaCodec.createByCodecName(name)
        } catch (e: IOException) {
            throw UnsupportedPicture("$name cannot be started", e)
        }
        try {
            codec.configure(format, null, null, 0)
            codec.start()
        } catch (e: RuntimeException) {
            // IllegalArgumentException, MediaCodec.CodecException
            codec.release()
            throw UnsupportedPicture("$name refuses this video", e)
        }
    }

    /**
     * The frame at [timeUs], which must be after the one asked for before.
     *
     * @throws IllegalStateException it does not come out of the decoder.
     * @throws UnsupportedPicture it comes in a format that cannot be read.
     */
    fun frame(timeUs: Long): Frame {
        seekTowards(timeUs)
        val patience = System.nanoTime() + PATIENCE_NS
        while (true) {
            feed()
            val index = codec.dequeueOutputBuffer(info, WAIT_US)
            if (index < 0) { // nothing yet, or another format, which every buffer tells too
                check(System.nanoTime() < patience) { "$name gives no frame for ${PATIENCE_NS / 1_000_000_000} s" }
                continue
            }
            try {
                val last = info.flags and MediaCodec.BUFFER_FLAG_END_OF_STREAM != 0
                val time = info.presentationTimeUs
                if (info.size > 0) shown = time
                if (info.size > 0 && abs(time - timeUs) < SLACK_US) {
                    val image = codec.getOutputImage(index) ?: throw UnsupportedPicture("$name shows no planes")
                    return convert(image, codec.getOutputFormat(index))
                }
                check(!last) { "the video ends before it" }
                check(time < timeUs) { "the decoder left it out" }
            } finally {
                codec.releaseOutputBuffer(index, false)
            }
        }
    }

    override fun close() {
        codec.release()
        extractor.release()
    }

    private fun seekTowards(timeUs: Long) {
        val sync = syncTimes.lastOrNull { it <= timeUs } ?: return
        if (sync <= shown || (shown < 0 && sync == syncTimes.first())) return
        extractor.seekTo(sync, MediaExtractor.SEEK_TO_PREVIOUS_SYNC)
        if (shown >= 0 || fedAll) codec.flush()
        fedAll = false
    }

    private fun feed() {
        while (!fedAll) {
            val index = codec.dequeueInputBuffer(0)
            if (index < 0) return
            val buffer = checkNotNull(codec.getInputBuffer(index)) { "$name takes no input" }
            val size = extractor.readSampleData(buffer, 0)
            fedAll = size < 0
            if (fedAll) {
                codec.queueInputBuffer(index, 0, 0, 0, MediaCodec.BUFFER_FLAG_END_OF_STREAM)
            } else {
                codec.queueInputBuffer(index, 0, size, extractor.sampleTime, 0)
                extractor.advance()
            }
        }
    }

    private fun convert(image: Image, format: MediaFormat): Frame {
        if (image.format != ImageFormat.YUV_420_888) throw UnsupportedPicture("$name gives image format ${image.format}")
        // What a file does not say: as FFmpeg takes it, so as close to the desktop as can be.
        val standard = when (format.number(MediaFormat.KEY_COLOR_STANDARD)) {
            MediaFormat.COLOR_STANDARD_BT709 -> ColourStandard.BT709
            MediaFormat.COLOR_STANDARD_BT2020 -> ColourStandard.BT2020
            else -> ColourStandard.BT601
        }
        val fullRange = format.number(MediaFormat.KEY_COLOR_RANGE) == MediaFormat.COLOR_RANGE_FULL
        val (y, u, v) = image.planes.map { Plane(it.buffer, it.rowStride, it.pixelStride) }
        val crop = image.cropRect.let { Crop(it.left, it.top, it.width(), it.height()) }
        val rgb = YuvToRgb(standard, fullRange).convert(y, u, v, crop, rotation)
        val upright = rotation % 180 == 0
        return Frame(if (upright) crop.width else crop.height, if (upright) crop.height else crop.width, rgb)
    }

    private companion object {
        const val WAIT_US = 10_000L
        const val PATIENCE_NS = 10_000_000_000L
        const val SLACK_US = 500L // some decoders round times; frames are further apart
    }
}

private fun MediaFormat.number(key: String): Int? = if (containsKey(key)) getInteger(key) else null
