package org.mvgpt.demo.bench

import android.app.Activity
import android.content.Context
import android.util.Log
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.launch
import org.mvgpt.videogpt.Bundle
import org.mvgpt.videogpt.MvgptException
import org.mvgpt.videogpt.android.ExecuTorchEngine
import org.mvgpt.videogpt.android.MediaFrames
import org.mvgpt.videogpt.bench.BENCH_TAG
import org.mvgpt.videogpt.bench.Benchmark
import org.mvgpt.videogpt.bench.BenchmarkLines
import org.mvgpt.videogpt.bench.BenchmarkRequest
import org.mvgpt.videogpt.bench.BenchmarkResult
import org.mvgpt.videogpt.bench.Machine
import org.mvgpt.videogpt.bench.isBelow
import org.mvgpt.videogpt.bench.toJson
import org.mvgpt.videogpt.sha256
import java.io.File
import kotlin.system.exitProcess

const val ACTION_BENCHMARK = "org.mvgpt.demo.action.BENCHMARK"

/** Where the shell puts bundles and videos, and the only place that this reads from. */
private const val ROOT = "/data/local/tmp/mvgpt"

/** The longest that a bundle's check may say nothing. */
private const val SILENCE_NS = 20_000_000_000L

/**
 * A benchmark that `mvgpt bench --device adb` started: docs/benchmarking-phones.md has the contract. Answers in the log, writes
 * the result to the app's external files, and ends the process.
 */
class BenchmarkLaunch(private val activity: Activity, private val machine: Machine, private val finish: () -> Unit) {
    private val mutableStep = MutableStateFlow("")

    /** What is being measured, for the screen. */
    val step: StateFlow<String> = mutableStep.asStateFlow()

    /** @param extra a parameter of the intent, which any app can have sent. */
    fun start(extra: (String) -> String?) {
        // Not the view model's scope: the process ends after its last line, whatever becomes of the screen.
        CoroutineScope(Dispatchers.Default).launch {
            // Every line repeats the id; one that cannot be an id is answered as nobody's.
            val lines = BenchmarkLines(extra("run").orEmpty().take(128)) { Log.i(BENCH_TAG, it) }
            lines.started(machine.app.version)
            try {
                lines.done(sha256(measure(BenchmarkRequest.parse(ROOT, extra), lines)))
            } catch (e: Throwable) {
                // whoever waits is told of anything
                lines.failed(e)
            }
            finish()
            exitProcess(0)
        }
    }

    /** The result's file. */
    private suspend fun measure(request: BenchmarkRequest, lines: BenchmarkLines): File {
        fun say(step: String, done: Int, total: Int) {
            mutableStep.value = step
            lines.progress(step, done, total)
        }
        say("check the bundle", 0, 1)
        var said = System.nanoTime()
        val bundle = Bundle.open(allowed(request.bundle)) { _, _ ->
            if (System.nanoTime() - said > SILENCE_NS) {
                said = System.nanoTime()
                say("check the bundle", 0, 1)
            }
        }
        say("copy the video", 0, 1)
        val video = ownCopy(allowed(request.video))
        try {
            val result = Benchmark(
                bundle = bundle,
                engine = ExecuTorchEngine(bundle, request.threads),
                machine = machine,
                video = video,
                open = MediaFrames::open,
                threads = request.threads,
                lowMemory = request.lowMemory,
                prompt = request.prompt,
                repeats = request.repeats,
                warmup = request.warmup,
            ).run(::say)
            return activity.writeResult(result, request.out)
        } finally {
            video.delete()
        }
    }

    /** A link may lead out of the folder that a path seems to be in. */
    private fun allowed(path: String): File {
        val file = File(path).canonicalFile
        if (!isBelow(File(ROOT).canonicalPath, file.path)) {
            throw MvgptException("the path leads elsewhere", "bench", expected = "below $ROOT", got = file.path)
        }
        return file
    }

    /** The system's media services may not read the shell's files. */
    private fun ownCopy(video: File): File =
        File(activity.cacheDir, "bench").apply { mkdirs() }.let { video.copyTo(File(it, video.name), overwrite = true) }
}

/** Written beside and renamed, so that whoever sees the name sees all of it. */
fun Context.writeResult(result: BenchmarkResult, name: String): File {
    val outside = getExternalFilesDir(null)
        ?: throw MvgptException("the external storage is not there", "bench", remedy = "is the phone's storage mounted?")
    val folder = File(outside, "bench").apply { mkdirs() }
    val part = File(folder, "$name.part")
    val whole = File(folder, name)
    part.writeText(result.toJson())
    if (!part.renameTo(whole)) throw MvgptException("the result cannot be written", "bench", got = whole)
    return whole
}
