package org.mvgpt.videogpt

import kotlinx.coroutines.flow.toList
import org.junit.jupiter.api.Test
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertNotEquals
import kotlin.test.assertNotNull
import kotlin.test.assertNull
import kotlin.test.assertTrue

/** Sessions on an engine whose answers depend on every row of its KV cache. */
class SessionTest : FakeSession() {
    @Test
    fun `a video and two questions`() =
        session { session ->
            val stages = ArrayList<String>()
            val video = session.loadFrames(frames(4)) { stages += it }
            assertEquals(listOf(0, 2, 3, 5), video.keyFrames)
            assertEquals(5, video.frames.count + 1)
            assertEquals(Contract.STAGE_NAMES.toSet() - "token_embedding", stages.toSet())
            // One padding frame is encoded for both.
            assertEquals(5, engine.calls.count { it == "run image_encoder" })
            val geometry = bundle.geometry
            val prefix = Prompt.of(bundle).prefixIds.size
            assertEquals(chunkPlan(videoBlocks(prefix, geometry), geometry.prefillChunk), engine.decoded)
            assertEquals((prefix + geometry.visualTokens).toDouble(), session.videoStats["num_video_prefilled_tokens"])

            val answer = session.ask("What?")
            assertNull(answer.finishReason)
            val tokens = answer.toList()
            assertEquals(FinishReason.LENGTH, answer.finishReason)
            assertEquals(9, answer.tokenIds.size)
            assertEquals(answer.tokenIds, tokens.take(9).map { it.id })
            assertEquals(answer.text, tokens.joinToString(""))
            assertEquals(9.0, answer.stats["num_generated_tokens"])
            assertEquals(answer.stats.keys.toList(), Contract.METRICS.keys.filter { it in answer.stats })
            assertEquals(answer.tokenIds, session.say("What?")) // the conversation starts over
            assertNotEquals(answer.tokenIds, session.say("Who?"))
        }

    @Test
    fun `files, frames and streams are the same video`() =
        session { session ->
            val all = frames(6)
            session.loadFrames(all)
            val expected = session.say("What?")
            session.loadVideo(Memory(all, 1.0))
            assertEquals(listOf(0, 1, 2, 3, 4, 5), session.clip?.indices)
            assertNotNull(session.videoStats["video_decode_ms"])
            assertEquals(expected, session.say("What?"))
            session.begin()
            assertNull(session.clip)
            assertEquals(FINISH_STAGES.map { "prewarm $it" }, engine.calls.filter { it.startsWith("prewarm") })
            assertEquals(List(12) { it % 2 == 0 }, List(12) { session.addFrame(all[it / 2], 3 + it / 2.0) })
            session.finish()
            assertEquals(expected, session.say("What?"))
            session.loadVideo(Memory(frames(60, 2), 10.0), startS = 1.0, endS = 2.0)
            assertEquals(listOf(10, 12, 14, 16, 18, 20), session.clip?.indices)
            assertNotEquals(expected, session.say("What?"))
        }

    @Test
    fun `low memory has either the encoders or the language model`() {
        var answer = emptyList<Int>()
        session { session ->
            session.loadFrames(frames(5))
            answer = session.say("What?")
        }
        engine = FakeEngine(bundle.geometry)
        engine.before = { stage ->
            val others = engine.loadedUnits.map { (it == "slm") != (stage in Contract.LANGUAGE_STAGES) }
            assertTrue(others.none { it }, "$stage beside ${engine.loadedUnits}")
        }
        session(lowMemory = true) { session ->
            repeat(2) {
                session.begin()
                for ((second, frame) in frames(5).withIndex()) session.addFrame(frame, second.toDouble())
                session.finish()
                assertEquals(answer, session.say("What?"))
            }
            assertTrue(engine.calls.none { it.startsWith("prewarm") })
        }
    }

    @Test
    fun `a conversation is what a cold start with all of it would be`() =
        session { session ->
            session.loadFrames(frames(6))
            val first = session.ask("What?", maxNewTokens = 4)
            first.collect {}
            val second = session.ask("And then?", keepHistory = true, maxNewTokens = 4)
            second.collect {}
            val prompt = Prompt.of(bundle)
            val ids = prompt.suffixIds("What?") + first.tokenIds + prompt.nextTurnIds("And then?")
            assertEquals(ids, second.suffixIds)
            assertEquals((prompt.nextTurnIds("And then?").size + 1).toDouble(), second.stats["num_prefilled_tokens"])
            val cold = FakeEngine(bundle.geometry)
            val generator = Generator(cold, bundle.geometry)
            val visual = checkNotNull(session.video).visualTokens
            generator.prefill(generator.embed(prompt.prefixIds)) {}
            for (block in visual) generator.prefill(block) {}
            val logits = generator.prefill(generator.embed(ids)) {}
            val steps = generator.decode(logits, setOf(2, 0), 4, Stats(), { false }, Sampler(SamplingOptions())::choose)
            val expected = steps.asSequence().filterIsInstance<Step.Chosen>().map { it.id }.toList()
            assertEquals(expected, second.tokenIds)
        }

