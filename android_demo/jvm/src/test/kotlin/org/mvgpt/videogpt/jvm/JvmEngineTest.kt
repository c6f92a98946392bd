package org.mvgpt.videogpt.jvm

import kotlinx.coroutines.runBlocking
import org.junit.jupiter.api.AfterEach
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import org.mvgpt.videogpt.Bundle
import org.mvgpt.videogpt.Contract
import org.mvgpt.videogpt.DType
import org.mvgpt.videogpt.MvgptException
import org.mvgpt.videogpt.Tensor
import org.mvgpt.videogpt.toFloats
import org.mvgpt.videogpt.zeroInputs
import java.io.File
import java.nio.file.Files
import java.security.MessageDigest
import kotlin.test.assertContains
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertFalse
import kotlin.test.assertTrue

/** The engine alone, and what it and the bundle refuse. */
class JvmEngineTest {
    private val folder = BUNDLES.first()
    private val bundle = open(folder)
    private val engine = JvmEngine(bundle)

    @AfterEach
    fun close() = engine.close()

    @Test
    fun `outputs belong to the caller`() {
        val first = embed(1, 2, 3)
        val before = first.toFloats()
        embed(4, 5, 6)
        assertContentEquals(before, first.toFloats())
        engine.unload("token_embedding")
        assertContentEquals(before, first.toFloats())
    }

    @Test
    fun `the KV cache lasts from call to call, until its unit is unloaded`() {
        val rows = embed(7, 8, 9)
        val row = embed(10)
        decode(rows, 0)
        val after = decode(row, 3)
        assertContentEquals(after, decode(row, 3)) // rewound
        embed(11)
        assertContentEquals(after, decode(row, 3)) // another method of its program ran between
        engine.unload("token_embedding")
        assertFalse(after.contentEquals(decode(row, 3)))
        decode(rows, 0)
        assertContentEquals(after, decode(row, 3))
    }

    @Test
    fun `every stage gives what the contract says`() {
        for (stage in Contract.STAGES) {
            val outputs = engine.run(stage.name, zeroInputs(stage.name, bundle.geometry))
            assertEquals(stage.outputs.map { it.dtype }, outputs.map { it.dtype }, stage.name)
            for ((spec, output) in stage.outputs.zip(outputs)) {
                val least = spec.shape(bundle.geometry).map { it.first }
                assertEquals(least, output.shape.toList(), "${stage.name} ${spec.name}")
            }
        }
    }

    @Test
    fun `inputs that do not fit are refused, and the engine goes on`() {
        val row = embed(1)
        val wanted = decode(row, 0)
        val most = bundle.geometry.maxContext
        for (inputs in listOf(
            emptyList(),
            listOf(row),
            listOf(row, Tensor.floats(floatArrayOf(0f), 1)),
            listOf(Tensor.allocate(DType.FLOAT32, 1, 1, bundle.geometry.hiddenSize + 1), position(0)),
            listOf(Tensor.allocate(DType.FLOAT32, 1, bundle.geometry.prefillChunk + 1, bundle.geometry.hiddenSize), position(0)),
            listOf(row, position(-1)),
            listOf(row, position(most.toLong())),
            listOf(row, position(Long.MAX_VALUE)),
        )) {
            val error = assertFailsWith<MvgptException> { engine.run("text_decoder", inputs) }
            assertEquals("text_decoder", error.stage)
        }
        assertContentEquals(wanted, decode(row, 0))
        decode(row, most - 1)
    }

    @Test
    fun `operators that the runtime lacks are named`(
        @TempDir temporary: File,
    ) {
        val copy = copy(temporary) { it.replace("aten::expand_copy.out", "mvgpt::of_tomorrow.out") }
        val error = assertFailsWith<MvgptException> { JvmEngine(open(copy)).use { it.load("image_encoder") } }
        assertEquals("mvgpt::of_tomorrow.out", error.expected)
        assertContains(error.what, "lacks operators")
        assertContains(error.remedy.toString(), "--kernels stock")
    }

    @Test
    fun `a runtime without our operators says so`() {
        // In a Java virtual machine of its own: kernels cannot be taken out of one.
        val java = File(System.getProperty("java.home"), "bin/java").path
        val jni = "-Dmvgpt.jni=${System.getProperty("mvgpt.jni")}"
        val classes = System.getProperty("java.class.path")
        val main = "org.mvgpt.videogpt.jvm.StockRuntimeKt"
        val process = ProcessBuilder(java, jni, "-cp", classes, main, folder.path).redirectErrorStream(true).start()
        val said = process.inputStream.reader().readText()
        assertEquals(0, process.waitFor(), said)
        assertContains(said, "expected: mvgpt::grouped_query_attention.out")
        assertContains(said, "--kernels stock")
        assertContains(said, "frame_scorer runs") // which needs none of them
    }

