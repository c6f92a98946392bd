package org.mvgpt.videogpt

/**
 * One upright RGB picture.
 *
 * @property rgb uint8 \[height, width, 3], rows from the top, channels interleaved
 * @throws MvgptException (stage "preprocess") `rgb` is not so long
 */
class Frame(val width: Int, val height: Int, val rgb: ByteArray) {
    init {
        if (width < 1 || height < 1 || rgb.size.toLong() != 3L * width * height) {
            throw MvgptException(
                "this is not a frame",
                "preprocess",
                expected = "uint8 [H, W, 3] with at least one pixel",
                got = "${rgb.size} bytes for [$height, $width, 3]",
            )
        }
    }
}

/** A clip that can be decoded: a video file, or frames in memory. */
interface FrameSource {
    /** Frames that a player shows. */
    val numFrames: Int

    /** Frames per second, on average. */
    val fps: Double

    /**
     * Decode the frames at `indices` (strictly increasing, each below [numFrames]), one at a time as they are asked for. Whoever
     * asks may stop before the end; a source that holds a decoder until then is closed by whoever opened it.
     *
     * @throws MvgptException (stage "video") a frame cannot be decoded
     */
    fun frames(indices: List<Int>): Sequence<Frame>
}

/** Where a video's frames were sampled. */
data class Clip(val indices: List<Int>, val fps: Double, val numFrames: Int)

/** Both preprocessed streams of a clip of at most `numFrames` frames of `size` x `size`, filled frame by frame. */
class ClipFrames internal constructor(val size: Int, val numFrames: Int) {
    /** For the image encoder: uint8 \[numFrames, size, size, 3]. */
    val clipPixels: Tensor = Tensor.allocate(DType.UINT8, numFrames, size, size, 3)

    /** For the video encoder: uint8 \[numFrames, size, size, 3]. */
    val videoPixels: Tensor = Tensor.allocate(DType.UINT8, numFrames, size, size, 3)

    /** float32 \[numFrames], 1 for a frame and 0 for padding (which the graphs turn to zeros after normalising). */
    val mask: Tensor = Tensor.allocate(DType.FLOAT32, numFrames)

    /** Frames so far. */
    var count: Int = 0
        private set

    /** Preprocess the next frame; its index. */
    internal fun add(frame: Frame): Int {
        if (count == numFrames) {
            throw MvgptException(
                "too many frames",
                "preprocess",
                expected = "at most $numFrames",
                got = "another one",
                remedy = "finish this video, and begin a new one for what follows",
            )
        }
        clipPixels.rows(count, 1).data.put(resizeClip(frame, size))
        videoPixels.rows(count, 1).data.put(resizeVideo(frame, size))
        mask.data.putFloat(count * DType.FLOAT32.bytes, 1f)
        return count++
    }

    internal fun checkNotEmpty() {
        if (count == 0) throw MvgptException("no frames", "preprocess", expected = "1 to $numFrames frames", got = 0)
    }
}
