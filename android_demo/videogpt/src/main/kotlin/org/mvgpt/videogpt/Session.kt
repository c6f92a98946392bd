package org.mvgpt.videogpt

import kotlinx.coroutines.CoroutineDispatcher
import java.io.Closeable

/** Called with a stage's name before each of its steps, on the engine's thread. */
typealias Progress = (stage: String) -> Unit

/**
 * One bundle, one video at a time, any number of questions.
 *
 * ```
 * val bundle = Bundle.open(File(context.filesDir, "half"))
 * Session.open(bundle, ExecuTorchEngine(bundle)).use { session ->
 *     session.loadVideo(source)
 *     val answer = session.ask("What happens in this video?")
 *     answer.collect { token -> print(token.text) }
 *     println("\n${answer.finishReason}, ${answer.stats["decode_tokens_per_s"]} tokens/s")
 *     session.ask("Why?", keepHistory = true).collect { print(it.text) }
 * }
 * ```
 *
 * A video is paid for once: loading it leaves prefix and visual tokens in the KV cache, and a question adds only itself. It is
 * loaded whole ([loadVideo], [loadFrames]) or as its frames arrive ([begin], [addFrame], [finish]); both are the same steps.
 * These overwrite the KV cache: from their beginning the previous video is gone, and if they fail or are cancelled, no video is
 * loaded.
 *
 * An engine takes one call at a time, so everything runs on one thread, that of the dispatcher given to [open]; functions may be
 * called from any coroutine. Two ways stop what runs before its next step (a frame, a prefill chunk, a token): cancelling the
 * calling coroutine, which then ends as any cancelled one, and [cancel], after which loading throws [Cancelled] and an answer
 * ends with [FinishReason.CANCELLED].
 */
