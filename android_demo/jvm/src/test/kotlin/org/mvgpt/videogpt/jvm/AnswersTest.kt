package org.mvgpt.videogpt.jvm

import kotlinx.coroutines.flow.toList
import kotlinx.coroutines.runBlocking
import org.junit.jupiter.api.DynamicTest
import org.junit.jupiter.api.DynamicTest.dynamicTest
import org.junit.jupiter.api.TestFactory
import org.mvgpt.videogpt.Bundle
import org.mvgpt.videogpt.Cancelled
import org.mvgpt.videogpt.ContextFull
import org.mvgpt.videogpt.FinishReason
import org.mvgpt.videogpt.MvgptException
import org.mvgpt.videogpt.Session
import java.io.File
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertFalse
import kotlin.test.assertNotEquals
import kotlin.test.assertNull
import kotlin.test.assertTrue

/** The same frames, questions, options and programs as in Python: the same numbers and the same answers. */
class AnswersTest {
    @TestFactory
    fun `a clip and a conversation about it`() =
        eachClip { expected, clip, session ->
            val video = session.loadFrames(expected.frames(clip))
            assertEquals(clip.fields.list("key_frames").map { (it as Long).toInt() }, video.keyFrames)
            assertSame(expected.array(clip, "frame_scores"), video.frameScores, "frame_scores")
            assertSame(expected.array(clip, "visual_tokens"), video.visualTokens, "visual_tokens")
            for (asked in clip.asked) asked.check(session)
        }

    @TestFactory
    fun `low memory answers the same`() =
        eachClip(lowMemory = true) { expected, clip, session ->
            val video = session.loadFrames(expected.frames(clip))
            assertSame(expected.array(clip, "visual_tokens"), video.visualTokens, "visual_tokens")
            for (asked in clip.asked) asked.check(session)
        }

    @TestFactory
    fun `frames one by one are the same video`() =
        eachClip { expected, clip, session ->
            session.begin()
            expected.frames(clip).forEachIndexed { second, frame -> assertTrue(session.addFrame(frame, 1.5 * second)) }
            val video = session.finish()
            assertSame(expected.array(clip, "visual_tokens"), video.visualTokens, "visual_tokens")
            for (asked in clip.asked) asked.check(session)
        }

    @TestFactory
    fun `a stream takes a frame per second`() =
        each { expected, session ->
            val stream = expected.stream
            session.begin()
            val seconds = stream.fields.list("timestamps_s").map { it as Double }
            val taken = expected.frames(stream).zip(seconds) { frame, second -> session.addFrame(frame, second) }
            assertEquals(stream.fields.list("taken"), taken)
            session.finish()
            for (asked in stream.asked) asked.check(session)
        }

    @TestFactory
    fun `one thread gives the same answers`() =
        BUNDLES.map { bundle ->
            dynamicTest(bundle.name) {
                runBlocking {
                    val expected = Expected(bundle)
                    val clip = expected.clips.first()
                    openSession(bundle, threads = 1).use { session ->
                        session.loadFrames(expected.frames(clip))
                        for (asked in clip.asked) asked.check(session)
                    }
                    openSession(bundle, threads = 2).close() // as it was
                }
            }
        }

    @TestFactory
    fun `an answer that is cancelled is as long as it came, and the conversation goes on from there`() =
        each { expected, session ->
            val (first, second) = expected.cancelled.asked
            session.loadFrames(expected.frames(expected.cancelled))
            val answer = first.ask(session)
            val pieces = ArrayList<String>()
            answer.collect {
                pieces += it.text
                session.cancel()
            }
            first.compare(answer, pieces)
            assertEquals(FinishReason.CANCELLED, answer.finishReason)
            second.check(session)
        }

    @TestFactory
    fun `a load that is cancelled leaves no video, and the next one is whole`() =
        each { expected, session ->
            val clip = expected.clips.first()
            val frames = expected.frames(clip)
            session.loadFrames(frames)
            for (stage in listOf("image_encoder", "video_encoder", "text_decoder")) {
                assertFailsWith<Cancelled> { session.loadFrames(frames) { if (it == stage) session.cancel() } }
                assertNull(session.video)
                val error = assertFailsWith<MvgptException> { session.ask("What?").toList() }
                assertEquals("no video is loaded", error.what)
            }
            session.loadFrames(frames)
            for (asked in clip.asked) asked.check(session)
        }

    @TestFactory
    fun `a question too long is refused with its length, and an answer ends where the KV cache does`() =
        each { expected, session ->
            val limits = expected.limits
            session.loadFrames(expected.frames(limits))
            val error = assertFailsWith<ContextFull> { session.ask(limits.fields.string("question")).toList() }
            assertEquals(limits.fields.int("positions"), error.positions)
            assertEquals(session.geometry.maxContext, error.maxContext)
            for (asked in limits.asked) asked.check(session)
        }

    @TestFactory
    fun `a conversation goes back to a snapshot`() =
        each { expected, session ->
            val clip = expected.clips.first()
            val (first, second) = clip.asked
            session.loadFrames(expected.frames(clip))
            first.check(session)
            val point = session.snapshot()
            second.check(session)
            assertNotEquals(point, session.snapshot())
            session.restore(point)
            // Maybe one row less to prefill: the one of the first answer's last token was computed meanwhile.
            val again = second.ask(session)
            again.collect {}
            assertEquals(second.tokenIds, again.tokenIds)
            first.check(session) // starts over: the point's turn is gone
            assertFailsWith<MvgptException> { session.restore(point) }
        }

    @TestFactory
    fun `stages that were warmed up or unloaded answer the same`() =
        BUNDLES.map { bundle ->
            dynamicTest(bundle.name) {
                runBlocking {
                    val expected = Expected(bundle)
                    val clip = expected.clips.first()
                    val opened = Bundle.open(bundle, hashes = false)
                    val engine = JvmEngine(opened)
                    Session.open(opened, engine).use { session ->
                        for (stage in opened.manifest.stages.keys) engine.prewarm(stage)
                        engine.unload("token_embedding") // the decoder's KV cache with it
                        session.loadFrames(expected.frames(clip))
                        for (stage in listOf("image_encoder", "video_encoder")) engine.unload(stage)
                        for (asked in clip.asked) asked.check(session)
                    }
                }
            }
        }

    /** A test per bundle. */
    private fun each(body: suspend (Expected, Session) -> Unit): List<DynamicTest> =
        BUNDLES.map { bundle -> dynamicTest(bundle.name) { withSession(bundle, false) { body(Expected(bundle), it) } } }

    /** A test per bundle and clip. */
    private fun eachClip(
        lowMemory: Boolean = false,
        body: suspend (Expected, ExpectedClip, Session) -> Unit,
    ): List<DynamicTest> =
        BUNDLES.flatMap { bundle ->
            val expected = Expected(bundle)
            assertFalse(expected.clips.isEmpty())
            expected.clips.map { clip ->
                dynamicTest("${bundle.name}, ${clip.name}") { withSession(bundle, lowMemory) { body(expected, clip, it) } }
            }
        }

    private fun withSession(bundle: File, lowMemory: Boolean, body: suspend (Session) -> Unit) =
        runBlocking { openSession(bundle, lowMemory).use { body(it) } }
}
