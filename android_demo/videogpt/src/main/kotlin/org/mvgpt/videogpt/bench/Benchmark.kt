package org.mvgpt.videogpt.bench

import kotlinx.coroutines.CoroutineDispatcher
import kotlinx.coroutines.asCoroutineDispatcher
import kotlinx.coroutines.withContext
import org.mvgpt.videogpt.Bundle
import org.mvgpt.videogpt.ContextFull
import org.mvgpt.videogpt.Contract
import org.mvgpt.videogpt.Engine
import org.mvgpt.videogpt.FrameSource
import org.mvgpt.videogpt.Geometry
import org.mvgpt.videogpt.MvgptException
import org.mvgpt.videogpt.Prompt
import org.mvgpt.videogpt.Session
import org.mvgpt.videogpt.Tensor
import org.mvgpt.videogpt.reshaped
import org.mvgpt.videogpt.rows
import org.mvgpt.videogpt.sampleIndices
import org.mvgpt.videogpt.sha256
import java.io.File
import java.time.OffsetDateTime
import java.time.ZoneOffset
import java.time.format.DateTimeFormatter
import java.util.concurrent.Executors

/** Called with a step's name, how many are done and how many there are, while nothing is timed. */
typealias BenchmarkProgress = (step: String, done: Int, total: Int) -> Unit

private val STEPS = listOf("load", "video", "questions", "stream", "language model")

/**
 * The protocol of docs/benchmark-protocol.md: one process, one session, every run the same steps in the same order.
 *
 * @param engine belongs to this from now on, with `threads` threads.
 * @param open opens the clip; it is called again for every run, and a source that is AutoCloseable is closed.
 * @param threads what the engine was made with (null: the backend's choice); it goes into the result.
 */
