package org.mvgpt.videogpt

internal class JsonException(message: String) : Exception(message)

/**
 * RFC 8259, strictly. Values are `Map<String, Any?>` (in the order of the file), `List<Any?>`, `String`, `Long` for numbers
 * written as integers, `Double` for others, `Boolean` and null. No library for it is the same on Android and elsewhere.
 */
internal object Json {
    /** @throws JsonException not one JSON value, a name twice, a lone surrogate, or a number out of range */
    fun parse(text: String): Any? = JsonParser(text).whole()
}

private class JsonParser(private val text: String) {
    private var at = 0

    fun whole(): Any? {
        val value = value(0)
        skipSpace()
        if (at < text.length) fail("the end")
        return value
    }

    private fun value(depth: Int): Any? {
        if (depth > MAX_DEPTH) throw JsonException("nested deeper than $MAX_DEPTH")
        skipSpace()
        return when (peek()) {
            '{' -> members(depth)
            '[' -> items(depth)
            '"' -> string()
            't' -> word("true", true)
            'f' -> word("false", false)
            'n' -> word("null", null)
            else -> number()
        }
    }

    private fun members(depth: Int): Map<String, Any?> {
        val members = LinkedHashMap<String, Any?>()
        list('}') {
            skipSpace()
            if (peek() != '"') fail("a name")
            val name = string()
            skipSpace()
            if (peek() != ':') fail("':'")
            at++
            if (name in members) throw JsonException("'$name' stands twice in an object")
            members[name] = value(depth + 1)
        }
        return members
    }

    private fun items(depth: Int): List<Any?> {
        val items = ArrayList<Any?>()
        list(']') { items += value(depth + 1) }
        return items
    }

    private inline fun list(end: Char, item: () -> Unit) {
        at++
        skipSpace()
        if (peek() == end) {
            at++
            return
        }
        while (true) {
            item()
            skipSpace()
            when (peek()) {
                ',' -> {
                    at++
                }

                end -> {
                    at++
                    return
                }

                else -> {
                    fail("',' or '$end'")
                }
            }
        }
    }

    private fun string(): String {
        val start = ++at
        while (at < text.length && text[at] != '"' && text[at] != '\\' && text[at] >= ' ') at++
        if (peek() == '"') return checked(text.substring(start, at++))
        val out = StringBuilder(text.substring(start, at))
        while (true) {
            val c = peek() ?: fail("'\"'")
            at++
            when {
                c == '"' -> return checked(out.toString())
                c == '\\' -> out.append(escaped())
                c < ' ' -> fail("an escape for a control character")
                else -> out.append(c)
            }
        }
    }

    private fun escaped(): Char {
        val c = peek() ?: fail("an escape")
        at++
        return when (c) {
            '"', '\\', '/' -> {
                c
            }

            'b' -> {
                '\b'
            }

            'f' -> {
                '\u000C'
            }

            'n' -> {
                '\n'
            }

            'r' -> {
                '\r'
            }

            't' -> {
                '\t'
            }

            'u' -> {
                val digits = text.substring(at, minOf(at + 4, text.length))
                if (digits.length < 4 || !digits.all { it in '0'..'9' || it in 'a'..'f' || it in 'A'..'F' }) {
                    fail("four hexadecimal digits")
                }
                at += 4
                digits.toInt(16).toChar()
            }

            else -> {
                fail("an escape")
            }
        }
    }

    private fun checked(value: String): String =
        if (isUnicode(value)) value else throw JsonException("a string is not valid Unicode")

    private fun word(word: String, value: Any?): Any? {
        if (!text.startsWith(word, at)) fail("a value")
        at += word.length
        return value
    }

    private fun number(): Any {
        val start = at
        if (peek() == '-') at++
        if (peek() == '0') at++ else digits()
        var whole = true
        if (peek() == '.') {
            whole = false
            at++
            digits()
        }
        if (peek() == 'e' || peek() == 'E') {
            whole = false
            at++
            if (peek() == '+' || peek() == '-') at++
            digits()
        }
        val written = text.substring(start, at)
        val value: Number? = if (whole) written.toLongOrNull() else written.toDouble().takeIf { it.isFinite() }
        return value ?: throw JsonException("$written is out of range")
    }

    private fun digits() {
        val start = at
        while (at < text.length && text[at] in '0'..'9') at++
        if (at == start) fail("a value")
    }

    private fun peek(): Char? = text.getOrNull(at)

    private fun skipSpace() {
        while (at < text.length && (text[at] == ' ' || text[at] == '\n' || text[at] == '\r' || text[at] == '\t')) at++
    }

    private fun fail(expected: String): Nothing {
        val line = text.substring(0, minOf(at, text.length)).count { it == '\n' } + 1
        throw JsonException("line $line: expected $expected, got ${peek()?.let { "'$it'" } ?: "the end"}")
    }

    private companion object {
        const val MAX_DEPTH = 100
    }
}

/** Whether no surrogate stands alone. */
internal fun isUnicode(text: String): Boolean {
    var i = 0
    while (i < text.length) {
        if (text[i].isSurrogate()) {
            if (!text[i].isHighSurrogate() || i + 1 == text.length || !text[i + 1].isLowSurrogate()) return false
            i++
        }
        i++
    }
    return true
}

/** A JSON object read field by field; every error names the field. [end] refuses what nobody asked for. */
internal class JsonFields(value: Any?, private val where: String = "") {
    @Suppress("UNCHECKED_CAST")
    private val fields = value as? Map<String, Any?> ?: throw JsonException("${where.ifEmpty { "it" }} is no object")
    private val asked = HashSet<String>()

    val names: Set<String> get() = fields.keys

    operator fun contains(name: String): Boolean = name in fields

    fun value(name: String): Any? {
        asked += name
        if (name !in fields) throw JsonException("${path(name)}: missing")
        return fields[name]
    }

    fun string(name: String): String = value(name) as? String ?: refuse(name, "a string")

    fun long(name: String, least: Long = 0): Long =
        (value(name) as? Long)?.takeIf { it >= least } ?: refuse(name, "an integer, at least $least")

    fun int(name: String, least: Int = 0): Int =
        long(name, least.toLong()).takeIf { it <= Int.MAX_VALUE }?.toInt() ?: refuse(name, "an integer of 32 bits")

    fun double(name: String): Double =
        when (val value = value(name)) {
            is Double -> value
            is Long -> value.toDouble()
            else -> refuse(name, "a number")
        }

    fun list(name: String): List<Any?> = value(name) as? List<*> ?: refuse(name, "a list")

    fun strings(name: String): List<String> = list(name).map { it as? String ?: refuse(name, "strings") }

    fun fields(name: String): JsonFields = JsonFields(value(name), path(name))

    /** An object whose names are not known, each value read by `read(fields, name)`. */
    fun <T> map(name: String, read: JsonFields.(String) -> T): Map<String, T> =
        fields(name).let { inner -> inner.names.associateWith { inner.read(it) } }

    /** Null for null, but not for nothing. */
    fun <T : Any> nullable(name: String, read: JsonFields.(String) -> T): T? = if (value(name) == null) null else read(name)

    fun end() {
        val other = (fields.keys - asked).firstOrNull() ?: return
        throw JsonException("${path(other)}: unknown field")
    }

    fun refuse(name: String, expected: String): Nothing =
        throw JsonException("${path(name)}: expected $expected, got ${shown(fields[name])}")

    private fun path(name: String) = if (where.isEmpty()) name else "$where.$name"

    private fun shown(value: Any?): String = (if (value is String) "\"$value\"" else "$value").take(100)
}
