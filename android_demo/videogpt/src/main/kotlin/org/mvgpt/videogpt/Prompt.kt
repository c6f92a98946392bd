package org.mvgpt.videogpt

/** The manifest's template, tokenised. Each piece around the visual tokens, and each turn, is tokenised on its own. */
class Prompt internal constructor(internal val tokenizer: Tokenizer, private val template: PromptTemplate, stopIds: List<Int>) {
    /** Ids of everything before the visual tokens. */
    val prefixIds: List<Int> = encode(template.prefix)

    /** Ids that end an answer. */
    val stopIds: Set<Int> = stopIds.toSet()

    /**
     * Ids of everything after the visual tokens.
     *
     * @throws MvgptException (stage "prompt") the question is empty, or not valid Unicode
     */
    fun suffixIds(question: String): List<Int> = questionIds(template.suffix, question)

    /** Ids of everything after an answer, whose end (the stop token) the template brings. Throws as [suffixIds]. */
    fun nextTurnIds(question: String): List<Int> = questionIds(template.nextTurn, question)

    private fun questionIds(template: String, question: String): List<Int> {
        // NEXT LINE is white space in Unicode, and not in Java.
        if (question.all { it.isWhitespace() || it == '\u0085' }) throw MvgptException("the question is empty", "prompt")
        return encode(template.replace("{question}", question))
    }

    private fun encode(text: String): List<Int> {
        if (!isUnicode(text)) {
            throw MvgptException("the text is not valid Unicode", "prompt", got = "half of a surrogate pair")
        }
        return tokenizer.encode(text).asList()
    }

    companion object {
        /**
         * With the bundle's tokenizer. Reads it, which takes a moment for a large vocabulary.
         *
         * @throws MvgptException the bundle has no tokenizer, or a malformed one
         */
        fun of(bundle: Bundle): Prompt {
            val manifest = bundle.manifest
            val name =
                manifest.tokenizer ?: throw MvgptException(
                    "the bundle has no tokenizer, so it cannot be asked",
                    "tokenizer",
                    remedy = "put the language model's tokenizer.json into the checkpoint folder and export again",
                )
            return Prompt(Tokenizer.read(bundle.file(name)), manifest.prompt, manifest.stopIds)
        }
    }
}
