package org.mvgpt.videogpt

import java.io.File
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.fail

/**
 * Runs the cases of a folder of golden vectors. With a model, those of `mvgpt goldens BUNDLE` too; run them in order, since the
 * text decoder's share a KV cache.
 */
internal class GoldenCases(folder: File, private val prompt: Prompt, model: Model? = null) {
    class Model(val engine: Engine, val geometry: Geometry)

    val cases: List<Case> = Vectors(folder).cases
    private val model by lazy { model ?: fail("this case needs a model") }

    fun run(case: Case) {
        when (case.stage) {
            "splitmix64" -> each(case) { row ->
                val draws = SplitMix64(row["seed"].toULong().toLong())
                assertEquals(row.words("draws"), List(4) { draws.next().toULong().toString() })
            }

            "generator" -> case.output("values").check(listOf(case.inputs.single().tensor()))

            "sample_indices" -> each(case) { row ->
                val indices =
                    sampleIndices(
                        row.int("num_frames"),
                        row.double("fps"),
                        row.maybe("start_s"),
                        row.maybe("end_s"),
                        row.int("max_frames"),
                    )
                assertEquals(row.ints("indices"), indices)
            }

            "frame_clock" -> each(case) { row ->
                val clock = FrameClock()
                val taken = row.doubles("timestamps_s").map(clock::takes)
                assertEquals(row.ints("taken"), taken.indices.filter { taken[it] })
            }

            "resize_clip" -> resize(case, ::resizeClip)

            "resize_video" -> resize(case, ::resizeVideo)

            "prompt" -> each(case, ::prompt)

            "text_stream" -> each(case) { row ->
                val stream = TextStream(prompt.tokenizer)
                assertEquals(row.json("pieces"), row.ints("ids").map(stream::push) + stream.finish())
            }

            "chunk_plan" -> each(case, ::chunkPlan)

            "sampler" -> each(case, ::sampler)

            "rate" -> each(case) { row ->
                val stats = Stats().apply { rate("decode_tokens_per_s", row.double("count"), row.double("ms")) }
                assertEquals(row.maybe("per_second"), stats["decode_tokens_per_s"])
            }

            "sum" -> each(case) { row ->
                val stats = Stats()
                for (value in row.doubles("values")) stats.add("model_load_ms", value)
                assertEquals(row.double("total"), stats["model_load_ms"])
            }

            in Contract.STAGE_NAMES -> stage(case)

            "pipeline" -> GoldenPipeline(model, prompt).run(case)

            else -> fail("a case of a stage that this test does not know: ${case.stage}")
        }
    }

    private fun each(case: Case, test: (Row) -> Unit) {
        for (row in case.rows()) {
            try {
                test(row)
            } catch (e: Throwable) {
                throw AssertionError("$row: ${e.message}", e)
            }
        }
    }

    private fun resize(case: Case, resize: (Frame, Int) -> ByteArray) {
        val size = case.id.substringAfter("-to-").toInt()
        val pixels = resize(case.input("frame").frames().single(), size)
        case.output("pixels").check(listOf(Tensor.bytes(pixels, size, size, 3)))
    }

    private fun prompt(row: Row) {
        if (row["piece"] == "prefix") {
            assertEquals(row.ints("ids"), prompt.prefixIds)
            return
        }
        val ask = if (row["piece"] == "suffix") prompt::suffixIds else prompt::nextTurnIds
        val question = (row.json("text") as String).repeat(row.int("repeat"))
        if (row["ids"] == "refused") {
            assertFailsWith<MvgptException> { ask(question) }
        } else {
            assertEquals(row.ints("ids"), ask(question))
        }
    }

    private fun chunkPlan(row: Row) {
        val sizes =
            Geometry.NAMES.associateWith { 1 } +
                listOf("num_frames", "image_tokens", "video_tokens").associateWith(row::int) +
                ("chunk_frames" to row.int("num_frames") / row.int("num_chunks"))
        val blocks = videoBlocks(row.int("prefix"), Geometry.of(sizes)) + row.int("question")
        val plan = chunkPlan(blocks, row.int("prefill_chunk"))
        assertEquals(row.words("plan"), plan.map { "${it.startPos}:${it.rows}" })
    }

    private fun sampler(row: Row) {
        val options =
            SamplingOptions(
                row.double("temperature"),
                row.double("top_p"),
                row.int("top_k"),
                row.double("repetition_penalty"),
                row["seed"].toULong().toLong(),
            )
        val draws = SplitMix64(row["logits_seed"].toLong())
        val levels = row.int("levels")
        val logits = FloatArray(row.int("vocab")) { (integer(draws, levels.toLong()) - levels / 2) / 4f }
        val sampler = Sampler(options, row.ints("seen"))
        assertEquals(row.ints("tokens"), List(16) { sampler.choose(logits) })
    }

    private fun stage(case: Case) {
        val spec = Contract.stage(case.stage)
        val outputs = model.engine.run(case.stage, spec.inputs.map { case.input(it.name).tensor() })
        assertEquals(spec.outputs.size, outputs.size)
        for ((tensor, output) in spec.outputs.zip(outputs)) case.output(tensor.name).check(listOf(output))
    }
}

/** A whole video and the greedy answer to a question. */
private class GoldenPipeline(private val model: GoldenCases.Model, private val prompt: Prompt) {
    fun run(case: Case) {
        val engine = Recording(model.engine)
        val generator = Generator(engine, model.geometry)
        val suffix = prompt.suffixIds(case.input("question").text())
        val ingest = Ingest(engine, model.geometry, generator, prompt.prefixIds, false, Stats(), {}, System.nanoTime())
        for (frame in case.input("frames").frames()) ingest.encode(ingest.prepare(frame))
        val video = ingest.finish()
        val logits = generator.prefill(generator.embed(suffix)) {}
        assertEquals(case.output("prefill").rows().map { Chunk(it.int("start_pos"), it.int("rows")) }, engine.decoded)
        case.output("clip_features").check(video.clipFeatures)
        case.output("frame_scores").check(video.frameScores)
        if (!case.output("selected").checkChoices("selected", video.selected.map { it.toLongs().joinToString(" ") })) return
        case.output("video_features").check(listOf(video.videoFeatures))
        case.output("visual_tokens").check(video.visualTokens)
        case.output("logits").check(listOf(Tensor.floats(logits, logits.size)))
        val count = case.output("tokens").rows().size
        val sampler = Sampler(SamplingOptions())
        // Past stop tokens too: the more tokens the better.
        val steps = generator.decode(logits, emptySet(), count, Stats(), { false }, sampler::choose)
        val tokens = steps.asSequence().filterIsInstance<Step.Chosen>().map { "${it.id}" }.toList()
        case.output("tokens").checkChoices("token_id", tokens)
    }

    /** Notes what the text decoder is called with. */
    private class Recording(private val engine: Engine) : Engine by engine {
        val decoded = ArrayList<Chunk>()

        override fun run(stage: String, inputs: List<Tensor>): List<Tensor> {
            if (stage == "text_decoder") decoded += Chunk(inputs[1].data.getLong(0).toInt(), inputs[0].shape[1])
            return engine.run(stage, inputs)
        }
    }
}
