package org.mvgpt.videogpt

/**
 * Rows of every block that a video is prefilled in: the prefix, a frame's image tokens (padding frames too) for each frame, and
 * the video encoder's tokens.
 */
internal fun videoBlocks(prefix: Int, geometry: Geometry): List<Int> =
    listOf(prefix) + List(geometry.numFrames) { geometry.imageTokens } + geometry.numChunks * geometry.videoTokens

/**
 * A video on its way into the KV cache: the prefix at once, image tokens frame by frame, the rest at the end.
 *
 * Image tokens come first in the prompt and in the order of frames, and the decoder is causal: what is prefilled while the video
 * still runs is what would be prefilled afterwards. However frames arrive, the prefill's chunks are [chunkPlan] of [videoBlocks]:
 * the results are the same to the bit.
 *
 * @param lowMemory first all encoders, then the language model, which does not share memory with them: nothing is prefilled
 *     before [finish]
 * @param stats gets the metrics of the video
 * @param check called with the stage's name before every step; what it throws ends this video
 * @param started `System.nanoTime()` of the beginning, for `video_ready_ms`
 * @throws ContextFull the video does not fit the KV cache
 */
internal class Ingest(
    private val engine: Engine,
    geometry: Geometry,
    private val generator: Generator,
    private val prefixIds: List<Int>,
    private val lowMemory: Boolean,
    val stats: Stats,
    private val check: Check,
    private val started: Long,
) {
    private val encoder = VideoEncoder(engine, geometry, stats, check)
    private val clock = FrameClock()
    private var prefilled = 0 // of the encoder's blocks
    private var lastFrame = started

    init {
        generator.checkRoom(videoBlocks(prefixIds.size, geometry).sum())
        generator.rewind(0)
        if (lowMemory) Contract.LANGUAGE_STAGES.forEach(engine::unload) else prefill()
    }

    /** Load and run once what only [finish] needs, so that it takes no longer than it must. */
    fun prewarm() {
        if (lowMemory) return
        stats.timed("model_load_ms") {
            for (stage in FINISH_STAGES) {
                check(stage)
                engine.prewarm(stage)
            }
        }
    }

    /** Whether a live stream's frame is to be added; see [FrameClock]. */
    fun takes(timestampS: Double): Boolean {
        lastFrame = System.nanoTime()
        return clock.takes(timestampS)
    }

    /** Preprocess the next frame; its index. Throws, and nothing changes, if it is one too many. */
    fun prepare(frame: Frame): Int {
        lastFrame = System.nanoTime()
        return encoder.prepare(frame)
    }

    /** Encode and prefill the frame that was prepared last. A failure ends this video. */
    fun encode(index: Int) {
        encoder.encode(index)
        if (!lowMemory) prefill()
    }

    /** The KV cache now holds prefix and visual tokens. */
    fun finish(): EncodedVideo {
        val encoded = encoder.finish()
        if (lowMemory) Contract.ENCODER_STAGES.forEach(engine::unload)
        prefill()
        val tokens = generator.cached.toDouble()
        stats.add("video_ready_ms", msSince(started))
        stats.add("last_frame_to_ready_ms", msSince(lastFrame))
        stats.add("num_video_prefilled_tokens", tokens)
        stats.rate("video_prefill_tokens_per_s", tokens, stats["video_prefill_ms"] ?: 0.0)
        return encoded
    }

    /** Prefill what was encoded since the last time. */
    private fun prefill() {
        stats.timed("model_load_ms") { Contract.LANGUAGE_STAGES.forEach(engine::load) }
        stats.timed("video_prefill_ms") {
            if (generator.cached == 0 && prefixIds.isNotEmpty()) generator.prefill(generator.embed(prefixIds), check)
            for (block in encoder.blocks.drop(prefilled)) generator.prefill(block, check)
        }
        prefilled = encoder.blocks.size
    }
}