    @Test
    fun `snapshots are points to go on from, while they last`() =
        session { session ->
            session.loadFrames(frames(6))
            val start = session.snapshot()
            session.say("What?", limit = 3)
            val point = session.snapshot()
            val expected = session.say("And then?", keepHistory = true)
            assertNotEquals(expected, session.say("And then?", keepHistory = true))
            session.restore(point)
            assertEquals(expected, session.say("And then?", keepHistory = true))
            session.restore(start)
            session.say("Who?", keepHistory = true)
            val error = assertFailsWith<MvgptException> { session.restore(point) }
            assertEquals("the KV cache no longer holds this snapshot", error.what)
            session.restore(start)
            session.loadFrames(frames(6))
            assertFailsWith<MvgptException> { session.restore(start) }
        }

    @Test
    fun `a stop token ends an answer and is no part of it`() =
        session { session ->
            session.loadFrames(frames(6))
            val said = session.say("What?")
            engine.excluded = (0 until bundle.geometry.vocabSize).toSet() - bundle.manifest.stopIds.toSet()
            val answer = session.ask("What?")
            assertEquals(emptyList(), answer.toList())
            assertEquals(FinishReason.STOP, answer.finishReason)
            engine.excluded = setOf(0, 1, 2)
            assertEquals(said, session.say("What?"))
        }

    @Test
    fun `options are the manifest's unless given, and checked at once`() =
        session { session ->
            session.loadFrames(frames(6))
            val greedy = session.say("What?")

            suspend fun drawn(seed: Long) = session.ask("What?", temperature = 1.0, seed = seed).also { it.collect {} }.tokenIds
            assertNotEquals(greedy, drawn(1))
            assertEquals(drawn(1), drawn(1))
            assertNotEquals(drawn(2), drawn(1))
            assertEquals("bad temperature", assertFailsWith<MvgptException> { session.ask("?", temperature = -1.0) }.what)
            assertEquals("bad topP", assertFailsWith<MvgptException> { session.ask("?", topP = 0.0) }.what)
            assertEquals("bad topK", assertFailsWith<MvgptException> { session.ask("?", topK = -1) }.what)
            assertEquals(
                "bad repetitionPenalty",
                assertFailsWith<MvgptException> {
                    session.ask("?", repetitionPenalty = Double.NaN)
                }.what,
            )
            assertEquals("bad maxNewTokens", assertFailsWith<MvgptException> { session.ask("?", maxNewTokens = 0) }.what)
        }

    @Test
    fun `the end of the KV cache`() =
        session { session ->
            session.loadFrames(frames(6))
            val error = assertFailsWith<ContextFull> { session.ask("x ".repeat(200)).collect {} }
            assertEquals(bundle.geometry.maxContext, error.maxContext)
            val answer = session.ask("What?", maxNewTokens = 1000)
            answer.collect {}
            assertEquals(FinishReason.LENGTH, answer.finishReason)
            // The last token's row would be the first that does not fit.
            val room = bundle.geometry.maxContext - checkNotNull(answer.stats["num_prompt_tokens"]).toInt()
            assertEquals(room + 1, answer.tokenIds.size)
        }

    @Test
    fun `what cannot be asked or added`() =
        session { session ->
            suspend fun what(body: suspend () -> Unit) = assertFailsWith<MvgptException> { body() }.what
            assertEquals("no video is loaded", what { session.ask("What?").collect {} })
            assertEquals("no video was begun", what { session.addFrame(frames(1)[0], 0.0) })
            assertEquals("no video was begun", what { session.finish() })
            session.begin()
            assertEquals("no frames", what { session.finish() })
            session.begin()
            for ((second, frame) in frames(6).withIndex()) session.addFrame(frame, second.toDouble())
            assertEquals("bad timestamp", what { session.addFrame(frames(1)[0], 5.0) })
            assertEquals("too many frames", what { session.addFrame(frames(1)[0], 6.0) })
            session.finish() // without that frame
            assertEquals("the question is empty", what { session.ask(" \n\u0085\u3000").collect {} })
            assertEquals("the text is not valid Unicode", what { session.ask("\ud83d").collect {} })
            assertEquals("this is not a frame", what { Frame(2, 2, ByteArray(11)) })
            val answer = session.ask("What?")
            answer.collect {}
            assertEquals("this answer was collected already", what { answer.collect {} })
            assertEquals("startS is after the end of the clip", what { session.loadVideo(Memory(frames(6), 1.0), startS = 9.0) })
            session.say("What?") // the video is still there
        }

    @Test
    fun `logits that are no numbers are an error`() =
        session { session ->
            session.loadFrames(frames(6))
            val broken = object : Engine by engine {
                override fun run(stage: String, inputs: List<Tensor>) =
                    engine.run(stage, inputs).onEach { if (stage == "text_decoder") it.data.putFloat(4, Float.NaN) }
            }
            Session.open(bundle, broken).use { other ->
                other.loadFrames(frames(6))
                assertEquals("text_decoder", assertFailsWith<MvgptException> { other.say("What?") }.stage)
            }
        }

    private class Memory(private val all: List<Frame>, override val fps: Double) : FrameSource {
        override val numFrames get() = all.size

        override fun frames(indices: List<Int>) = indices.asSequence().map(all::get)
    }
}
