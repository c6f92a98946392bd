package org.mvgpt.videogpt

/** Not run on every frame: when a chunk is complete, or all frames are there. */
internal val FINISH_STAGES = listOf("frame_scorer", "video_encoder", "video_projector")

/**
 * A clip after all encoders.
 *
 * @property frames the preprocessed frames
 * @property clipFeatures float32 \[1, image_patches, image_width] of every frame, padding too
 * @property frameScores float32 \[chunk_frames] of every chunk
 * @property selected int64 \[select_k] of every chunk: indices into it, in time order
 * @property videoFeatures float32 \[num_chunks, video_patches, video_width]
 * @property visualTokens float32 \[visual_tokens, hidden_size] in blocks, in the order of the prompt: image_tokens rows of every
 *     frame, then the video encoder's
 * @property keyFrames which of the sampled frames the video encoder saw, in time order
 */
class EncodedVideo internal constructor(
    val frames: ClipFrames,
    val clipFeatures: List<Tensor>,
    val frameScores: List<Tensor>,
    val selected: List<Tensor>,
    val videoFeatures: Tensor,
    val visualTokens: List<Tensor>,
    val keyFrames: List<Int>,
)

/**
 * Runs the encoder stages as frames arrive, picks key frames. No arithmetic on features: the graphs do it, and this only moves
 * arrays.
 *
 * @param check called before every step; after it threw, the encoder is of no use
 */
internal class VideoEncoder(
    private val engine: Engine,
    private val geometry: Geometry,
    private val stats: Stats,
    private val check: Check,
) {
    val frames = ClipFrames(geometry.imageSize, geometry.numFrames)

    /** Visual tokens so far, float32 \[n, hidden_size] each: also the chunks that are prefilled. */
    val blocks = ArrayList<Tensor>()
    private val features = ArrayList<Tensor>()
    private val scores = ArrayList<Tensor>() // of the chunks so far
    private val selected = ArrayList<Tensor>()

    /** Preprocess the next frame; its index. Throws for one too many. */
    fun prepare(frame: Frame): Int = stats.timed("preprocess_ms") { frames.add(frame) }

    /** Run the image stages on frame `i`, and the scorer when that completes a chunk. */
    fun encode(i: Int) {
        val feature = run("image_encoder", frames.clipPixels.rows(i, 1), frames.mask.rows(i, 1))[0]
        val tokens = run("image_projector", feature)[0]
        features += feature
        blocks += tokens.reshaped(geometry.imageTokens, geometry.hiddenSize)
        score()
    }

    /** Encode the padding frames and what needs all frames. Throws if there was none. */
    fun finish(): EncodedVideo {
        frames.checkNotEmpty()
        val missing = geometry.numFrames - frames.count
        if (missing > 0) {
            encode(frames.count)
            // All padding frames are the same input: one run stands for all.
            repeat(missing - 1) {
                features += features.last()
                blocks += blocks.last()
            }
            score()
        }
        val key =
            selected.flatMapIndexed { chunk, indices -> indices.toLongs().map { chunk * geometry.chunkFrames + it.toInt() } }
        val pixels = concatenated(key.map { frames.videoPixels.rows(it, 1) })
        val mask = concatenated(key.map { frames.mask.rows(it, 1) })
        val videoFeatures = run("video_encoder", pixels, mask)[0]
        val videoTokens = run("video_projector", videoFeatures)[0]
        blocks += videoTokens.reshaped(geometry.numChunks * geometry.videoTokens, geometry.hiddenSize)
        return EncodedVideo(frames, features, scores, selected, videoFeatures, blocks, key)
    }

    /** Score the chunks that are complete: a live video's end then waits for the last one only. */
    private fun score() {
        val size = geometry.chunkFrames
        while (features.size >= (scores.size + 1) * size) {
            val first = scores.size * size
            val outputs = run("frame_scorer", concatenated(features.subList(first, first + size)))
            scores += outputs[0]
            selected += outputs[1]
        }
    }

    private fun run(stage: String, vararg inputs: Tensor): List<Tensor> {
        check(stage)
        stats.timed("model_load_ms") { engine.load(stage) }
        return stats.timed("${stage}_ms") { engine.run(stage, inputs.asList()) }
    }
}
