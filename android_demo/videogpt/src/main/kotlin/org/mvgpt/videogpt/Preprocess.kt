package org.mvgpt.videogpt

import kotlin.math.abs
import kotlin.math.floor
import kotlin.math.max
import kotlin.math.min
import kotlin.math.round
import kotlin.math.withSign

// Both resizes are integer arithmetic on uint8 once their weights are known; the weights come from doubles (and, where said,
// floats) in the order of operations that runtime/mvgpt_runtime/preprocess.py specifies. Platform scalers give other pixels.

private const val CUBIC_BITS = 22 // a product with a pixel has 30 bits, and the sum of a row's products still fits 32
private const val LINEAR_BITS = 11

/**
 * The image encoder's picture: shortest edge to `size` (bicubic, antialiased), then the centre square.
 *
 * The long edge is resized to floor(size * long / short) and the crop starts at floor((edge - size) / 2); only pixels inside the
 * crop are computed, first along rows, then along columns, rounded to uint8 in between.
 *
 * @return uint8 \[size, size, 3]
 */
fun resizeClip(frame: Frame, size: Int): ByteArray {
    checkSize(size)
    val short = min(frame.width, frame.height)
    val across = CubicTaps(frame.width, (size.toLong() * frame.width / short).toInt(), size)
    val down = CubicTaps(frame.height, (size.toLong() * frame.height / short).toInt(), size)
    val top = down.starts.first()
    val rows = ByteArray((down.ends.max() - top) * size * 3)
    for (y in 0 until rows.size / (size * 3)) {
        for (x in 0 until size) {
            across.mix(x, frame.rgb, (top + y) * frame.width * 3, 3, rows, (y * size + x) * 3)
        }
    }
    val out = ByteArray(size * size * 3)
    for (y in 0 until size) {
        for (x in 0 until size) {
            down.mix(y, rows, (x - top * size) * 3, size * 3, out, (y * size + x) * 3)
        }
    }
    return out
}

/**
 * The video encoder's picture: both edges squashed to `size`, bilinear without antialias, half-pixel centres.
 *
 * @return uint8 \[size, size, 3]
 */
fun resizeVideo(frame: Frame, size: Int): ByteArray {
    checkSize(size)
    val across = LinearTaps(frame.width, size)
    val down = LinearTaps(frame.height, size)
    val rgb = frame.rgb
    val one = 1 shl LINEAR_BITS
    val out = ByteArray(size * size * 3)
    var at = 0
    for (y in 0 until size) {
        val top = down.before[y] * frame.width
        val bottom = down.after[y] * frame.width
        val v = down.weights[y]
        for (x in 0 until size) {
            val left = across.before[x]
            val right = across.after[x]
            val w = across.weights[x]
            for (c in 0 until 3) {
                val upper = pixel(rgb, (top + left) * 3 + c) * (one - w) + pixel(rgb, (top + right) * 3 + c) * w shr 4
                val lower = pixel(rgb, (bottom + left) * 3 + c) * (one - w) + pixel(rgb, (bottom + right) * 3 + c) * w shr 4
                out[at++] = ((upper * (one - v) shr 16) + (lower * v shr 16) + 2 shr 2).toByte()
            }
        }
    }
    return out
}

private fun pixel(values: ByteArray, i: Int): Int = values[i].toInt() and 0xFF

private fun checkSize(size: Int) {
    if (size < 1) {
        throw MvgptException("the side of a preprocessed frame must be positive", "preprocess", expected = ">= 1", got = size)
    }
}

/** The middle `size` of `resized` outputs along an edge of `length` pixels: for each, its first input and all weights. */
private class CubicTaps(length: Int, resized: Int, size: Int) {
    val starts = IntArray(size)
    val ends = IntArray(size)
    private val weights: List<IntArray>

    init {
        val scale = length.toDouble() / resized
        val stretch = max(scale, 1.0) // the filter widens when it shrinks a picture: this is the antialias
        val crop = (resized - size) / 2
        weights =
            List(size) { i ->
                val centre = (crop + i + 0.5) * scale
                starts[i] = max((centre - 2 * stretch + 0.5).toInt(), 0)
                ends[i] = min((centre + 2 * stretch + 0.5).toInt(), length)
                val exact = DoubleArray(ends[i] - starts[i]) { j -> cubic((starts[i] + j - centre + 0.5) * (1 / stretch)) }
                var sum = 0.0
                for (weight in exact) sum += weight
                IntArray(exact.size) { j ->
                    val weight = exact[j] / sum
                    (weight * (1 shl CUBIC_BITS) + 0.5.withSign(weight)).toInt()
                }
            }
    }

    /** Output `i` of a line of pixels that begins at `offset` and has one every `step` bytes → three bytes at `to`. */
    fun mix(i: Int, line: ByteArray, offset: Int, step: Int, out: ByteArray, to: Int) {
        var red = 1 shl CUBIC_BITS - 1
        var green = red
        var blue = red
        var at = offset + starts[i] * step
        for (weight in weights[i]) {
            red += pixel(line, at) * weight
            green += pixel(line, at + 1) * weight
            blue += pixel(line, at + 2) * weight
            at += step
        }
        out[to] = (red shr CUBIC_BITS).coerceIn(0, 255).toByte()
        out[to + 1] = (green shr CUBIC_BITS).coerceIn(0, 255).toByte()
        out[to + 2] = (blue shr CUBIC_BITS).coerceIn(0, 255).toByte()
    }

    /** Keys' kernel with a = -1/2, zero from 2 on. */
    private fun cubic(value: Double): Double {
        val x = abs(value)
        return when {
            x < 1 -> (1.5 * x - 2.5) * x * x + 1
            x < 2 -> (((x - 5) * x + 8) * x - 4) * -0.5
            else -> 0.0
        }
    }
}

/** For each of `size` outputs along an edge: the two neighbours, and the second one's weight in units of 2**-11. */
private class LinearTaps(length: Int, size: Int) {
    val before = IntArray(size)
    val after = IntArray(size)
    val weights = IntArray(size)

    init {
        for (i in 0 until size) {
            val centre = ((i + 0.5) * (1 / (size.toDouble() / length)) - 0.5).toFloat()
            val first = floor(centre)
            weights[i] = round((centre - first) * (1 shl LINEAR_BITS)).toInt() // halves go to the even neighbour
            before[i] = first.toInt().coerceIn(0, length - 1)
            after[i] = (first.toInt() + 1).coerceIn(0, length - 1)
        }
    }
}
