package org.mvgpt.videogpt

/** Qwen2's splitting rule, as tokenizer.json has it. */
internal const val SPLIT_PATTERN: String =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" +
        "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/**
 * Cut a text into the matches of [SPLIT_PATTERN], which together are all of it. By hand: Android's regular expressions are
 * another library than the JVM's, and neither takes `\s` and `(?i:` as the pattern's author does.
 */
internal fun splitText(text: String): List<String> {
    val words = ArrayList<String>()
    var at = 0
    while (at < text.length) {
        val end = TextSplit(text).end(at)
        words += text.substring(at, end)
        at = end
    }
    return words
}

private class TextSplit(private val text: String) {
    /** Where the match that begins at `at` ends: the pattern's alternatives, in its order. */
    fun end(at: Int): Int {
        contraction(at).let { if (it > at) return it }
        val first = text.codePointAt(at)
        val second = at + Character.charCount(first)
        if (isLetter(first)) return run(second, ::isLetter)
        if (!isLineBreak(first) && !isNumber(first) && second < text.length && isLetter(text.codePointAt(second))) {
            return run(second, ::isLetter)
        }
        if (isNumber(first)) return second
        val symbols = if (first == ' '.code) second else at
        run(symbols, ::isSymbol).let { if (it > symbols) return run(it, ::isLineBreak) }
        // Only white space is left.
        val end = run(at, ::isSpace)
        val lastBreak = (end - 1 downTo at).firstOrNull { isLineBreak(text[it].code) }
        return when {
            lastBreak != null -> lastBreak + 1
            end == text.length || end == second -> end
            else -> end - 1 // its last character goes with the word that follows; white space has no surrogates
        }
    }

    private fun contraction(at: Int): Int {
        if (text[at] != '\'') return at
        val one = folded(at + 1)
        if (one in "stmd") return at + 2
        val two = folded(at + 2)
        return if ((one in "rv" && two == 'e') || (one == 'l' && two == 'l')) at + 3 else at
    }

    /** U+017F, the long s, is another case of s. */
    private fun folded(at: Int): Char =
        when (val c = text.getOrElse(at) { '\u0000' }) {
            in 'A'..'Z' -> c + ('a' - 'A')
            '\u017F' -> 's'
            else -> c
        }

    private inline fun run(from: Int, takes: (Int) -> Boolean): Int {
        var at = from
        while (at < text.length) {
            val c = text.codePointAt(at)
            if (!takes(c)) break
            at += Character.charCount(c)
        }
        return at
    }
}

private fun isLetter(c: Int): Boolean = Character.isLetter(c) // exactly \p{L}

private fun isNumber(c: Int): Boolean =
    when (Character.getType(c).toByte()) {
        Character.DECIMAL_DIGIT_NUMBER, Character.LETTER_NUMBER, Character.OTHER_NUMBER -> true
        else -> false
    }

private fun isLineBreak(c: Int): Boolean = c == '\r'.code || c == '\n'.code

/** Unicode's White_Space. */
private fun isSpace(c: Int): Boolean =
    c in 0x09..0x0D || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 || c in 0x2000..0x200A ||
        c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000

private fun isSymbol(c: Int): Boolean = !isSpace(c) && !isLetter(c) && !isNumber(c)
