package org.mvgpt.videogpt

/** Called with a stage's name before each of its steps; throws to stop there. */
internal typealias Check = (stage: String) -> Unit

/** One text decoder call that prefills. */
internal data class Chunk(val startPos: Int, val rows: Int)

/**
 * Every text decoder call that prefills blocks of so many rows, the first one at `start`. Each block is cut at `prefillChunk`,
 * and no call holds rows of two blocks.
 */
internal fun chunkPlan(blocks: List<Int>, prefillChunk: Int, start: Int = 0): List<Chunk> {
    val plan = ArrayList<Chunk>()
    var position = start
    for (rows in blocks) {
        for (first in 0 until rows step prefillChunk) plan += Chunk(position + first, minOf(prefillChunk, rows - first))
        position += rows
    }
    return plan
}

/** Why an answer ended. */
enum class FinishReason {
    /** The model ended it. */
    STOP,

    /** `maxNewTokens`, or the KV cache is full. */
    LENGTH,

    /** The caller stopped it. */
    CANCELLED,
}

/** What a decode step comes to. */
internal sealed interface Step {
    data class Chosen(val id: Int) : Step

    data class Ended(val reason: FinishReason) : Step
}

/** The language model's two stages as one thing: embeds, prefills and decodes. */
internal class Generator(private val engine: Engine, private val geometry: Geometry) {
    /** Rows that the KV cache holds, from position 0; the next one goes there. */
    var cached: Int = 0
        private set

    /** Embeddings float32 \[ids.size ≥ 1, hidden_size]. */
    fun embed(ids: List<Int>): Tensor {
        if (ids.any { it !in 0 until geometry.vocabSize }) {
            throw MvgptException(
                "token id outside the vocabulary",
                "token_embedding",
                expected = "0 … ${geometry.vocabSize - 1}",
                got = "${ids.min()} … ${ids.max()}",
            )
        }
        val parts =
            ids.chunked(geometry.prefillChunk).map { part ->
                val tokens = Tensor.longs(LongArray(part.size) { part[it].toLong() }, 1, part.size)
                engine.run("token_embedding", listOf(tokens))[0].reshaped(part.size, geometry.hiddenSize)
            }
        return parts.singleOrNull() ?: concatenated(parts)
    }

    /**
     * Write rows float32 \[n ≥ 1, hidden_size] after the cached ones; logits float32 \[vocab_size] of the last. What `check`
     * throws goes through, and the chunks before are in the KV cache.
     *
     * @throws ContextFull they do not fit
     */
    fun prefill(rows: Tensor, check: Check): FloatArray {
        checkRoom(cached + rows.shape[0])
        val first = cached
        var logits: Tensor? = null
        for ((start, count) in chunkPlan(listOf(rows.shape[0]), geometry.prefillChunk, first)) {
            check("text_decoder")
            logits = append(rows.rows(start - first, count))
        }
        return requireNotNull(logits) { "no rows" }.toFloats()
    }

    /**
     * Token ids as they are chosen, each when it is asked for, then one end.
     *
     * `logits` are those of the last row in the KV cache. LENGTH is also the end of the KV cache. A token's row is written when
     * another token is wanted: the last one's may be missing at the end, a stop token's always is.
     */
    fun decode(
        logits: FloatArray,
        stopIds: Set<Int>,
        maxNewTokens: Int,
        stats: Stats,
        cancelled: () -> Boolean,
        choose: (FloatArray) -> Int,
    ): Iterator<Step> =
        iterator {
            var scores = logits
            var token: Int? = null
            var end = FinishReason.LENGTH
            for (i in 0 until maxNewTokens) {
                if (cancelled()) {
                    end = FinishReason.CANCELLED
                    break
                }
                if (token != null) {
                    if (cached == geometry.maxContext) break
                    scores = append(embed(listOf(token))).toFloats()
                }
                val chosen = stats.timed("aggregate_sampling_time_ms") { choose(scores) }
                if (chosen in stopIds) {
                    end = FinishReason.STOP
                    break
                }
                yield(Step.Chosen(chosen))
                token = chosen
            }
            yield(Step.Ended(end))
        }

    /** Give up the rows from `position` on. */
    fun rewind(position: Int) {
        cached = minOf(cached, position)
    }

    /** @throws ContextFull a prompt of so many positions does not fit the KV cache */
    fun checkRoom(positions: Int) {
        if (positions > geometry.maxContext) throw ContextFull(positions, geometry.maxContext)
    }

    private fun append(rows: Tensor): Tensor {
        val count = rows.shape[0]
        val start = Tensor.longs(longArrayOf(cached.toLong()), 1)
        val logits = engine.run("text_decoder", listOf(rows.reshaped(1, count, geometry.hiddenSize), start))[0]
        cached += count
        return logits
    }
}
