package org.mvgpt.demo.ask

import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.flow.first
import kotlinx.coroutines.job
import kotlinx.coroutines.runBlocking
import org.junit.jupiter.api.Test
import org.mvgpt.videogpt.Frame
import org.mvgpt.videogpt.FrameSource
import org.mvgpt.videogpt.MvgptException
import org.mvgpt.videogpt.jvm.BUNDLES
import org.mvgpt.videogpt.jvm.Expected
import org.mvgpt.videogpt.jvm.openSession
import java.io.File
import kotlin.test.assertEquals
import kotlin.test.assertNotNull
import kotlin.test.assertNull
import kotlin.test.assertTrue

private const val FIRST = "What happens?"
private const val SECOND = "What flashes up?"

/** What the app's screen shows, beside the session that it shows it of, on real programs. */
class AskModelTest {
    private val scope = CoroutineScope(Dispatchers.Default.limitedParallelism(1) + Job())
    private val model = AskModel(scope) { bundle, lowMemory -> openSession(File(bundle), lowMemory) }

    @Test
    fun `a clip, two questions, and starting over`() =
        runBlocking {
            val bundle = BUNDLES.first()
            val frames = framesOf(bundle)
            val answers = ArrayList<String>()
            var keys = emptyList<Int>()
            openSession(bundle).use { session ->
                keys = session.loadFrames(frames).keyFrames
                for (question in listOf(FIRST, SECOND)) {
                    val answer = session.ask(question, keepHistory = question == SECOND)
                    answer.collect {}
                    answers += answer.text
                }
            }
            done { model.open(bundle.path, lowMemory = false) }
            assertEquals(bundle.path, model.state.value.bundle)
            done { model.load(Clip(frames)) }
            val thumbnails = model.state.value.thumbnails
            assertEquals(frames.size, thumbnails.size)
            assertEquals(keys, thumbnails.indices.filter { thumbnails[it].isKey })
            assertEquals(listOf(0.0, 0.5), thumbnails.take(2).map { it.seconds })
            assertEquals("drawn", model.state.value.decoder)
            assertNotNull(model.state.value.stats["video_ready_ms"])
            done { model.ask("  $FIRST\n") }
            done { model.ask(SECOND) }
            assertEquals(listOf(Turn(FIRST, answers[0]), Turn(SECOND, answers[1])), model.state.value.turns)
            model.startOver()
            done { model.ask(FIRST) }
            assertEquals(listOf(Turn(FIRST, answers[0])), model.state.value.turns)
            model.release().join()
            assertEquals(AskState(), model.state.value)
        }

    @Test
    fun `stop ends an answer, and the next question is answered`() =
        runBlocking {
            val bundle = BUNDLES.last() // of random weights, which do not stop by themselves
            done { model.open(bundle.path, lowMemory = true) }
            done { model.load(Clip(framesOf(bundle))) }
            model.ask(FIRST)
            model.state.first { it.turns.lastOrNull()?.answer.orEmpty().isNotEmpty() }
            model.ask(SECOND) // ignored: one thing at a time
            done { model.stop() }
            assertEquals(listOf(true), model.state.value.turns.map { it.stopped })
            done { model.ask(SECOND) }
            assertEquals(listOf(FIRST, SECOND), model.state.value.turns.map { it.question })
            model.close()
        }

    @Test
    fun `a clip that does not open leaves the video, a bundle that does not open leaves nothing`() =
        runBlocking {
            done { model.open(BUNDLES.first().path, lowMemory = false) }
            done { model.load(Clip(framesOf(BUNDLES.first()))) }
            val broken = Clip(null)
            done { model.load(broken) }
            assertTrue(broken.closed)
            assertTrue("no such clip" in assertNotNull(model.state.value.error))
            assertTrue(model.state.value.hasVideo)
            model.dismissError()
            done { model.ask(FIRST) }
            assertNull(model.state.value.error)
            done { model.ask(" ") }
            assertNotNull(model.state.value.error)
            assertEquals(1, model.state.value.turns.size)
            done { model.open("no/such/folder", lowMemory = false) }
            assertNotNull(model.state.value.error)
            assertEquals(null to false, model.state.value.bundle to model.state.value.hasVideo)
        }

    private fun framesOf(bundle: File) = Expected(bundle).let { it.frames(it.clips.first()) }

    /** Do it, and wait for what it began. */
    private suspend fun done(what: () -> Unit) {
        what()
        scope.coroutineContext.job.children.forEach { it.join() }
        assertNull(model.state.value.busy)
    }
}

/** Frames at two a second; null: it does not open. */
private class Clip(private val all: List<Frame>?) : ClipSource {
    var closed = false

    override suspend fun open(): FrameSource =
        object : FrameSource {
            private val held = all ?: throw MvgptException("no such clip", "video")
            override val numFrames = held.size
            override val fps = 2.0

            override fun frames(indices: List<Int>) = indices.asSequence().map(held::get)
        }

    override fun decoder() = "drawn"

    override fun close() {
        closed = true
    }
}
