package org.mvgpt.videogpt

import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.io.File
import java.nio.file.Path
import kotlin.test.assertContentEquals
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue

/** What the goldens do not reach; they have the texts. */
class TokenizerTest {
    @TempDir
    lateinit var temporary: Path
    private val text = TINY_TOKENIZER.readText()

    private fun read(json: String): Tokenizer =
        Tokenizer.read(File(temporary.toFile(), "tokenizer.json").also { it.writeText(json) })

    /** The words are those of Hugging Face's `tokenizers`, with the pattern as Qwen2 has it. */
    @Test
    fun `splitting is the pattern's`() {
        for (words in listOf(
            listOf("it", "'s", " WE", "'LL", " I", "'d", " they", "'ve"),
            listOf("'\u017F", "a", " '", "st"), // the long s is another case of s
            listOf("x", "'\u212Aa"),
            listOf(" ", " two", " ", "1", "2", ".", "\t", "3"),
            listOf("a", "\r\n \r\n", " ", " b", " \n\n", "   "),
            listOf("a", "\u0085b", "\u0085", "\u0085c", "\u001C", "\u2028", "\u2029c"),
            listOf("(for", " int", " i", " =", " ", "0", ";\n\n", ")\n"),
            listOf("\uD835\uDD18\uD835\uDD2B", "\u0301x", "!!\r\n", "\u00BD", " ?"),
            listOf("a", " \u00A0", "\u3000b", "  "),
            listOf("'l", " '", "ll", "'LL", "'lx", "'"),
            listOf(" \u0085\n", "\u2028", " x"),
            listOf("\uD835\uDFCE", "\uD835\uDFCF", "\u2160", " \uD83C\uDFAC\uD83C\uDFAC", " x"),
        )) {
            assertEquals(words, splitText(words.joinToString("")))
        }
    }

    @Test
    fun `merges may be strings, as bundles have them, and pairs`() {
        val pair = Regex("\\[\\s*(\"[^\"\\s]+)\",\\s*\"([^\"\\s]+\")\\s*]")
        val strings = text.replace(pair) { "${it.groupValues[1]} ${it.groupValues[2]}" }
        assertTrue(pair.findAll(text).count() > 300)
        val question = "What happens in this video?"
        val expected = Tokenizer.read(TINY_TOKENIZER).encode(question)
        assertTrue(expected.size < question.length)
        assertContentEquals(expected, read(strings).encode(question))
    }

    @Test
    fun `of added tokens the longest is found`() {
        val more = """{"id": 700, "content": "<|im_end|><|im_end|>", "single_word": false, "lstrip": false, "rstrip": false, """ +
            """"normalized": false, "special": false}, """
        val tokenizer = read(text.replace(Regex("\"added_tokens\"\\s*:\\s*\\[")) { it.value + more })
        assertContentEquals(intArrayOf(700, 2), tokenizer.encode("<|im_end|><|im_end|><|im_end|>"))
        assertEquals("<|im_end|><|im_end|>", tokenizer.bytes(700).decodeToString()) // not a control token: it is text
        assertEquals(0, tokenizer.bytes(2).size)
        assertEquals(0, tokenizer.bytes(123_456).size)
    }

    @Test
    fun `files that ask for something else are refused`() {
        fun refused(json: String, part: String) {
            val error = assertFailsWith<MvgptException> { read(json) }
            assertEquals("tokenizer", error.stage)
            assertTrue(part in error.message.orEmpty(), error.message)
        }
        refused("{}", "normalizer: missing")
        refused("", "line 1")
        refused(text.replace("NFC", "NFKC"), "normalizer.type: expected NFC")
        refused(text.replace("|\\\\p{N}|", "|\\\\p{N}{1,3}|"), "pattern")
        refused(text.replace("\"BPE\"", "\"WordPiece\""), "model.type")
        refused(text.replaceFirst(Regex("\"lstrip\"\\s*:\\s*false"), "\"lstrip\": true"), "added_tokens.lstrip: expected false")
        refused(text.replace(Regex("\"byte_fallback\"\\s*:\\s*false"), "\"byte_fallback\": true"), "model.byte_fallback")
    }

    @Test
    fun `malformed UTF-8 is one replacement per beginning of a character`() {
        fun decoded(vararg bytes: Int) = decodeUtf8(ByteArray(bytes.size) { bytes[it].toByte() })
        assertEquals("a\u00E9\u5317\uD83D\uDC69", decodeUtf8("a\u00E9\u5317\uD83D\uDC69".encodeToByteArray()))
        assertEquals("\uFFFD", decoded(0xF0, 0x9F, 0x91))
        assertEquals("\uFFFDa", decoded(0xE5, 0x8C, 0x61))
        assertEquals("\uFFFD\uFFFD", decoded(0xC0, 0x80)) // longer than needed
        assertEquals("\uFFFD\uFFFD\uFFFD", decoded(0xED, 0xA0, 0x80)) // a surrogate
        assertEquals("\uFFFD\uFFFD\uFFFD\uFFFD", decoded(0xF4, 0x90, 0x80, 0x80)) // after U+10FFFF
        assertEquals("\uFFFD\uFFFDx", decoded(0xFF, 0x80, 0x78))
    }
}
