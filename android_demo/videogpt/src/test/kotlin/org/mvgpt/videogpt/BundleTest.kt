package org.mvgpt.videogpt

import kotlinx.coroutines.cancel
import kotlinx.coroutines.currentCoroutineContext
import kotlinx.coroutines.launch
import kotlinx.coroutines.runBlocking
import org.junit.jupiter.api.BeforeEach
import org.junit.jupiter.api.DynamicTest
import org.junit.jupiter.api.DynamicTest.dynamicTest
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.TestFactory
import org.junit.jupiter.api.io.TempDir
import java.io.File
import java.nio.file.Path
import kotlin.coroutines.cancellation.CancellationException
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertNull
import kotlin.test.assertTrue

/** What opens, and what is refused with which words. */
class BundleTest {
    @TempDir
    lateinit var temporary: Path
    private lateinit var made: FakeBundle

    @BeforeEach
    fun make() {
        made = FakeBundle(temporary.toFile())
    }

    private fun open(): Bundle = runBlocking { Bundle.open(made.folder) }

    private fun refused(vararg parts: String) {
        val message = assertFailsWith<MvgptException> { open() }.message.orEmpty()
        for (part in parts) assertTrue(part in message, "'$part' is not in: $message")
    }

    @Test
    fun `a bundle opens with what its manifest says`() {
        val bundle = open()
        assertEquals(Geometry.of(FAKE_SIZES), bundle.geometry)
        assertEquals(FAKE_SIZES, Geometry.NAMES.associateWith(bundle.geometry::size))
        assertEquals(File(made.folder, "slm.pte"), bundle.path("text_decoder"))
        assertEquals(listOf("xnnpack"), bundle.manifest.backends)
        assertEquals(SamplingDefaults(0.0, 1.0, 0, 1.0, 9), bundle.manifest.sampling)
        assertEquals(40.5, bundle.manifest.verified?.sqnrDb?.get("slm"))
        assertEquals(File(made.folder, "slm.pte").length(), bundle.manifest.bytesOf("token_embedding"))
    }

    @Test
    fun `progress ends with all bytes`() {
        val seen = ArrayList<Pair<Long, Long>>()
        runBlocking { Bundle.open(made.folder) { done, total -> seen += done to total } }
        val total = made.folder.listFiles().orEmpty().filter { it.name != Contract.MANIFEST_NAME }.sumOf { it.length() }
        assertEquals(total to total, seen.last())
        assertEquals(seen.sortedBy { it.first }, seen)
    }

    @Test
    fun `opening can be cancelled`() {
        var after = 0
        runBlocking {
            val opening =
                launch {
                    val job = currentCoroutineContext()
                    assertFailsWith<CancellationException> {
                        Bundle.open(made.folder) { _, _ ->
                            after++
                            job.cancel()
                        }
                    }
                }
            opening.join()
            assertTrue(opening.isCancelled)
        }
        assertEquals(1, after)
    }

    @TestFactory
    fun `fields that are not as they should be`(): List<DynamicTest> =
        listOf(
            Triple("schema_version", "5", "another schema_version"),
            Triple("contract_version", "\"1\"", "another contract_version"),
            Triple("recipe", "7", "recipe: expected a string, got 7"),
            Triple("kernels", "\"other\"", "kernels: expected fused or stock"),
            Triple(
                "model",
                """{"name": "x", "parameters": 0, "license": ""}""",
                "model.parameters: expected an integer, at least 1",
            ),
            Triple("model", """{"name": "x", "parameters": 1.0, "license": ""}""", "model.parameters: expected an integer"),
            Triple("model", """{"name": "x", "parameters": 1, "license": "", "more": 1}""", "model.more: unknown field"),
            Triple("model", """{"name": "x", "parameters": 1}""", "model.license: missing"),
            Triple("geometry", "{\"image_size\": 1}", "geometry: missing or unknown: num_frames"),
            Triple("stop_ids", "[]", "stop_ids is empty"),
            Triple("stop_ids", "[-1]", "stop_ids: expected an integer"),
            Triple("prompt", """{"prefix": "", "suffix": "{question}", "next_turn": ""}""", "prompt.next_turn has no {question}"),
            Triple("tokenizer", "\"other.json\"", "tokenizer: other.json is not listed"),
            Triple("tokenizer", "\"../tokenizer.json\"", "leaves the bundle folder"),
            Triple("tokenizer", "null", "files: neither of a stage nor the tokenizer: tokenizer.json"),
            Triple("verified", "{}", "verified.inputs: missing"),
            Triple("tools", "{\"a\": \"\\ud800\"}", "not valid Unicode"),
            Triple("tools", "{\"a\": \"\", \"a\": \"\"}", "'a' stands twice"),
            Triple("tools", "{\"a\": \"\"", "expected"),
            Triple("tools", "[".repeat(100_000), "nested deeper"),
            Triple("extra", "1", "extra: unknown field"),
            Triple(
                "sampling",
                """{"temperature": -1, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1, "max_new_tokens": 9}""",
                "sampling: bad temperature",
            ),
        ).map { (field, json, message) ->
            dynamicTest("$field: ${json.take(40)}") {
                // JUnit makes one folder for all of a factory's tests.
                val kept = made.fields[field]
                made.fields[field] = json
                made.write()
                refused(message)
                if (kept == null) made.fields -= field else made.fields[field] = kept
            }
        }

