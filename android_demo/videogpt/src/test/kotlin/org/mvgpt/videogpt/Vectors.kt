package org.mvgpt.videogpt

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import kotlin.math.abs
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertTrue

/** The repository, from wherever tests are started in it. */
internal val REPOSITORY: File =
    generateSequence(File("").absoluteFile) { it.parentFile }.first { File(it, "tests/goldens/vectors").isDirectory }

internal val TINY_TOKENIZER = File(REPOSITORY, "export/mvgpt_export/data/tiny/tokenizer.json")

/** A folder of golden vectors, read as docs/golden-vectors.md describes it. */
internal class Vectors(val folder: File) {
    val cases: List<Case> = run {
        val fields = JsonFields(Json.parse(File(folder, Contract.VECTORS_NAME).readText(Charsets.US_ASCII)))
        assertEquals(Contract.VECTORS_SCHEMA_VERSION, fields.int("schema_version"))
        fields.list("cases").map { Case(folder, JsonFields(it)) }
    }
}

internal class Case(folder: File, fields: JsonFields) {
    val id = fields.string("id")
    val stage = fields.string("stage")
    val inputs = fields.list("inputs").map { Input(JsonFields(it)) }
    val outputs = fields.list("outputs").map { Output(folder, JsonFields(it)) }

    fun input(name: String) = inputs.single { it.name == name }

    fun output(name: String) = outputs.single { it.name == name }

    /** The rows of the case's only output. */
    fun rows(): List<Row> = outputs.single().rows()
}

/** A row of a table: its cells by the names of the columns. */
internal class Row(private val cells: Map<String, String>) {
    operator fun get(column: String): String = cells.getValue(column)

    fun int(column: String) = this[column].toInt()

    fun double(column: String) = this[column].toDouble()

    fun maybe(column: String) = this[column].ifEmpty { null }?.toDouble()

    fun ints(column: String) = words(column).map { it.toInt() }

    fun doubles(column: String) = words(column).map { it.toDouble() }

    fun words(column: String) = this[column].split(' ').filter { it.isNotEmpty() }

    fun json(column: String) = Json.parse(this[column])

    override fun toString() = cells.toString().take(300)
}

internal class Output(folder: File, fields: JsonFields) {
    val name = fields.string("name")
    private val file = File(folder, fields.string("file"))
    private val dtype = fields.string("dtype")
    private val shape = fields.list("shape").map { (it as Long).toInt() }
    private val stride = fields.int("stride", 1)
    private val compare = fields.string("compare")
    private val tolerance = fields.double("tolerance")

    fun rows(): List<Row> {
        val lines = file.readText(Charsets.US_ASCII).removeSuffix("\n").split('\n').map { it.split('\t') }
        val columns = lines.first()
        val rows = lines.drop(1)
        assertEquals(shape, listOf(rows.size, columns.size), file.name)
        assertTrue(rows.all { it.size == columns.size }, file.name)
        return rows.map { Row(columns.zip(it).toMap()) }
    }

    /** Fails unless `parts`, one after the other, are this output. */
    fun check(parts: List<Tensor>) {
        assertTrue(parts.all { it.dtype.numpyName == dtype }, "${file.name}: ${parts[0].dtype}")
        assertEquals(shape.fold(1, Int::times), parts.sumOf { it.elements }, "${file.name}: elements")
        val all = parts.flatMap { it.doubles() }
        val got = List((all.size + stride - 1) / stride) { all[it * stride] }
        val expected = readNpy(file).doubles()
        if (compare == "exact") {
            assertContentEquals(expected, got, file.name)
            return
        }
        assertEquals("close", compare)
        assertEquals(expected.size, got.size, file.name)
        val limit = tolerance * expected.maxOf { abs(it) }
        for (i in expected.indices) {
            val difference = abs(got[i] - expected[i])
            assertTrue(difference <= limit, "${file.name}: value ${i * stride}: ${expected[i]}, got ${got[i]}, limit $limit")
        }
    }

    /**
     * Compare the cells of `column` row by row.
     *
     * @return false if a tie was decided otherwise: what follows then follows from another choice
     */
    fun checkChoices(column: String, got: List<String>): Boolean {
        assertEquals("choices", compare)
        val expected = rows()
        assertEquals(expected.size, got.size, file.name)
        for ((row, choice) in expected.zip(got)) {
            if (row[column] != choice) {
                assertTrue(row.double("margin") < row.double("tie_below"), "${file.name}: expected $row, got $choice")
                return false
            }
        }
        return true
    }
}

