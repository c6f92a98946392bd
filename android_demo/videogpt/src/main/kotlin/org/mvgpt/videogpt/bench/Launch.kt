package org.mvgpt.videogpt.bench

import org.mvgpt.videogpt.MvgptException

/*
 * What mvgpt tells an app to measure, and the lines that the app answers with: docs/benchmarking-phones.md.
 * Parameters come from outside (any app can send an intent): nothing in them is believed.
 */

/** Log tag, and what every line begins with. */
const val BENCH_TAG = "mvgpt-bench"

private const val STAGE = "bench"

/** One launch of the app: [warmup] runs and [repeats] counted ones. */
data class BenchmarkRequest(
    val run: String,
    val bundle: String,
    val video: String,
    val repeats: Int,
    val warmup: Int,
    val threads: Int?,
    val lowMemory: Boolean,
    val prompt: String,
    /** File name, not a path. */
    val out: String,
) {
    companion object {
        val PARAMETERS = listOf("run", "bundle", "video", "repeats", "warmup", "threads", "low_memory", "prompt", "out")

        /**
         * [value] gives a parameter's text or null. Paths must be below [root], as texts: who opens them must
         * compare their canonical form again, because a link may lead elsewhere.
         *
         * @throws MvgptException a parameter is missing or is not as agreed.
         */
        fun parse(root: String, value: (String) -> String?): BenchmarkRequest =
            BenchmarkRequest(
                run = required("run", value) { it.isNotEmpty() && it.length <= 128 },
                bundle = required("bundle", value) { isBelow(root, it) },
                video = required("video", value) { isBelow(root, it) },
                repeats = number("repeats", 1, value),
                warmup = number("warmup", 0, value),
                threads = value("threads")?.let { number("threads", 1, value) },
                lowMemory = required("low_memory", value) { it == "true" || it == "false" }.toBoolean(),
                prompt = required("prompt", value) { it.isNotBlank() },
                out = required("out", value) { PLAIN_NAME.matches(it) },
            )

        private val PLAIN_NAME = Regex("[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
        private const val MOST = 1000

        private fun required(name: String, value: (String) -> String?, ok: (String) -> Boolean): String {
            val text = value(name) ?: throw bad(name, "a text", "nothing")
            if (!ok(text)) throw bad(name, "what docs/benchmarking-phones.md says", text)
            return text
        }

        private fun number(name: String, least: Int, value: (String) -> String?): Int {
            val text = value(name) ?: throw bad(name, "a number", "nothing")
            return text.toIntOrNull()?.takeIf { it in least..MOST } ?: throw bad(name, "$least to $MOST", text)
        }

        private fun bad(name: String, expected: String, got: String) =
            MvgptException(
                "bad parameter $name",
                stage = STAGE,
                expected = expected,
                got = got.take(200),
                remedy = "install the app and mvgpt of the same release",
            )
    }
}

/** Whether [path] is an absolute path below [root] without `.`, `..`, empty names or NUL. */
fun isBelow(root: String, path: String): Boolean {
    if (!path.startsWith("$root/") || '\u0000' in path) return false
    return path.removePrefix("$root/").split('/').none { it.isEmpty() || it == "." || it == ".." }
}

/** The lines of one launch; [print] gets each with its tag, less than 4,000 bytes long. */
class BenchmarkLines(private val run: String, private val print: (String) -> Unit) {
    fun started(version: String) = say("started", "protocol" to PROTOCOL_VERSION, "version" to version)

    fun progress(step: String, done: Int, total: Int) = say("progress", "step" to step, "done" to done, "total" to total)

    /** [sha256] of the result's bytes, when it is whole under its name. */
    fun done(sha256: String) = say("done", "sha256" to sha256)

    fun failed(error: Throwable) {
        val known = error as? MvgptException
        val facts = mapOf(
            "what" to (known?.let { "${it.stage}: ${it.what}" } ?: error.toString()),
            "expected" to known?.expected,
            "got" to known?.got,
            "remedy" to known?.remedy,
        )
        say("failed", *facts.mapNotNull { (name, value) -> value?.let { name to clip("$it") } }.toTypedArray())
    }

    private fun say(event: String, vararg facts: Pair<String, Any>) =
        print("$BENCH_TAG " + ascii(json(mapOf("run" to run, "event" to event) + facts)))

    /** As much of [text] as takes 700 bytes of a line: four such and an id make less than 4,000. */
    private fun clip(text: String): String {
        var bytes = 0
        return text.takeWhile {
            bytes += if (it in ' '..'~' && it != '"' && it != '\\') 1 else 6
            bytes <= 700
        }
    }

    /** A log may cut at a byte, and does so past 4,000: one character, one byte. */
    private fun ascii(line: String): String =
        buildString {
            for (c in line) if (c.code < 0x80) append(c) else append("\\u").append(c.code.toString(16).padStart(4, '0'))
        }
}