class Benchmark(
    private val bundle: Bundle,
    private val engine: Engine,
    private val machine: Machine,
    private val video: File,
    private val open: (File) -> FrameSource,
    private val threads: Int? = null,
    private val lowMemory: Boolean = false,
    private val prompt: String = PROMPT,
    private val repeats: Int = 5,
    private val warmup: Int = 1,
) {
    private val sizes = bundle.geometry
    private var peakBytes = 0L

    /**
     * Measure. The engine is closed afterwards.
     *
     * @throws MvgptException nothing to measure, no tokenizer, no such video, or a question too long for the KV cache; before
     *   anything runs.
     */
    suspend fun run(progress: BenchmarkProgress = { _, _, _ -> }): BenchmarkResult {
        // One thread for the session and for the stages that are called past it: an engine takes one call at a time.
        val thread = Executors.newSingleThreadExecutor { Thread(it, "mvgpt-bench") }.asCoroutineDispatcher()
        return thread.use {
            val (plan, session) = try {
                withContext(thread) { plan() } to Session.open(bundle, engine, lowMemory, thread)
            } catch (e: Throwable) {
                engine.close()
                throw e
            }
            session.use { measure(it, plan, thread, progress) }
        }
    }

    private suspend fun measure(
        session: Session,
        plan: Plan,
        thread: CoroutineDispatcher,
        progress: BenchmarkProgress,
    ): BenchmarkResult {
        val power = machine.power()
        val loadAverage = machine.loadAverage()
        val before = machine.thermal()
        val total = (warmup + repeats) * STEPS.size
        val runs = List(warmup + repeats) { index ->
            val which = if (index < warmup) "warm-up ${index + 1}" else "run ${index - warmup + 1} of $repeats"
            oneRun(session, plan, index, thread) { step, where ->
                progress("$which, $step$where", index * STEPS.size + STEPS.indexOf(step), total)
                peakBytes = maxOf(peakBytes, machine.memoryBytes())
            }
        }
        progress("done", total, total)
        return BenchmarkResult(
            app = machine.app,
            device = machine.device,
            os = machine.os,
            environment = Environment(power, before, runs.last().thermal, loadAverage, runs.all { it.load.coldMs != null }),
            model = model(),
            plan = plan,
            runs = runs,
            peakMemoryBytes = peakBytes,
            memoryMetric = machine.memoryMetric,
        )
    }

    /** Whatever can be refused is refused here. */
    private fun plan(): Plan {
        if (repeats < 1 || warmup < 0) {
            throw MvgptException("nothing to measure", "bench", "repeats >= 1, warmup >= 0", "$repeats, $warmup")
        }
        val texts = Prompt.of(bundle)
        val positions = listOf(prompt, FOLLOW_UP).map { texts.prefixIds.size + sizes.visualTokens + texts.suffixIds(it).size }
        if (positions.max() > sizes.maxContext) throw ContextFull(positions.max(), sizes.maxContext)
        val room = sizes.maxContext - maxOf(N_GEN, prefillRows())
        return Plan(
            repeats = repeats,
            warmup = warmup,
            threads = threads,
            lowMemory = lowMemory,
            prompt = prompt,
            depths = depths(minOf(positions[0], room)),
            video = video.name,
            videoSha256 = sha256(video),
            frames = opened { indices(it).size },
        )
    }

    private fun model(): Model {
        val manifest = bundle.manifest
        return Model(
            name = manifest.model.name,
            parameters = manifest.model.parameters,
            bundleSha256 = sha256(File(bundle.folder, Contract.MANIFEST_NAME)),
            recipe = manifest.recipe,
            kernels = manifest.kernels,
            backends = manifest.stages.mapValues { it.value.backend },
            files = manifest.files.mapValues { it.value.bytes },
            geometry = Geometry.NAMES.associateWith(sizes::size),
        )
    }

    private suspend fun oneRun(
        session: Session,
        plan: Plan,
        index: Int,
        thread: CoroutineDispatcher,
        say: (step: String, where: String) -> Unit,
    ): Run {
        val began = OffsetDateTime.now(ZoneOffset.UTC).format(DateTimeFormatter.ofPattern("yyyy-MM-dd'T'HH:mm:ssxxx"))
        val joules = machine.energyMeter()
        say("load", "")
        val load = withContext(thread) {
            val cold = if (evict()) loadAll() else null
            Load(coldMs = cold, warmMs = loadAll())
        }
        say("video", "")
        val source = LazySource { open(video) }
        source.use { session.loadVideo(it) }
        val fromFile = session.videoStats
        say("questions", "")
        val first = ask(session, plan.prompt)
        val followUp = ask(session, FOLLOW_UP)
        say("stream", "")
        stream(session)
        val fromStream = session.videoStats
        val streamQuestion = ask(session, plan.prompt)
        val rows = checkNotNull(
            session.video,
        ).visualTokens.first().rows(0, prefillRows()).reshaped(1, prefillRows(), sizes.hiddenSize)
        val tests = plan.depths.flatMap { depth ->
            say("language model", "@$depth")
            withContext(thread) { languageModel(rows, depth) }
        }
        peakBytes = maxOf(peakBytes, machine.memoryBytes())
        return Run(
            index = index,
            warmup = index < warmup,
            testTime = began,
            load = load,
            video = fromFile,
            stream = fromStream,
            firstQuestion = first,
            followUp = followUp,
            streamQuestion = streamQuestion,
            tests = tests,
            energyJ = joules(),
            thermal = machine.thermal(),
        )
    }

    /** Whether the programs must now come from the disk. */
    private fun evict(): Boolean {
        unload(Contract.STAGE_NAMES)
        val files = bundle.manifest.files.keys - setOfNotNull(bundle.manifest.tokenizer)
        return machine.evict(files.map { File(bundle.folder, it) })
    }

    /** Milliseconds of loading every stage. In low memory, the encoders have made room for the language model. */
    private fun loadAll(): Double {
        unload(Contract.STAGE_NAMES)
        return listOf(Contract.ENCODER_STAGES, Contract.LANGUAGE_STAGES).sumOf { stages ->
            val ns = timed { stages.forEach(engine::load) }
            if (lowMemory) unload(stages)
            ns / 1e6
        }
    }

    private fun unload(stages: List<String>) = stages.forEach(engine::unload)

    private suspend fun ask(session: Session, question: String): Question {
        val answer = session.ask(
            question,
            maxNewTokens = 1,
            temperature = 0.0,
            topP = 1.0,
            topK = 0,
            repetitionPenalty = 1.0,
        )
        answer.collect { }
        return Question(
            timeToFirstTokenMs = answer.stats.getValue("time_to_first_token_ms"),
            promptEvalMs = answer.stats.getValue("prompt_eval_ms"),
            numPrefilledTokens = answer.stats.getValue("num_prefilled_tokens").toInt(),
        )
    }

    /** The file's frames, a second apart, so that each is taken. Decoded before: a camera's frames cost nothing. */
    private suspend fun stream(session: Session) {
        val frames = opened { source -> source.frames(indices(source)).toList() }
        session.begin()
        frames.forEachIndexed { second, frame -> session.addFrame(frame, second.toDouble()) }
        session.finish()
    }

    /**
     * Prefill and decode from one depth on. The video fills the KV cache beyond it: it takes a smaller start_pos only. Calls the
     * stages themselves, so that counts are fixed: no token ends anything.
     */
    private fun languageModel(rows: Tensor, depth: Int): List<LanguageModelTest> {
        lateinit var logits: Tensor
        val prefill = List(PREFILL_CALLS) { timed { logits = decoder(rows, depth) } }
        var token = likeliest(logits)
        val decode = List(N_GEN) { step ->
            timed {
                val row = engine.run("token_embedding", listOf(Tensor.longs(longArrayOf(token), 1, 1))).single()
                token = likeliest(decoder(row, depth + step))
            }
        }
        return listOf(LanguageModelTest(prefillRows(), 0, depth, prefill), LanguageModelTest(0, N_GEN, depth, decode))
    }

    private fun decoder(rows: Tensor, position: Int): Tensor =
        engine.run("text_decoder", listOf(rows, Tensor.longs(longArrayOf(position.toLong()), 1))).single()

    /** A frame's image tokens, or what one call takes of them. */
    private fun prefillRows() = minOf(sizes.imageTokens, sizes.prefillChunk)

    private fun indices(source: FrameSource) = sampleIndices(source.numFrames, source.fps, maxFrames = sizes.numFrames)

    private fun <T> opened(block: (FrameSource) -> T): T = LazySource { open(video) }.use(block)
}

/** Opens what it stands for when it is first asked, so that opening is part of what is timed; closes it if it can be. */
private class LazySource(open: () -> FrameSource) :
    FrameSource,
    AutoCloseable {
    private val opening = lazy(open)
    private val source by opening

    override val numFrames get() = source.numFrames
    override val fps get() = source.fps

    override fun frames(indices: List<Int>) = source.frames(indices)

    override fun close() {
        if (opening.isInitialized()) (source as? AutoCloseable)?.close()
    }
}

private inline fun timed(block: () -> Unit): Long {
    val start = System.nanoTime()
    block()
    return maxOf(1, System.nanoTime() - start)
}

/** The first of the largest. */
private fun likeliest(logits: Tensor): Long {
    val values = logits.data.asFloatBuffer()
    var best = 0
    for (i in 1 until values.limit()) if (values[i] > values[best]) best = i
    return best.toLong()
}
