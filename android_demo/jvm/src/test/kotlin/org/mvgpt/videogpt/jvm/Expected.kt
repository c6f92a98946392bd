package org.mvgpt.videogpt.jvm

import kotlinx.coroutines.flow.toList
import org.mvgpt.videogpt.Answer
import org.mvgpt.videogpt.Bundle
import org.mvgpt.videogpt.Frame
import org.mvgpt.videogpt.Json
import org.mvgpt.videogpt.JsonFields
import org.mvgpt.videogpt.Session
import org.mvgpt.videogpt.Tensor
import org.mvgpt.videogpt.readNpy
import java.io.File
import java.nio.ByteBuffer
import kotlin.test.assertEquals

/** The bundles to test with; `tools/android_tests.py` gives them, and what belongs to each. */
internal val BUNDLES: List<File> = property("mvgpt.bundles").split(File.pathSeparator).map(::File)

private fun property(name: String): String =
    checkNotNull(System.getProperty(name)) { "run these tests with `make test-android`: it sets $name" }

/** Golden vectors of a bundle. */
internal fun vectorsOf(bundle: File): File = File(property("mvgpt.expected"), "${bundle.name}/vectors")

internal suspend fun openSession(bundle: File, lowMemory: Boolean = false, threads: Int? = null): Session {
    // Python checked the hashes when it wrote what is expected.
    val opened = Bundle.open(bundle, hashes = false)
    return Session.open(opened, JvmEngine(opened, threads), lowMemory)
}

/** What Python's session answered on this machine; `tools/write_android_answers.py` describes the file. */
internal class Expected(bundle: File) {
    private val folder = File(property("mvgpt.expected"), "${bundle.name}/answers")
    private val fields = JsonFields(Json.parse(File(folder, "answers.json").readText()))

    val clips: List<ExpectedClip> = fields.list("clips").map { ExpectedClip(JsonFields(it)) }
    val stream: ExpectedClip = ExpectedClip(fields.fields("stream"))
    val cancelled: ExpectedClip = ExpectedClip(fields.fields("cancelled"))
    val limits: ExpectedClip = ExpectedClip(fields.fields("limits"))

    fun frames(clip: ExpectedClip): List<Frame> {
        val all = readNpy(File(folder, "${clip.name}.npy"))
        val (count, height, width) = all.shape
        return List(count) { index ->
            val rgb = ByteArray(height * width * 3)
            all.data.duplicate().apply { position(index * rgb.size) }.get(rgb)
            Frame(width, height, rgb)
        }
    }

    fun array(clip: ExpectedClip, name: String): Tensor = readNpy(File(folder, "${clip.name}-$name.npy"))
}

internal class ExpectedClip(val fields: JsonFields) {
    val name: String = fields.string("clip")
    val asked: List<Asked> = fields.list("asked").map { Asked(JsonFields(it)) }
}

/** A question with its options, and the answer to it. */
internal class Asked(private val fields: JsonFields) {
    val question: String = fields.string("question")
    val tokenIds: List<Int> = fields.list("token_ids").map { (it as Long).toInt() }

    fun ask(session: Session): Answer =
        session.ask(
            question,
            keepHistory = "keep_history" in fields,
            maxNewTokens = fields.int("max_new_tokens"),
            temperature = optional("temperature")?.let(fields::double),
            topP = optional("top_p")?.let(fields::double),
            topK = optional("top_k")?.let(fields::int),
            repetitionPenalty = optional("repetition_penalty")?.let(fields::double),
            seed = optional("seed")?.let { fields.value(it) as Long } ?: 0,
        )

    private fun optional(name: String) = name.takeIf { it in fields }

    /** Ask, and compare all of the answer. */
    suspend fun check(session: Session) {
        val answer = ask(session)
        val pieces = answer.toList().map { it.text }
        compare(answer, pieces)
    }

    fun compare(answer: Answer, pieces: List<String>) {
        assertEquals(tokenIds, answer.tokenIds, question)
        assertEquals(fields.strings("pieces"), pieces)
        assertEquals(fields.string("text"), answer.text)
        assertEquals(fields.string("finish_reason"), answer.finishReason.toString().lowercase())
        for (name in listOf("num_prompt_tokens", "num_prefilled_tokens", "num_generated_tokens")) {
            assertEquals(fields.double(name), answer.stats[name], name)
        }
    }
}

/** The same numbers to the bit. */
internal fun assertSame(expected: Tensor, parts: List<Tensor>, what: String) {
    val bytes = ByteBuffer.allocate(parts.sumOf { it.data.limit() })
    for (part in parts) bytes.put(part.data.duplicate())
    bytes.flip()
    assertEquals(expected.dtype, parts[0].dtype, what)
    assertEquals(expected.data.limit(), bytes.limit(), what)
    val at = expected.data.duplicate().mismatch(bytes)
    if (at >= 0) throw AssertionError("$what differs first in element ${at / expected.dtype.bytes} of ${expected.elements}")
}
