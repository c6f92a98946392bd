package org.mvgpt.videogpt.bench

import org.junit.jupiter.api.Test
import org.mvgpt.videogpt.Json
import org.mvgpt.videogpt.MvgptException
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertFalse
import kotlin.test.assertNull
import kotlin.test.assertTrue

class LaunchTest {
    private val root = "/data/local/tmp/mvgpt"
    private val good = mapOf(
        "run" to "0f3c",
        "bundle" to "$root/bundles/0.5b",
        "video" to "$root/videos/sample clip.mp4",
        "repeats" to "1",
        "warmup" to "0",
        "low_memory" to "false",
        "prompt" to "Was passiert? 日本",
        "out" to "result.json",
    )

    private fun parse(vararg changed: Pair<String, String?>) = (good + changed).let { BenchmarkRequest.parse(root, it::get) }

    @Test
    fun `what mvgpt sends is understood`() {
        val request = parse()
        assertEquals(
            BenchmarkRequest(
                "0f3c",
                "$root/bundles/0.5b",
                "$root/videos/sample clip.mp4",
                1,
                0,
                null,
                false,
                good["prompt"]!!,
                "result.json",
            ),
            request,
        )
        assertEquals(4, parse("threads" to "4").threads)
        assertTrue(parse("low_memory" to "true").lowMemory)
        assertEquals(BenchmarkRequest.PARAMETERS.toSet() - "threads", good.keys)
        assertNull(request.threads)
    }

    @Test
    fun `what another app may send is refused`() {
        val bad = mapOf(
            "run" to listOf(null, "", "x".repeat(129)),
            "bundle" to
                listOf(
                    null,
                    "",
                    root,
                    "$root/",
                    "$root/../a",
                    "$root/a/../../b",
                    "$root//a",
                    "$root/./a",
                    "/sdcard/a",
                    "$root\u0000/a",
                    "${root}x/a",
                ),
            "video" to listOf(null, "$root/a/..", "content://a", "videos/a.mp4"),
            "repeats" to listOf(null, "0", "-1", "1.5", "99999999999", "many"),
            "warmup" to listOf(null, "-1", ""),
            "threads" to listOf("0", "x", "1001"),
            "low_memory" to listOf(null, "yes", "True"),
            "prompt" to listOf(null, "", " \n"),
            "out" to listOf(null, "", ".", "..", "../a.json", "a/b", "/a", ".hidden", "a\u0000", "a b"),
        )
        for ((name, values) in bad) {
            for (value in values) assertFailsWith<MvgptException>("$name: $value") { parse(name to value) }
        }
    }

    @Test
    fun `a path below the root stays there`() {
        assertTrue(isBelow("/a/b", "/a/b/c"))
        for (path in listOf("/a/b", "/a/bc", "/a/b/../c", "a/b/c")) assertFalse(isBelow("/a/b", path), path)
    }

    @Test
    fun `JSON is read back as it was written`() {
        val value = mapOf(
            "text" to "\" \\ / \u0001 \u007f ä 日本 \uD83D\uDE00 \u2028",
            "numbers" to listOf(0L, -5L, Long.MAX_VALUE, 0.1, 1e-7, 1e300),
            "rest" to listOf(true, false, null, emptyMap<String, Any>(), emptyList<Any>()),
        )
        assertEquals(value, Json.parse(json(value)))
        for (bad in listOf(Double.NaN, Double.POSITIVE_INFINITY, 1f, 'x')) assertFailsWith<IllegalArgumentException> { json(bad) }
    }
}