internal class Input(private val fields: JsonFields) {
    val name = fields.string("name")
    private val shape = fields.list("shape").map { (it as Long).toInt() }.toIntArray()
    private val count = shape.fold(1, Int::times)

    fun text(): String {
        assertEquals("text", fields.string("generator"))
        return fields.string("text")
    }

    fun tensor(): Tensor {
        val draws = SplitMix64(if ("seed" in fields) fields.value("seed") as Long else 0)
        return when (fields.string("generator")) {
            "integers" -> {
                Tensor.longs(LongArray(count) { integer(draws, fields.long("below")) }, *shape)
            }

            "floats" -> {
                val scale = fields.double("scale") / (1 shl 23)
                Tensor.floats(FloatArray(count) { (((draws.next() ushr 40) - (1 shl 23)) * scale).toFloat() }, *shape)
            }

            "values" -> {
                val values = fields.list("values").map { (it as Number).toDouble() }
                val all = List(count) { values[it % values.size] }
                when (fields.string("dtype")) {
                    "float32" -> Tensor.floats(FloatArray(count) { all[it].toFloat() }, *shape)
                    "int64" -> Tensor.longs(LongArray(count) { all[it].toLong() }, *shape)
                    else -> fields.refuse("dtype", "float32 or int64")
                }
            }

            "frames" -> {
                Tensor.bytes(drawnFrames(draws, shape[0], shape[1], shape[2]), *shape)
            }

            else -> {
                fields.refuse("generator", "one that docs/golden-vectors.md knows")
            }
        }
    }

    /** Of an input uint8 \[n, height, width, 3]. */
    fun frames(): List<Frame> {
        val (n, height, width) = shape
        val all = tensor()
        return List(n) { i -> Frame(width, height, ByteArray(height * width * 3).also { all.rows(i, 1).data.get(it) }) }
    }
}

internal fun integer(draws: SplitMix64, below: Long): Long = (draws.next() ushr 33) % below

internal fun drawnFrames(draws: SplitMix64, n: Int, height: Int, width: Int): ByteArray {
    val waves = List(3) { LongArray(4) { draws.next() ushr 48 } }
    val out = ByteArray(n * height * width * 3)
    var at = 0
    for (t in 0 until n) {
        for (y in 0 until height) {
            for (x in 0 until width) {
                val noise = draws.next()
                for ((c, wave) in waves.withIndex()) {
                    val (a, b, d, p) = wave
                    val turn =
                        (1 + a % 4) * x * 65536 / width + (1 + b % 4) * y * 65536 / height + (1 + d % 2) * t * 65536 / n + p
                    val level = (abs(turn % 65536 - 32768) * 320 shr 15) - 48 + (noise ushr 8 * c and 31)
                    out[at++] = level.coerceIn(0, 255).toByte()
                }
            }
        }
    }
    return out
}

/** Version 1.0, little-endian, C order. */
internal fun readNpy(file: File): Tensor {
    val bytes = ByteBuffer.wrap(file.readBytes()).order(ByteOrder.LITTLE_ENDIAN)
    val start = 10 + bytes.getShort(8)
    val header = String(bytes.array(), 10, start - 10, Charsets.US_ASCII)
    val match = checkNotNull(Regex("'descr': '(.*?)', 'fortran_order': False, 'shape': \\((.*?)\\)").find(header)) { header }
    val shape = match.groupValues[2].split(',').filter { it.isNotBlank() }.map { it.trim().toInt() }.toIntArray()
    val count = shape.fold(1, Int::times)
    bytes.position(start)
    val values = bytes.slice().order(ByteOrder.LITTLE_ENDIAN)
    return when (match.groupValues[1]) {
        "|u1" -> Tensor.bytes(ByteArray(count).also { values.get(it) }, *shape)
        "<i8" -> Tensor.longs(LongArray(count).also { values.asLongBuffer().get(it) }, *shape)
        "<f4" -> Tensor.floats(FloatArray(count).also { values.asFloatBuffer().get(it) }, *shape)
        else -> error(header)
    }
}

internal fun Tensor.doubles(): List<Double> =
    when (dtype) {
        DType.UINT8 -> List(elements) { (data.get(it).toInt() and 0xFF).toDouble() }
        DType.INT64 -> toLongs().map { it.toDouble() }
        DType.FLOAT32 -> toFloats().map { it.toDouble() }
    }
