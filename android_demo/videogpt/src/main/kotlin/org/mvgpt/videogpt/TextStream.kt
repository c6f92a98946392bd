package org.mvgpt.videogpt

/** Token ids in, text out, never half a character: bytes of an unfinished one wait for the next token. */
internal class TextStream(private val tokenizer: Tokenizer) {
    private var waiting = ByteArray(0)

    /** All text so far. */
    @Volatile
    var text: String = ""
        private set

    /** The text that this token completes, often a word, sometimes nothing. */
    fun push(id: Int): String {
        waiting += tokenizer.bytes(id)
        val piece = decodeUtf8(waiting)
        // A U+FFFD at the end may be the beginning of a character.
        return if (piece.endsWith(REPLACEMENT)) "" else take(piece)
    }

    /** What still waits when generation stops in the middle of a character (with U+FFFD for it). */
    fun finish(): String = take(decodeUtf8(waiting))

    private fun take(piece: String): String {
        waiting = ByteArray(0)
        text += piece
        return piece
    }
}

private const val REPLACEMENT = '\uFFFD'

/**
 * UTF-8 with one U+FFFD for each longest beginning of a character that does not go on as one (Unicode 15, section 3.9): what
 * platforms make of malformed bytes differs.
 */
internal fun decodeUtf8(bytes: ByteArray): String {
    val out = StringBuilder(bytes.size)
    var at = 0
    while (at < bytes.size) {
        val lead = bytes[at++].toInt() and 0xFF
        if (lead < 0x80) {
            out.append(lead.toChar())
            continue
        }
        val more =
            when (lead) {
                in 0xC2..0xDF -> 1
                in 0xE0..0xEF -> 2
                in 0xF0..0xF4 -> 3
                else -> 0
            }
        var point = lead and (0x3F shr more)
        var left = more
        while (left > 0 && at < bytes.size && (bytes[at].toInt() and 0xFF) in continuation(lead, left == more)) {
            point = point shl 6 or (bytes[at++].toInt() and 0x3F)
            left--
        }
        if (more == 0 || left > 0) out.append(REPLACEMENT) else out.appendCodePoint(point)
    }
    return out.toString()
}

/** The second byte of some characters is bounded: no longer forms than needed, no surrogates, nothing after U+10FFFF. */
private fun continuation(lead: Int, second: Boolean): IntRange =
    when {
        !second -> 0x80..0xBF
        lead == 0xE0 -> 0xA0..0xBF
        lead == 0xED -> 0x80..0x9F
        lead == 0xF0 -> 0x90..0xBF
        lead == 0xF4 -> 0x80..0x8F
        else -> 0x80..0xBF
    }
