package org.mvgpt.videogpt.jvm

import kotlinx.coroutines.runBlocking
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import org.mvgpt.videogpt.Bundle
import org.mvgpt.videogpt.ContextFull
import org.mvgpt.videogpt.Frame
import org.mvgpt.videogpt.FrameSource
import org.mvgpt.videogpt.MvgptException
import org.mvgpt.videogpt.bench.App
import org.mvgpt.videogpt.bench.Benchmark
import org.mvgpt.videogpt.bench.BenchmarkLines
import org.mvgpt.videogpt.bench.Device
import org.mvgpt.videogpt.bench.Machine
import org.mvgpt.videogpt.bench.N_GEN
import org.mvgpt.videogpt.bench.OperatingSystem
import org.mvgpt.videogpt.bench.PREFILL_CALLS
import org.mvgpt.videogpt.bench.Power
import org.mvgpt.videogpt.bench.Thermal
import org.mvgpt.videogpt.bench.depths
import org.mvgpt.videogpt.bench.toJson
import java.io.File
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue

/** The benchmark's steps on real programs. `tools/check_android.py` reads what is written here, as mvgpt does. */
class BenchmarkTest {
    @TempDir
    lateinit var scratch: File
    private val bundle = runBlocking { Bundle.open(BUNDLES.first(), hashes = false) }
    private val video by lazy { File(scratch, "drawn.mp4").apply { writeText("not read: the frames are drawn") } }

    private fun benchmark(
        engine: JvmEngine,
        clip: DrawnClip,
        prompt: String = "Why?",
        repeats: Int = 2,
        lowMemory: Boolean = false,
    ) = Benchmark(bundle, engine, Desktop, video, { clip }, null, lowMemory, prompt, repeats, warmup = 1)

    @Test
    fun `every run has every step, and the result is whole`() {
        val clip = DrawnClip()
        val steps = ArrayList<String>()
        val result = runBlocking {
            benchmark(JvmEngine(bundle), clip).run { step, done, total ->
                assertTrue(done in 0..total)
                steps += step
            }
        }
        assertEquals(listOf(true, false, false), result.runs.map { it.warmup })
        assertEquals(listOf(0, 1, 2), result.runs.map { it.index })
        assertEquals("warm-up 1, load", steps.first())
        assertEquals("done", steps.last())
        val sizes = bundle.geometry
        assertEquals(depths(result.plan.depths.last()), result.plan.depths)
        assertTrue(result.plan.depths.last() <= sizes.maxContext - N_GEN)
        for (run in result.runs) {
            assertEquals(result.plan.depths.flatMap { listOf(it, it) }, run.tests.map { it.nDepth })
            assertEquals(listOf(PREFILL_CALLS, N_GEN), run.tests.take(2).map { it.samplesNs.size })
            assertEquals(minOf(sizes.imageTokens, sizes.prefillChunk), run.tests[0].nPrompt)
            assertEquals(null, run.load.coldMs)
            assertTrue(run.load.warmMs > 0)
            // A stream and a file leave the same tokens behind.
            assertEquals(run.firstQuestion.numPrefilledTokens, run.streamQuestion.numPrefilledTokens)
            assertTrue("last_frame_to_ready_ms" in run.stream && "video_decode_ms" in run.video)
        }
        assertEquals(1 + 2 * result.runs.size, clip.closed) // the plan's, and every run's file and stream
        write("benchmark.json", result.toJson())
    }

    @Test
    fun `lines say what happened`() {
        val said = ArrayList<String>()
        val lines = BenchmarkLines("run-1", said::add)
        lines.started("0.1.0 \"ä\" \\")
        lines.progress("run 1 of 5, language model@512", 4, 25)
        lines.done("0".repeat(64))
        lines.failed(
            MvgptException("größer\n\u0000", "video", expected = "\"".repeat(5000), got = "日本".repeat(5000), remedy = "\uD83D"),
        )
        lines.failed(IllegalStateException("no MvgptException"))
        assertTrue(said.all { line -> line.all { it.code in 0x20..0x7e } && line.length < 4000 }, said.joinToString("\n"))
        write("benchmark-lines.txt", said.joinToString("\n", postfix = "\n"))
    }

    private fun write(name: String, text: String) = File(System.getProperty("mvgpt.root"), "build/android/$name").writeText(text)

    @Test
    fun `low memory loads encoders and language model apart`() {
        val result = runBlocking { benchmark(JvmEngine(bundle), DrawnClip(), repeats = 1, lowMemory = true).run() }
        assertEquals(2, result.runs.size)
        assertTrue("decode_tokens_per_s@${result.plan.depths.last()}" in result.aggregates)
    }

    @Test
    fun `what cannot be measured is refused before anything runs`() {
        for (broken in listOf(
            benchmark(JvmEngine(bundle), DrawnClip(), repeats = 0),
            benchmark(JvmEngine(bundle), DrawnClip(), prompt = " "),
            benchmark(JvmEngine(bundle), DrawnClip(), prompt = "why ".repeat(bundle.geometry.maxContext)),
        )) {
            val steps = ArrayList<String>()
            assertFailsWith<MvgptException> { runBlocking { broken.run { step, _, _ -> steps += step } } }
            assertEquals(emptyList(), steps)
        }
        assertFailsWith<ContextFull> {
            runBlocking { benchmark(JvmEngine(bundle), DrawnClip(), "why ".repeat(bundle.geometry.maxContext)).run() }
        }
    }
}

/** Twelve seconds of grey that gets brighter. */
private class DrawnClip :
    FrameSource,
    AutoCloseable {
    var closed = 0
        private set
    override val numFrames = 120
    override val fps = 10.0

    override fun frames(indices: List<Int>) =
        indices.asSequence().map {
            Frame(32, 24, ByteArray(32 * 24 * 3) { _ -> it.toByte() })
        }

    override fun close() {
        closed++
    }
}

private object Desktop : Machine {
    override val app = App("org.mvgpt.videogpt.jvm", "0.1.0", null)
    override val device = Device("a JVM", System.getProperty("os.arch"), "desktop", "unknown", 1, null)
    override val os = OperatingSystem(System.getProperty("os.name"), System.getProperty("os.version"))
    override val memoryMetric = "rss"

    override fun power() = Power(null, null, null, null)

    override fun thermal() = Thermal(null, null)

    override fun loadAverage(): Double? = null

    override fun memoryBytes() = Runtime.getRuntime().totalMemory()

    override fun evict(files: List<File>) = false

    override fun energyMeter(): () -> Double? = { null }
}
