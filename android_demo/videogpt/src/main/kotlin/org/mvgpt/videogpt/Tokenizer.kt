package org.mvgpt.videogpt

import java.io.File
import java.io.IOException
import java.text.Normalizer
import java.util.PriorityQueue

/**
 * Qwen2's tokenizer, from a checkpoint's tokenizer.json: NFC, a fixed splitting rule ([splitText]), byte-level BPE, and added
 * tokens that are found in the text first. A file that asks for anything else is refused, not approximated.
 */
class Tokenizer private constructor(
    private val bytesOf: Map<Int, ByteArray>,
    private val byteIds: IntArray,
    private val merges: Merges,
    private val added: Map<String, Int>,
    private val control: Set<Int>,
) {
    /** The longest of those that begin at the first place where any does. */
    private val addedPattern: Regex? =
        added.keys.sortedByDescending { it.length }.joinToString("|") { Regex.escape(it) }.takeIf { it.isNotEmpty() }?.toRegex()

    /** Ids of a text, without any that the text does not spell. `text` must be valid Unicode. */
    fun encode(text: String): IntArray {
        val ids = IntList()
        var from = 0
        for (match in addedPattern?.findAll(text).orEmpty()) {
            encodePlain(text.substring(from, match.range.first), ids)
            ids.add(added.getValue(match.value))
            from = match.range.last + 1
        }
        encodePlain(text.substring(from), ids)
        return ids.toIntArray()
    }

    /** The bytes that a token stands for: none for control tokens and ids that nobody has. */
    fun bytes(id: Int): ByteArray = if (id in control) NOTHING else bytesOf[id] ?: NOTHING

    private fun encodePlain(text: String, ids: IntList) {
        for (word in splitText(Normalizer.normalize(text, Normalizer.Form.NFC))) {
            val bytes = word.encodeToByteArray()
            merges.apply(IntArray(bytes.size) { byteIds[bytes[it].toInt() and 0xFF] }, ids)
        }
    }

    companion object {
        private val NOTHING = ByteArray(0)
        private const val REMEDY = "use the checkpoint's own tokenizer.json"

        /** @throws MvgptException (stage "tokenizer") it is malformed, or no Qwen2 tokenizer */
        fun read(file: File): Tokenizer =
            try {
                of(JsonFields(Json.parse(readUtf8(file))))
            } catch (e: IOException) {
                throw MvgptException("${file.name} cannot be read", "tokenizer", "UTF-8 JSON", e, REMEDY, e)
            } catch (e: JsonException) {
                throw MvgptException("${file.name} is no Qwen2 tokenizer", "tokenizer", null, e.message, REMEDY, e)
            }

        private fun of(file: JsonFields): Tokenizer {
            checkSteps(file)
            val model = file.fields("model")
            if (model.string("type") != "BPE") model.refuse("type", "BPE")
            val vocabulary = model.map("vocab") { int(it) }
            val byteIds =
                IntArray(256) { byte ->
                    vocabulary[LETTERS[byte].toString()] ?: throw JsonException("model.vocab: byte $byte is missing")
                }
            val bytesOf = HashMap<Int, ByteArray>(vocabulary.size * 2)
            for ((token, id) in vocabulary) bytesOf[id] = spelled(token)
            val added = LinkedHashMap<String, Int>()
            val control = HashSet<Int>()
            for (value in file.list("added_tokens")) {
                val token = JsonFields(value, "added_tokens")
                for (flag in listOf("single_word", "lstrip", "rstrip", "normalized")) {
                    if (token.value(flag) != false) token.refuse(flag, "false")
                }
                val content = token.string("content")
                if (content.isEmpty()) token.refuse("content", "text")
                val id = token.int("id")
                added[content] = id
                bytesOf[id] = spelled(content)
                if (token.value("special") == true) control += id
            }
            return Tokenizer(bytesOf, byteIds, merges(model, vocabulary), added, control)
        }

        private fun checkSteps(file: JsonFields) {
            val normalizer = file.fields("normalizer")
            if (normalizer.string("type") != "NFC") normalizer.refuse("type", "NFC")
            val splitter = file.fields("pre_tokenizer")
            if (splitter.string("type") != "Sequence") splitter.refuse("type", "Sequence")
            val steps = splitter.list("pretokenizers").map { JsonFields(it, "pre_tokenizer") }
            if (steps.map { it.string("type") } != listOf("Split", "ByteLevel")) {
                splitter.refuse("pretokenizers", "Split, ByteLevel")
            }
            val (split, letters) = steps
            if (split.fields("pattern").string("Regex") != SPLIT_PATTERN) split.refuse("pattern", SPLIT_PATTERN)
            if (split.string("behavior") != "Isolated") split.refuse("behavior", "Isolated")
            if (split.value("invert") != false) split.refuse("invert", "false")
            for (flag in listOf("add_prefix_space", "use_regex")) if (letters.value(flag) != false) letters.refuse(flag, "false")
            val decoder = file.fields("decoder")
            if (decoder.string("type") != "ByteLevel") decoder.refuse("type", "ByteLevel")
        }

        private fun merges(model: JsonFields, vocabulary: Map<String, Int>): Merges {
            for (option in listOf("dropout", "continuing_subword_prefix", "end_of_word_suffix")) {
                if (option in model && model.value(option) !in listOf(null, "")) model.refuse(option, "none")
            }
            for (option in listOf("byte_fallback", "ignore_merges")) {
                if (option in model && model.value(option) != false) model.refuse(option, "false")
            }

            fun id(token: String) = vocabulary[token] ?: throw JsonException("model.merges: '$token' is not in the vocabulary")
            val written = model.list("merges")
            val pairs = LongArray(written.size)
            val made = IntArray(written.size)
            written.forEachIndexed { rank, merge ->
                val parts = (merge as? String)?.split(' ') ?: merge as? List<*>
                val left = parts?.getOrNull(0) as? String
                val right = parts?.getOrNull(1) as? String
                if (parts?.size != 2 || left == null || right == null) model.refuse("merges", "pairs of tokens")
                pairs[rank] = pair(id(left), id(right))
                made[rank] = id(left + right)
            }
            return Merges(pairs, made)
        }

        /** GPT-2's printable letter for each byte: itself if printable Latin-1, else the next free one from U+0100. */
        private val LETTERS: CharArray = run {
            val printable = ('!'..'~') + ('\u00A1'..'\u00AC') + ('\u00AE'..'\u00FF')
            var free = '\u0100'
            CharArray(256) { if (it.toChar() in printable) it.toChar() else free++ }
        }
        private val BYTES: Map<Char, Byte> = LETTERS.withIndex().associate { (byte, letter) -> letter to byte.toByte() }

        /** Back from letters to bytes; a token that is not spelled in them stands for itself. */
        private fun spelled(token: String): ByteArray =
            if (token.all { it in BYTES }) ByteArray(token.length) { BYTES.getValue(token[it]) } else token.encodeToByteArray()
    }
}

