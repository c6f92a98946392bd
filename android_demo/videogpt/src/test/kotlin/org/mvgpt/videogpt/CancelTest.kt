package org.mvgpt.videogpt

import kotlinx.coroutines.Job
import kotlinx.coroutines.cancelAndJoin
import kotlinx.coroutines.flow.take
import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import kotlinx.coroutines.sync.Semaphore
import org.junit.jupiter.api.Test
import kotlin.coroutines.cancellation.CancellationException
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertFalse
import kotlin.test.assertNotNull
import kotlin.test.assertNull
import kotlin.test.assertTrue

/** Sessions that are stopped, fail or are interrupted, and what is left then. */
class CancelTest : FakeSession() {
    @Test
    fun `cancel stops an answer before its next token, and the conversation goes on from there`() =
        session { session ->
            session.loadFrames(frames(6))
            val whole = session.say("What?")
            val answer = session.ask("What?")
            answer.collect { if (answer.tokenIds.size == 3) session.cancel() }
            assertEquals(FinishReason.CANCELLED, answer.finishReason)
            assertEquals(whole.take(3), answer.tokenIds)
            val next = session.say("And then?", keepHistory = true)
            session.say("What?", limit = 3)
            assertEquals(next, session.say("And then?", keepHistory = true))
        }

    @Test
    fun `a collector that stops is as far as the answer came`() =
        session { session ->
            session.loadFrames(frames(6))
            session.say("What?", limit = 3)
            val expected = session.say("And then?", keepHistory = true)
            val answer = session.ask("What?")
            assertEquals(3, answer.take(3).toList().size)
            assertEquals(FinishReason.CANCELLED, answer.finishReason)
            assertEquals(3, answer.tokenIds.size)
            assertEquals(expected, session.say("And then?", keepHistory = true))
        }

    @Test
    fun `a cancelled coroutine stops within one step`() =
        session { session ->
            session.loadFrames(frames(6))
            val whole = session.say("What?")
            val reached = Semaphore(1, 1)
            val job = Stopped()
            // While the question is prefilled, a load runs, or a token is made: the step that runs is the last.
            for ((stage, body) in listOf<Pair<String, suspend () -> Unit>>(
                "text_decoder" to { session.ask("a long question ".repeat(2)).collect {} },
                "image_projector" to { session.loadFrames(frames(6)) },
                "video_projector" to { session.loadFrames(frames(6)) },
            )) {
                runBlocking {
                    engine.before = { if (it == stage) job.cancel() }
                    val steps = engine.calls.size
                    var thrown: Throwable? = null
                    job.of = launch {
                        try {
                            body()
                        } catch (e: CancellationException) {
                            thrown = e
                            throw e
                        } finally {
                            reached.release()
                        }
                    }
                    reached.acquire()
                    checkNotNull(job.of).cancelAndJoin()
                    assertNotNull(thrown, stage)
                    assertEquals("run $stage", engine.calls.drop(steps).last { it.startsWith("run") }, stage)
                }
                engine.before = {}
            }
            assertNull(session.video)
            session.loadFrames(frames(6))
            assertEquals(whole, session.say("What?"))
        }

    /** Cancels a job that is known later. */
    private class Stopped {
        @Volatile
        var of: Job? = null

        fun cancel() {
            while (of == null) Thread.yield()
            of?.cancel()
        }
    }

    @Test
    fun `a load that is cancelled or fails leaves no video`() =
        session { session ->
            session.loadFrames(frames(6))
            val answer = session.ask("What?")
            for (stage in Contract.STAGE_NAMES - "token_embedding") {
                assertFailsWith<Cancelled> { session.loadFrames(frames(6)) { if (it == stage) session.cancel() } }
                assertNull(session.video)
                session.begin()
                session.cancel()
                assertFailsWith<Cancelled> { session.addFrame(frames(1)[0], 0.0) }
                assertEquals("no video was begun", assertFailsWith<MvgptException> { session.finish() }.what)
            }
            val broken = sequence {
                yield(frames(1)[0])
                throw MvgptException("a frame cannot be decoded", "video")
            }
            assertFailsWith<MvgptException> { session.loadFrames(broken.asIterable()) }
            assertNull(session.video)
            assertEquals("no video is loaded", assertFailsWith<MvgptException> { answer.collect {} }.what)
        }

    @Test
    fun `an answer does not go on in a cache that is another's`() =
        session { session ->
            session.loadFrames(frames(6))

            suspend fun interrupted(by: suspend () -> Unit): String {
                val answer = session.ask("What?")
                val error = assertFailsWith<MvgptException> { answer.collect { if (answer.tokenIds.size == 2) by() } }
                assertEquals(2, answer.tokenIds.size)
                return error.what
            }
            assertEquals("the session went on to something else", interrupted { session.say("Who?") })
            assertEquals("another video was loaded since this question was asked", interrupted { session.loadFrames(frames(3)) })
        }

    @Test
    fun `a closed session closes its engine and does no more`() {
        runBlocking {
            val session = Session.open(bundle, engine)
            session.loadFrames(frames(6))
            assertFalse(engine.closed)
            session.close()
            session.close()
            assertTrue(engine.closed)
            assertEquals("the session is closed", assertFailsWith<MvgptException> { session.say("What?") }.what)
        }
    }
}
