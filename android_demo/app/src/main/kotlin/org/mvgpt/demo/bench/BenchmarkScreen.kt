package org.mvgpt.demo.bench

import android.content.Context
import android.net.Uri
import android.view.View
import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Box
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.rememberScrollState
import androidx.compose.foundation.verticalScroll
import androidx.compose.material3.Button
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.runtime.DisposableEffect
import androidx.compose.runtime.getValue
import androidx.compose.runtime.remember
import androidx.compose.runtime.rememberCoroutineScope
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.platform.LocalContext
import androidx.compose.ui.platform.LocalView
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.unit.dp
import androidx.lifecycle.compose.collectAsStateWithLifecycle
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.withContext
import org.mvgpt.demo.R
import org.mvgpt.demo.ask.AskViewModel
import org.mvgpt.demo.ui.ErrorCard
import org.mvgpt.demo.ui.Working
import org.mvgpt.videogpt.android.ExecuTorchEngine
import org.mvgpt.videogpt.android.MediaFrames
import org.mvgpt.videogpt.bench.Benchmark
import org.mvgpt.videogpt.bench.BenchmarkProgress
import org.mvgpt.videogpt.bench.BenchmarkResult
import java.io.File
import java.io.IOException

/** A benchmark by hand, of the bundle that is open and the clip that was picked. */
@Composable
fun BenchmarkScreen(model: AskViewModel, modifier: Modifier) {
    val context = LocalContext.current
    val scope = rememberCoroutineScope() // leaving the screen ends the benchmark: in the background it would measure nothing
    val benchmark = remember { BenchmarkModel(scope) }
    val state by benchmark.state.collectAsStateWithLifecycle()
    val asking by model.ask.state.collectAsStateWithLifecycle()
    val bundle = asking.bundle
    val clip = model.clip
    val step = state.step
    Column(
        modifier.padding(16.dp).verticalScroll(rememberScrollState()),
        verticalArrangement = Arrangement.spacedBy(12.dp),
    ) {
        Text(stringResource(R.string.benchmark_explained))
        state.error?.let { ErrorCard(it, benchmark::dismissError) }
        if (step != null) {
            KeepScreenOn()
            Working(step, state.done.toFloat() / state.total, benchmark::cancel)
        } else if (bundle == null || clip == null) {
            Text(stringResource(R.string.benchmark_needs))
        } else {
            Button(
                { benchmark.start { progress -> measure(context, model, bundle, clip, progress) } },
                enabled =
                    asking.busy == null,
            ) {
                Text(stringResource(R.string.benchmark_start))
            }
        }
        state.file?.let { Text(stringResource(R.string.benchmark_saved, it.path)) }
        for ((name, value) in state.result?.aggregates.orEmpty()) {
            Text(stringResource(R.string.benchmark_median, name, value.median, value.unit))
        }
    }
}

/** The session is closed before: what it holds would be measured, and its engine may have another pool of threads. */
private suspend fun measure(
    context: Context,
    model: AskViewModel,
    name: String,
    clip: Uri,
    progress: BenchmarkProgress,
): Pair<BenchmarkResult, File> {
    model.ask.release().join()
    return withContext(Dispatchers.IO) {
        val bundle = model.store.open(name)
        val video = File(File(context.cacheDir, "bench").apply { mkdirs() }, "clip.mp4")
        val input = context.contentResolver.openInputStream(clip) ?: throw IOException("the clip is gone")
        input.use { from -> video.outputStream().use(from::copyTo) }
        try {
            val result = Benchmark(bundle, ExecuTorchEngine(bundle), model.machine, video, MediaFrames::open).run(progress)
            result to context.writeResult(result, "${System.currentTimeMillis()}.json")
        } finally {
            video.delete()
        }
    }
}

/** While a computer measures: nothing to touch. */
@Composable
fun RemoteBenchmark(launch: BenchmarkLaunch) {
    val step by launch.step.collectAsStateWithLifecycle()
    KeepScreenOn()
    Box(Modifier.fillMaxSize(), contentAlignment = Alignment.Center) {
        // No bar that moves: drawing it would be measured.
        Column(horizontalAlignment = Alignment.CenterHorizontally) {
            Text(stringResource(R.string.benchmark_remote))
            Text(step)
        }
    }
}

@Composable
private fun KeepScreenOn() {
    val view: View = LocalView.current
    DisposableEffect(view) {
        view.keepScreenOn = true
        onDispose { view.keepScreenOn = false }
    }
}