private fun pair(left: Int, right: Int): Long = left.toLong() shl 32 or right.toLong()

/** Byte-pair merges: of neighbours in `pairs`, the one that stands first there becomes one token, again and again. */
internal class Merges(pairs: LongArray, private val made: IntArray) {
    private val sorted: LongArray // 150,000 of them take a tenth of a hash map's memory
    private val ranks: IntArray

    init {
        // A pair that stands twice has its last rank.
        val order = pairs.indices.sortedWith(compareBy<Int> { pairs[it] }.thenByDescending { it }).toIntArray()
        val kept = order.indices.filter { it == 0 || pairs[order[it]] != pairs[order[it - 1]] }.map { order[it] }
        sorted = LongArray(kept.size) { pairs[kept[it]] }
        ranks = kept.toIntArray()
    }

    /** Merge `tokens` (overwritten), and append what they became to `ids`. */
    fun apply(tokens: IntArray, ids: IntList) {
        val count = tokens.size
        val next = IntArray(count) { it + 1 }
        val previous = IntArray(count) { it - 1 }
        val queue = PriorityQueue<Long>() // rank, then place

        fun rank(at: Int): Int {
            if (at < 0 || next[at] >= count) return -1
            val found = sorted.binarySearch(pair(tokens[at], tokens[next[at]]))
            return if (found < 0) -1 else ranks[found]
        }

        fun offer(at: Int) {
            val rank = rank(at)
            if (rank >= 0) queue += rank.toLong() shl 32 or at.toLong()
        }
        for (at in 0 until count) offer(at)
        while (true) {
            val best = queue.poll() ?: break
            val at = best.toInt()
            val rank = (best shr 32).toInt()
            if (tokens[at] < 0 || rank(at) != rank) continue // merged with another neighbour meanwhile
            val gone = next[at]
            tokens[at] = made[rank]
            tokens[gone] = -1
            next[at] = next[gone]
            if (next[at] < count) previous[next[at]] = at
            offer(at)
            offer(previous[at])
        }
        for (token in tokens) if (token >= 0) ids.add(token)
    }
}

/** Integers, unboxed. */
internal class IntList {
    private var values = IntArray(64)
    private var size = 0

    fun add(value: Int) {
        if (size == values.size) values = values.copyOf(2 * size)
        values[size++] = value
    }

    fun toIntArray(): IntArray = values.copyOf(size)
}
