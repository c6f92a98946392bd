package org.mvgpt.videogpt.bench

import org.junit.jupiter.api.Test
import org.mvgpt.videogpt.Json
import java.io.File
import kotlin.math.abs
import kotlin.test.assertEquals
import kotlin.test.assertTrue

/** The formulas beside numpy's numbers in tests/goldens/benchmark.json. */
class MetricsTest {
    private val cases = goldens().list("cases").map { Fields(it) }

    @Test
    fun `every case's metrics and aggregates are numpy's`() {
        assertTrue(cases.size >= 5, "only ${cases.size} cases")
        for (case in cases) {
            val name = case.text("name")
            val runs = case.list("runs").map { run(Fields(it)) }
            case.list("metrics").forEachIndexed {
                i,
                expected,
                ->
                assertClose(numbers(expected), runMetrics(runs[i]), "$name, run $i")
            }
            val aggregates = aggregate(runs)
            val expected = case.fields("aggregates")
            assertEquals(expected.names, aggregates.keys, name)
            for ((metric, got) in aggregates) {
                val want = expected.fields(metric)
                assertEquals(want.list("outliers").map { (it as Long).toInt() }, got.outliers, "$name: $metric")
                val figures = mapOf(
                    "n" to got.n.toDouble(),
                    "median" to got.median,
                    "p25" to got.p25,
                    "p75" to got.p75,
                    "minimum" to got.minimum,
                    "maximum" to got.maximum,
                )
                assertClose(figures.mapValues { want.number(it.key) }, figures, "$name: $metric")
            }
        }
    }

    @Test
    fun `units and directions`() {
        assertEquals(listOf("ms", "lower"), listOf(unit("video_ready_ms"), better("video_ready_ms")))
        assertEquals(listOf("tokens/s", "higher"), listOf(unit("decode_tokens_per_s@64"), better("decode_tokens_per_s@64")))
        assertEquals(listOf("J", "lower"), listOf(unit("energy_j"), better("energy_j")))
    }

    @Test
    fun `depths are below the full context, and it`() {
        assertEquals(listOf(64, 512, 1024, 2416), depths(2416))
        assertEquals(listOf(64, 512), depths(512))
        assertEquals(listOf(10), depths(10))
    }

    private fun assertClose(expected: Map<String, Double>, got: Map<String, Double>, what: String) {
        assertEquals(expected.keys, got.keys, what)
        for ((name, value) in expected) {
            val difference = abs(value - got.getValue(name))
            assertTrue(difference <= 1e-12 * maxOf(1.0, abs(value)), "$what: $name: expected $value, got ${got[name]}")
        }
    }
}

internal fun goldens(): Fields {
    val root = generateSequence(File("").absoluteFile) { it.parentFile }.first { File(it, "tests/goldens").isDirectory }
    return Fields(Json.parse(File(root, "tests/goldens/benchmark.json").readText()))
}

/** A JSON object, read for tests: what is not as expected fails. */
@Suppress("UNCHECKED_CAST")
internal class Fields(value: Any?) {
    private val members = value as Map<String, Any?>
    val names get() = members.keys

    fun fields(name: String) = Fields(members.getValue(name))

    fun list(name: String) = members.getValue(name) as List<Any?>

    fun text(name: String) = members.getValue(name) as String

    fun number(name: String) = (members.getValue(name) as Number).toDouble()

    fun maybe(name: String) = (members.getValue(name) as Number?)?.toDouble()

    fun map() = members
}

internal fun numbers(value: Any?): Map<String, Double> = Fields(value).map().mapValues { (it.value as Number).toDouble() }

internal fun run(raw: Fields): Run {
    fun question(name: String) =
        raw.fields(name).let {
            Question(it.number("time_to_first_token_ms"), it.number("prompt_eval_ms"), it.number("num_prefilled_tokens").toInt())
        }
    return Run(
        index = raw.number("index").toInt(),
        warmup = raw.map().getValue("warmup") as Boolean,
        testTime = raw.text("test_time"),
        load = raw.fields("load").let { Load(it.maybe("cold_ms"), it.number("warm_ms")) },
        video = numbers(raw.map()["video"]),
        stream = numbers(raw.map()["stream"]),
        firstQuestion = question("first_question"),
        followUp = question("follow_up"),
        streamQuestion = question("stream_question"),
        tests = raw.list("tests").map { test ->
            val fields = Fields(test)
            val (prompt, gen, depth) = listOf("n_prompt", "n_gen", "n_depth").map { fields.number(it).toInt() }
            LanguageModelTest(prompt, gen, depth, fields.list("samples_ns").map { it as Long })
        },
        energyJ = raw.maybe("energy_j"),
        thermal = Thermal(null, null),
    )
}