    @TestFactory
    fun `file names that could leave the folder`(): List<DynamicTest> =
        listOf(
            "../slm.pte",
            "/slm.pte",
            "slm.pte/..",
            "slm.pte/",
            "a//slm.pte",
            "slm.pte\\\\x",
            "c:slm.pte",
            "slm.\\u0000pte",
        ).map { name ->
            dynamicTest(name) {
                val kept = made.fields.getValue("stages")
                made.fields["stages"] = kept.replace("\"slm.pte\"", "\"$name\"")
                made.write()
                refused("leaves the bundle folder")
                made.fields["stages"] = kept
            }
        }

    @Test
    fun `every field is needed`() {
        for (field in made.fields.keys.toList()) {
            val kept = made.fields.remove(field)
            made.write()
            refused(if (field.endsWith("version")) "another $field" else "$field: missing")
            made.fields[field] = checkNotNull(kept)
        }
    }

    @Test
    fun `stages of another order, and files of another unit`() {
        val stages = made.fields.getValue("stages")
        made.fields["stages"] = stages.replace("\"frame_scorer\":", "\"scorer\":")
        made.write()
        refused("stages: expected image_encoder, frame_scorer")
        made.fields["stages"] = stages.replace("frame_scorer.pte", "image_encoder.pte")
        made.write()
        refused("image_encoder.pte is not called frame_scorer and a dot")
        made.fields["stages"] = stages
        made.fields["files"] = made.fields.getValue("files").replace("\"slm.pte\"", "\"slm.other\"")
        made.write()
        refused("slm.pte is not listed in files")
    }

    @Test
    fun `files that are missing, cut short or changed`() {
        val file = File(made.folder, "video_encoder.pte")
        val bytes = file.readBytes()
        file.writeBytes(bytes.copyOf(bytes.size - 1))
        refused("video_encoder.pte has another size", "${bytes.size} bytes", "${bytes.size - 1} bytes", "copy or export it again")
        file.writeBytes(bytes.copyOf().also { it[0] = 'N'.code.toByte() })
        refused("video_encoder.pte has another sha256")
        runBlocking { Bundle.open(made.folder, hashes = false) } // compares sizes only, as it says
        file.delete()
        refused("a file of the bundle is missing", file.path)
    }

    @Test
    fun `folders that hold no bundle`() {
        File(made.folder, Contract.MANIFEST_NAME).writeBytes(byteArrayOf(0x22, 0xFF.toByte(), 0x22))
        refused("cannot read the manifest")
        File(made.folder, Contract.MANIFEST_NAME).writeText("[]")
        refused("cannot read the manifest", "a JSON object")
        File(made.folder, Contract.MANIFEST_NAME).delete()
        refused("the folder has no manifest.json")
        val nowhere = File(made.folder, "nowhere")
        val error = assertFailsWith<MvgptException> { runBlocking { Bundle.open(nowhere) } }
        assertEquals("no such bundle folder", error.what)
        assertEquals(nowhere, error.got)
    }

    @Test
    fun `a file that is replaced while the bundle is open is noticed`() {
        val bundle = open()
        bundle.path("text_decoder")
        val file = File(made.folder, "slm.pte")
        file.writeText(file.readText() + "!")
        val error = assertFailsWith<MvgptException> { bundle.path("token_embedding") }
        assertEquals("slm.pte was changed while the bundle was open", error.what)
        bundle.path("frame_scorer")
    }

    @Test
    fun `a bundle without a tokenizer opens and is not asked`() {
        made.fields["tokenizer"] = "null"
        made.fields["files"] = made.fields.getValue("files").replace(Regex(", \"tokenizer.json\".*"), "}")
        made.write()
        val bundle = open()
        assertNull(bundle.manifest.tokenizer)
        runBlocking {
            Session.open(bundle, FakeEngine(bundle.geometry)).use { session ->
                val error = assertFailsWith<MvgptException> { session.begin() }
                assertEquals("tokenizer", error.stage)
            }
        }
    }

    @Test
    fun `stamps of programs`() {
        val bundle = open()
        val geometry = made.fields.getValue("geometry")
        checkStamp(
            bundle,
            "slm.pte",
            """{"stages": ["token_embedding", "text_decoder"], "contract_version": 1, "geometry": $geometry}""",
        )
        for (stamp in listOf(
            """{"stages": ["text_decoder"], "contract_version": 1, "geometry": $geometry}""",
            """{"stages": ["token_embedding", "text_decoder"], "contract_version": 2, "geometry": $geometry}""",
            """{"stages": ["token_embedding", "text_decoder"], "contract_version": 1, "geometry": {}}""",
            "",
        )) {
            val error = assertFailsWith<MvgptException> { checkStamp(bundle, "slm.pte", stamp) }
            assertEquals("slm.pte was exported for another bundle", error.what)
        }
    }
}
