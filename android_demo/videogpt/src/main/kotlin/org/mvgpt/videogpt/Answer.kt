package org.mvgpt.videogpt

import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.FlowCollector
import kotlinx.coroutines.flow.flow
import java.util.concurrent.atomic.AtomicBoolean

/** One generated token; `text` is what it completes (may be empty), and `toString()` is that text. */
data class Token(val id: Int, val text: String) {
    override fun toString(): String = text
}

/**
 * Made by [Session.ask]: a cold flow of tokens, each generated when the one before it has been collected. It can be collected
 * once. Afterwards [text], [tokenIds], [finishReason] and [stats] are whole; while it is collected, they are as far as it came.
 *
 * Question and answer then belong to the conversation, as far as the answer came. A collector that stops (`take`, cancelling its
 * coroutine) ends it before the next token.
 *
 * Collecting throws [MvgptException] if no video is loaded, the question is empty, the answer was collected before, or the
 * session went on to something else meanwhile; [ContextFull] if the prompt does not fit the KV cache (it says by how much).
 */
class Answer internal constructor(
    private val thread: EngineThread,
    private val loaded: () -> Conversation,
    private val question: String,
    private val keepHistory: Boolean,
    private val maxNewTokens: Int,
    private val options: SamplingOptions,
) : Flow<Token> {
    private val collected = AtomicBoolean()
    private val ownStats = Stats()
    private var decodeSteps = 0

    @Volatile
    private var stream: TextStream? = null

    /** The prompt's text ids before and after the visual tokens; with earlier turns, if any. Empty until collected. */
    @Volatile
    var prefixIds: List<Int> = emptyList()
        private set

    /** See [prefixIds]. */
    @Volatile
    var suffixIds: List<Int> = emptyList()
        private set

    /** Generated so far, without the token that stopped them. */
    @Volatile
    var tokenIds: List<Int> = emptyList()
        private set

    /** Null until it ended. */
    @Volatile
    var finishReason: FinishReason? = null
        private set

    /** Metrics of this answer and of its video, by the contract's names; empty until it ended. */
    @Volatile
    var stats: Map<String, Double> = emptyMap()
        private set

    /** The answer so far. */
    val text: String get() = stream?.text.orEmpty()

    private val tokens: Flow<Token> =
        flow {
            if (!collected.compareAndSet(false, true)) {
                throw MvgptException("this answer was collected already", "session", remedy = "ask again")
            }
            val started = System.nanoTime()
            var run: Run? = null
            try {
                run = thread.run { Run(loaded(), started) }
                while (finishReason == null) {
                    val token = thread.run { run.next() } ?: break
                    emit(token)
                }
            } finally {
                if (run != null) {
                    finishReason = finishReason ?: FinishReason.CANCELLED // the collector left, or an error
                    run.finishStats()
                }
            }
        }

    override suspend fun collect(collector: FlowCollector<Token>) = tokens.collect(collector)

    /** The answer in the making; everything here runs on the engine's thread. */
    private inner class Run(private val conversation: Conversation, private val started: Long) {
        private val prompt = conversation.prompt
        private val text = TextStream(prompt.tokenizer).also { stream = it }
        private val turn: Long
        private var steps: Iterator<Step>? = null

        init {
            val history = if (keepHistory) conversation.ids.toList() else emptyList()
            val asked = if (history.isEmpty()) prompt.suffixIds(question) else prompt.nextTurnIds(question)
            prefixIds = prompt.prefixIds
            suffixIds = history + asked
            val needed = conversation.start + suffixIds.size
            conversation.generator.checkRoom(needed)
            ownStats.add("num_prompt_tokens", needed.toDouble())
            thread.begin()
            turn = conversation.beginTurn(history.size)
            conversation.say(asked)
        }

        /** The next token; null at the end. */
        fun next(): Token? {
            conversation.check(turn)
            val before = System.nanoTime()
            val step =
                try {
                    (steps ?: decode(prefill()).also { steps = it }).next()
                } catch (e: Cancelled) {
                    finishReason = FinishReason.CANCELLED
                    return null
                }
            if (ownStats["time_to_first_token_ms"] == null) {
                ownStats.add("time_to_first_token_ms", msSince(started))
            } else if (step is Step.Chosen || step == Step.Ended(FinishReason.STOP)) {
                // Only the step is timed, not what the collector does with its token.
                ownStats.add("token_generation_ms", msSince(before))
                decodeSteps++
            }
            return when (step) {
                is Step.Chosen -> {
                    tokenIds = tokenIds + step.id
                    conversation.say(listOf(step.id))
                    Token(step.id, text.push(step.id))
                }

                is Step.Ended -> {
                    finishReason = step.reason
                    text.finish().takeIf { it.isNotEmpty() }?.let { Token(tokenIds.last(), it) }
                }
            }
        }

        /** What the KV cache does not hold: the question, and before it what a cut-off turn left out. */
        private fun prefill(): FloatArray {
            val generator = conversation.generator
            val rest = suffixIds.drop(generator.cached - conversation.start)
            ownStats.add("num_prefilled_tokens", rest.size.toDouble())
            return ownStats.timed("prompt_eval_ms") { generator.prefill(generator.embed(rest), thread::check) }
        }

        private fun decode(logits: FloatArray): Iterator<Step> {
            val sampler = Sampler(options, prefixIds + suffixIds)
            return conversation.generator.decode(
                logits,
                prompt.stopIds,
                maxNewTokens,
                ownStats,
                thread::cancelled,
                sampler::choose,
            )
        }

        fun finishStats() {
            ownStats.add("num_generated_tokens", tokenIds.size.toDouble())
            ownStats.rate("prefill_tokens_per_s", ownStats["num_prefilled_tokens"] ?: 0.0, ownStats["prompt_eval_ms"] ?: 0.0)
            ownStats.rate("decode_tokens_per_s", decodeSteps.toDouble(), ownStats["token_generation_ms"] ?: 0.0)
            peakRssBytes()?.let { ownStats.add("peak_rss_bytes", it.toDouble()) }
            stats = (conversation.stats + ownStats).toMap()
        }
    }
}