    @Test
    fun `a program of another bundle is refused`(
        @TempDir temporary: File,
    ) {
        val most = bundle.geometry.maxContext
        val copy = copy(temporary) { it.replace("\"max_context\": $most", "\"max_context\": ${most - 8}") }
        val error = assertFailsWith<MvgptException> { JvmEngine(open(copy)).use { it.load("frame_scorer") } }
        assertEquals("frame_scorer.pte was exported for another bundle", error.what)
    }

    @Test
    fun `another contract version is refused, of the bundle and of a program`(
        @TempDir temporary: File,
    ) {
        val bundle = copy(File(temporary, "bundle")) { it.replace("\"contract_version\": 1", "\"contract_version\": 2") }
        assertContains(assertFailsWith<MvgptException> { open(bundle) }.what, "another contract_version")

        val program = copy(File(temporary, "program")) { it }
        rewrite(program, "image_projector.pte", hash = true) { bytes ->
            val at = String(bytes, Charsets.ISO_8859_1).indexOf("\"contract_version\": 1")
            assertTrue(at > 0)
            bytes[at + "\"contract_version\": ".length] = '2'.code.toByte()
            bytes
        }
        val error = assertFailsWith<MvgptException> { JvmEngine(open(program)).use { it.load("image_projector") } }
        assertEquals("image_projector.pte was exported for another bundle", error.what)
    }

    @Test
    fun `a damaged bundle is refused`(
        @TempDir temporary: File,
    ) {
        val flipped = copy(File(temporary, "flipped")) { it }
        rewrite(flipped, "slm.pte", hash = false) { bytes -> bytes.also { it[it.size / 2] = (it[it.size / 2] + 1).toByte() } }
        assertContains(assertFailsWith<MvgptException> { open(flipped) }.what, "slm.pte has another sha256")

        val short = copy(File(temporary, "short")) { it }
        rewrite(short, "slm.pte", hash = false) { it.copyOf(it.size - 1) }
        assertContains(assertFailsWith<MvgptException> { open(short) }.what, "slm.pte has another size")

        val missing = copy(File(temporary, "missing")) { it }
        File(missing, "slm.pte").delete()
        assertContains(assertFailsWith<MvgptException> { open(missing) }.what, "missing")

        val other = copy(File(temporary, "other")) { it }
        rewrite(other, "frame_scorer.pte", hash = true) { ByteArray(it.size) }
        val error = assertFailsWith<MvgptException> { JvmEngine(open(other)).use { it.load("frame_scorer") } }
        assertEquals("ExecuTorch cannot load frame_scorer.pte", error.what)
        assertContains(error.got.toString(), "InvalidProgram")
    }

    private fun open(folder: File): Bundle = runBlocking { Bundle.open(folder) }

    private fun embed(vararg ids: Int): Tensor =
        engine.run("token_embedding", listOf(Tensor.longs(LongArray(ids.size) { ids[it].toLong() }, 1, ids.size))).single()

    private fun decode(rows: Tensor, start: Int): FloatArray =
        engine.run("text_decoder", listOf(rows, position(start.toLong()))).single().toFloats()

    private fun position(start: Long) = Tensor.longs(longArrayOf(start), 1)

    /** The bundle as links to its files, with another manifest. */
    private fun copy(target: File, manifest: (String) -> String): File {
        target.mkdirs()
        for (name in bundle.manifest.files.keys) {
            Files.createSymbolicLink(File(target, name).toPath(), File(folder, name).toPath())
        }
        val text = File(folder, Contract.MANIFEST_NAME).readText()
        File(target, Contract.MANIFEST_NAME).writeText(manifest(text))
        return target
    }

    /** A file of a copy made anew; with `hash`, the manifest says that it is right. */
    private fun rewrite(copy: File, name: String, hash: Boolean, change: (ByteArray) -> ByteArray) {
        val file = File(copy, name)
        val bytes = change(file.readBytes())
        file.delete() // the link
        file.writeBytes(bytes)
        if (!hash) return
        val sha256 = MessageDigest.getInstance("SHA-256").digest(bytes).joinToString("") { "%02x".format(it) }
        val manifest = File(copy, Contract.MANIFEST_NAME)
        manifest.writeText(manifest.readText().replace(bundle.manifest.files.getValue(name).sha256, sha256))
    }
}
