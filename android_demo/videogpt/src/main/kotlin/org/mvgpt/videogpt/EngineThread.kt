package org.mvgpt.videogpt

import kotlinx.coroutines.CoroutineDispatcher
import kotlinx.coroutines.ExecutorCoroutineDispatcher
import kotlinx.coroutines.Job
import kotlinx.coroutines.asCoroutineDispatcher
import kotlinx.coroutines.currentCoroutineContext
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.withContext
import java.util.concurrent.Executors

/**
 * The one thread on which an engine runs, and the two ways to stop what runs there before its next step.
 *
 * @param dispatcher of one thread; null for a thread of its own
 */
internal class EngineThread(dispatcher: CoroutineDispatcher?) {
    private val own: ExecutorCoroutineDispatcher? =
        if (dispatcher != null) {
            null
        } else {
            Executors.newSingleThreadExecutor { Thread(it, "mvgpt").apply { isDaemon = true } }.asCoroutineDispatcher()
        }
    private val dispatcher = dispatcher ?: checkNotNull(own)
    private var job: Job? = null // of the block that runs

    @Volatile
    private var runner: Thread? = null

    @Volatile
    private var closed = false

    /** Whether [cancel] was called since [begin]. */
    @Volatile
    var cancelled = false
        private set

    /** Run a block there, alone, for the calling coroutine. */
    suspend fun <T> run(block: () -> T): T {
        checkOpen() // its own thread takes no blocks then
        return withContext(dispatcher) {
            checkOpen()
            runner = Thread.currentThread()
            job = currentCoroutineContext()[Job]
            try {
                block()
            } finally {
                job = null
            }
        }
    }

    private fun checkOpen() {
        if (closed) throw MvgptException("the session is closed", "session", remedy = "open another one")
    }

    /** Throws if the block that runs is to stop: its coroutine was cancelled, or [cancel] was called. */
    fun check(stage: String) {
        job?.ensureActive()
        if (cancelled) throw Cancelled(stage)
    }

    /** From any thread. */
    fun cancel() {
        cancelled = true
    }

    /** What was cancelled before is over. */
    fun begin() {
        cancelled = false
    }

    /** Stop what runs, wait for its step to end, and run `last`. From any thread. */
    fun close(last: () -> Unit) {
        if (closed) return
        closed = true
        cancel()
        // Who is on that thread already would wait for itself.
        if (Thread.currentThread() == runner) last() else runBlocking(dispatcher) { last() }
        own?.close()
    }
}
