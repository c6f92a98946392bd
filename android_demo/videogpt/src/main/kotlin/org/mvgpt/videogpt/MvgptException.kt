package org.mvgpt.videogpt

/** What went wrong, where, what was expected, what was found and what to do about it: the message names all of it. */
open class MvgptException(
    val what: String,
    val stage: String,
    val expected: Any? = null,
    val got: Any? = null,
    val remedy: String? = null,
    cause: Throwable? = null,
) : RuntimeException(
        buildString {
            append(stage).append(": ").append(what)
            expected?.let { append("\n  expected: ").append(it) }
            got?.let { append("\n  got: ").append(it) }
            remedy?.let { append("\n  remedy: ").append(it) }
        },
        cause,
    )

/** The caller cancelled while a video was being loaded: no video is loaded now. */
class Cancelled(stage: String) : MvgptException("cancelled by the caller", stage)

/** A prompt of `positions` does not fit a KV cache of `maxContext`. */
class ContextFull(val positions: Int, val maxContext: Int) :
    MvgptException(
        "the prompt is ${positions - maxContext} tokens too long for the KV cache",
        "text_decoder",
        expected = "at most $maxContext positions",
        got = positions,
        remedy = "ask a shorter question, start the conversation over, or export with a larger max_context",
    )
