package org.mvgpt.demo.bench

import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Job
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.launch
import org.mvgpt.videogpt.MvgptException
import org.mvgpt.videogpt.bench.BenchmarkProgress
import org.mvgpt.videogpt.bench.BenchmarkResult
import java.io.File
import java.io.IOException

data class BenchmarkState(
    val step: String? = null,
    val done: Int = 0,
    val total: Int = 1,
    val result: BenchmarkResult? = null,
    val file: File? = null,
    val error: String? = null,
)

/** A benchmark by hand. Nothing of Android is in it. */
class BenchmarkModel(private val scope: CoroutineScope) {
    private val mutableState = MutableStateFlow(BenchmarkState())
    private var job: Job? = null

    val state: StateFlow<BenchmarkState> = mutableState.asStateFlow()

    /** @param measure runs it and says where the result was written. */
    fun start(measure: suspend (BenchmarkProgress) -> Pair<BenchmarkResult, File>) {
        if (job?.isActive == true) return
        job = scope.launch {
            mutableState.value = BenchmarkState(step = "")
            try {
                val (result, file) = measure { step, done, total ->
                    mutableState.update { it.copy(step = step, done = done, total = total) }
                }
                mutableState.update { it.copy(result = result, file = file) }
            } catch (e: CancellationException) {
                throw e
            } catch (e: MvgptException) {
                mutableState.update { it.copy(error = e.message) }
            } catch (e: IOException) {
                // the result, or the copy of the clip
                mutableState.update { it.copy(error = e.message) }
            } finally {
                mutableState.update { it.copy(step = null) }
            }
        }
    }

    fun dismissError() = mutableState.update { it.copy(error = null) }

    /** Stop before the next step. */
    fun cancel() {
        job?.cancel()
    }
}
