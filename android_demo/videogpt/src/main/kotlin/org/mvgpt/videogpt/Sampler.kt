package org.mvgpt.videogpt

import kotlin.math.exp
import kotlin.math.min

// Everything is IEEE double, starting from the float32 logits, step by step as runtime/mvgpt_runtime/sampler.py specifies.

/** Steele, Lea & Flood 2014: a 64-bit addition and three xor-shift-multiplies; the same on every platform. */
internal class SplitMix64(private var state: Long) {
    fun next(): Long {
        state += -0x61c8864680b583eb // 0x9E3779B97F4A7C15
        var z = state
        z = (z xor (z ushr 30)) * -0x40a7b892e31b1a47 // 0xBF58476D1CE4E5B9
        z = (z xor (z ushr 27)) * -0x6b2fb644ecceee15 // 0x94D049BB133111EB
        return z xor (z ushr 31)
    }

    /** The next double in [0, 1): the upper 53 bits. */
    fun uniform(): Double = (next() ushr 11) * TWO_TO_MINUS_53

    private companion object {
        const val TWO_TO_MINUS_53 = 1.0 / (1L shl 53)
    }
}

/**
 * How tokens are chosen.
 *
 * @property temperature 0 is greedy
 * @property topP keep the fewest likeliest tokens with at least this part of the probability; 1 keeps all
 * @property topK keep this many likeliest tokens; 0 keeps all
 * @property repetitionPenalty above 1 makes tokens that were seen less likely; 1 changes nothing
 * @property seed of the draws, all 64 bits
 * @throws MvgptException (stage "sampler") an option out of its range
 */
data class SamplingOptions(
    val temperature: Double = 0.0,
    val topP: Double = 1.0,
    val topK: Int = 0,
    val repetitionPenalty: Double = 1.0,
    val seed: Long = 0,
) {
    init {
        check("temperature", temperature >= 0 && temperature.isFinite(), "a number ≥ 0", temperature)
        check("topP", topP > 0 && topP <= 1, "0 < topP ≤ 1", topP)
        check("topK", topK >= 0, "≥ 0 (0: no limit)", topK)
        // The penalty's bounds keep every product of a float32 with it inside a double.
        check("repetitionPenalty", repetitionPenalty in 1e-3..1e3, "0.001 to 1000 (1: none)", repetitionPenalty)
    }

    private fun check(name: String, valid: Boolean, expected: String, got: Any) {
        if (!valid) throw MvgptException("bad $name", "sampler", expected, got)
    }
}

/** Chooses the tokens of one answer. `seen`: ids of the prompt, for the repetition penalty; chosen tokens join them. */
internal class Sampler(private val options: SamplingOptions, seen: Iterable<Int> = emptyList()) {
    private val seen = seen.toHashSet()
    private val random = SplitMix64(options.seed)

    /** logits \[vocab] → token id. Throws for logits that are not numbers. */
    fun choose(logits: FloatArray): Int {
        val bad = logits.count { !it.isFinite() }
        if (bad > 0) {
            throw MvgptException(
                "the language model returned logits that are not finite",
                "text_decoder",
                got = "$bad of ${logits.size}",
                remedy = "compare the bundle with its checkpoint; a reduced-precision recipe may overflow on this device",
            )
        }
        val scores = DoubleArray(logits.size) { logits[it].toDouble() }
        penalize(scores)
        val token = if (options.temperature == 0.0) likeliest(scores) else draw(scores)
        seen += token
        return token
    }

    private fun penalize(scores: DoubleArray) {
        if (options.repetitionPenalty == 1.0) return
        for (id in seen) {
            scores[id] = if (scores[id] < 0) scores[id] * options.repetitionPenalty else scores[id] / options.repetitionPenalty
        }
    }

    private fun likeliest(scores: DoubleArray): Int {
        var best = 0
        for (id in scores.indices) if (scores[id] > scores[best]) best = id
        return best
    }

    private fun draw(scores: DoubleArray): Int {
        val ids = ordered(scores)
        val cumulative = DoubleArray(ids.size)
        var total = 0.0
        for (i in ids.indices) {
            total += exp((scores[ids[i]] - scores[ids[0]]) / options.temperature)
            cumulative[i] = total
        }
        val nucleus = options.topP * total
        val kept = cumulative.firstWhere { it >= nucleus } + 1
        val target = random.uniform() * cumulative[kept - 1]
        return ids[min(cumulative.firstWhere { it > target }, kept - 1)]
    }

    /** Ids that top-k leaves, highest score first, equal ones by id. */
    private fun ordered(scores: DoubleArray): IntArray {
        val limit = options.topK
        if (limit == 0 || limit >= scores.size) return sorted(IntArray(scores.size) { it }, scores)
        // Only these can be among the first; sorting a whole vocabulary by id takes longer than a small model's step.
        val least = scores.copyOf().also { it.sort() }[scores.size - limit]
        val ids = IntArray(scores.count { it >= least })
        var count = 0
        for (id in scores.indices) if (scores[id] >= least) ids[count++] = id
        return sorted(ids, scores).copyOf(limit)
    }

    /** A merge sort, since the library's stable one needs an object per id. */
    private fun sorted(ids: IntArray, scores: DoubleArray): IntArray {
        var from = ids
        var to = IntArray(ids.size)
        var width = 1
        while (width < ids.size) {
            for (start in ids.indices step 2 * width) {
                val middle = min(start + width, ids.size)
                val end = min(start + 2 * width, ids.size)
                var left = start
                var right = middle
                for (at in start until end) {
                    val takesLeft = right == end || (left < middle && scores[from[left]] >= scores[from[right]])
                    to[at] = if (takesLeft) from[left++] else from[right++]
                }
            }
            from = to.also { to = from }
            width *= 2
        }
        return from
    }

    /** In rising numbers, the place of the first that `holds`; the size if none does. */
    private inline fun DoubleArray.firstWhere(holds: (Double) -> Boolean): Int {
        var low = 0
        var high = size
        while (low < high) {
            val middle = (low + high) ushr 1
            if (holds(this[middle])) high = middle else low = middle + 1
        }
        return low
    }
}