class Session private constructor(
    val bundle: Bundle,
    private val engine: Engine,
    val lowMemory: Boolean,
    private val thread: EngineThread,
    private val prompt: Prompt?,
) : Closeable {
    val geometry: Geometry = bundle.geometry
    private val generator = Generator(engine, geometry)
    private var ingest: Ingest? = null // of a video that was begun

    @Volatile
    private var conversation: Conversation? = null // about the loaded video

    /** Where [loadVideo] sampled the loaded video's frames. */
    @Volatile
    var clip: Clip? = null
        private set

    /** The loaded video after all encoders. */
    val video: EncodedVideo? get() = conversation?.video

    /** Metrics of loading the video, by the contract's names; they are also in every answer's. */
    val videoStats: Map<String, Double> get() = loaded().stats.toMap()

    /**
     * Load a clip (or its part from `startS` to `endS`, seconds); questions are then about it. Which frames were sampled is in
     * [clip].
     *
     * @throws MvgptException times that do not fit the clip (the previous video stays loaded), frames that cannot be decoded
     *     (none does)
     * @throws Cancelled [cancel] was called meanwhile; no video is loaded
     */
    suspend fun loadVideo(
        source: FrameSource,
        startS: Double? = null,
        endS: Double? = null,
        progress: Progress = {},
    ): EncodedVideo =
        thread.run {
            val started = System.nanoTime()
            val stats = Stats()
            val indices =
                stats.timed("video_decode_ms") {
                    sampleIndices(source.numFrames, source.fps, startS, endS, geometry.numFrames)
                }
            begin(stats, progress, started)
            val decoded = source.frames(indices).iterator()
            val frames =
                generateSequence {
                    stats.timed("video_decode_ms") { if (decoded.hasNext()) decoded.next() else null }
                }
            load(frames.asIterable()).also { clip = Clip(indices, source.fps, source.numFrames) }
        }

    /** The same for 1 to num_frames decoded frames. */
    suspend fun loadFrames(frames: Iterable<Frame>, progress: Progress = {}): EncodedVideo =
        thread.run {
            begin(Stats(), progress, System.nanoTime())
            load(frames)
        }

    /**
     * Begin a video whose frames arrive one by one; one that was begun before is dropped. What only [finish] needs is loaded and
     * run once now, when nobody waits yet; not with `lowMemory`.
     *
     * @throws MvgptException the bundle has no tokenizer
     * @throws Cancelled see [loadVideo]
     */
    suspend fun begin(progress: Progress = {}) =
        thread.run {
            begin(Stats(), progress, System.nanoTime())
            begun().prewarm()
        }

    /**
     * Take the next frame of a stream, if a second has passed since the last one taken: encode and prefill it.
     *
     * @param timestampS seconds from any origin; [FrameClock] decides by it
     * @return whether the frame was taken
     * @throws MvgptException nothing was begun; no such timestamp; more than num_frames frames are to be taken. After the last
     *     two, the video can go on without this frame.
     * @throws Cancelled [cancel] was called since [begin]; no video is begun any more
     */
    suspend fun addFrame(frame: Frame, timestampS: Double): Boolean =
        thread.run {
            val current = begun()
            if (!current.takes(timestampS)) return@run false
            val index = current.prepare(frame)
            ingest = null // if the next step ends half-way
            current.encode(index)
            ingest = current
            true
        }

    /**
     * Load what was begun: select frames, encode the video, prefill the rest. Questions are then about it.
     *
     * @throws MvgptException nothing was begun, or no frame was added
     * @throws Cancelled see [loadVideo]
     */
    suspend fun finish(): EncodedVideo = thread.run { load(emptyList()) }

    /**
     * A question about the loaded video: collect the answer for tokens as they are generated; nothing runs before. What is not
     * given is the manifest's default; [SamplingOptions] explains the options.
     *
     * @param keepHistory go on after the questions and answers before, as far as they came. Otherwise the conversation starts
     *     over, and only the video is kept.
     * @param maxNewTokens most tokens to generate
     * @throws MvgptException bad options; collecting throws what [Answer] says
     */
    fun ask(
        question: String,
        keepHistory: Boolean = false,
        maxNewTokens: Int? = null,
        temperature: Double? = null,
        topP: Double? = null,
        topK: Int? = null,
        repetitionPenalty: Double? = null,
        seed: Long = 0,
    ): Answer {
        val defaults = bundle.manifest.sampling
        val options =
            SamplingOptions(
                temperature ?: defaults.temperature,
                topP ?: defaults.topP,
                topK ?: defaults.topK,
                repetitionPenalty ?: defaults.repetitionPenalty,
                seed,
            )
        val limit = maxNewTokens ?: defaults.maxNewTokens
        if (limit < 1) throw MvgptException("bad maxNewTokens", "session", expected = "≥ 1", got = limit)
        return Answer(thread, ::loaded, question, keepHistory, limit, options)
    }

    /** Where the conversation stands: just a position in the KV cache, nothing is copied. */
    suspend fun snapshot(): Snapshot = thread.run { loaded().snapshot() }

    /**
     * Take the conversation back to a snapshot; `ask(…, keepHistory = true)` goes on from there.
     *
     * @throws MvgptException the KV cache no longer holds it: another video was loaded, or the conversation went back further and
     *     took another way
     */
    suspend fun restore(snapshot: Snapshot) = thread.run { loaded().restore(snapshot) }

    /** Stop loading or answering before its next step. From any thread. */
    fun cancel() = thread.cancel()

    /** Stop what runs, wait for its step to end, and close the engine. From any thread. */
    override fun close() = thread.close(engine::close)

    private fun begin(stats: Stats, progress: Progress, started: Long) {
        val required = prompt ?: Prompt.of(bundle) // which throws: the bundle has no tokenizer
        thread.begin()
        conversation?.close()
        conversation = null
        ingest = null
        clip = null
        val check = { stage: String ->
            progress(stage)
            thread.check(stage)
        }
        ingest = Ingest(engine, geometry, generator, required.prefixIds, lowMemory, stats, check, started)
    }

    /** Finish what was begun with these frames. */
    private fun load(frames: Iterable<Frame>): EncodedVideo {
        val current = begun()
        ingest = null // if the next steps end half-way
        // All frames first: a decoder that is asked slowly decodes ahead, and holds more than the encoders do.
        for (index in frames.map(current::prepare)) current.encode(index)
        val encoded = current.finish()
        conversation = Conversation(encoded, current.stats, checkNotNull(prompt), generator)
        return encoded
    }

    private fun begun(): Ingest = ingest ?: throw MvgptException("no video was begun", "session", remedy = "call begin first")

    private fun loaded(): Conversation =
        conversation
            ?: throw MvgptException("no video is loaded", "session", remedy = "call loadVideo, or begin, addFrame and finish")

    companion object {
        /**
         * @param engine runs the stages; the session closes it
         * @param lowMemory unload the encoders before the language model runs, and it before them. All of a video is then
         *     prefilled at its end, frames that arrive live too.
         * @param dispatcher of one thread, where engine, decoder and [Progress] run (null: a thread of the session's own)
         * @throws MvgptException a tokenizer that is malformed
         */
        suspend fun open(
            bundle: Bundle,
            engine: Engine,
            lowMemory: Boolean = false,
            dispatcher: CoroutineDispatcher? = null,
        ): Session {
            val thread = EngineThread(dispatcher)
            try {
                val prompt = thread.run { if (bundle.manifest.tokenizer == null) null else Prompt.of(bundle) }
                return Session(bundle, engine, lowMemory, thread, prompt)
            } catch (e: Throwable) {
                thread.close {}
                throw e
            }
        }
    }
}
