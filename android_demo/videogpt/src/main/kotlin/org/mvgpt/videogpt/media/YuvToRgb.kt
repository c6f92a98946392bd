package org.mvgpt.videogpt.media

import java.nio.ByteBuffer
import kotlin.math.roundToInt

/** One plane of a decoded picture: 8 bits a sample, at `row * rowStride + column * pixelStride` from the buffer's start. */
class Plane(val data: ByteBuffer, val rowStride: Int, val pixelStride: Int)

/** The visible part of a decoded picture, in pixels. */
data class Crop(val left: Int, val top: Int, val width: Int, val height: Int)

/** How luma is made of red and blue (the rest is green). */
enum class ColourStandard(val red: Double, val blue: Double) {
    BT601(0.299, 0.114),
    BT709(0.2126, 0.0722),
    BT2020(0.2627, 0.0593),
}

/**
 * Step 1: what a video decoder gives, 4:2:0 with 8 bits, as upright RGB.
 *
 * Integer arithmetic, a level off the formula's value at most. Each chroma sample serves its four pixels: desktop decoders
 * may interpolate between them, and so differ at coloured edges.
 *
 * @param fullRange luma 0 … 255; else 16 … 235, chroma 16 … 240.
 */
class YuvToRgb(standard: ColourStandard, fullRange: Boolean) {
    private val lumaScale = fixed(if (fullRange) 1.0 else 255.0 / 219)
    private val lumaOffset = if (fullRange) 0 else 16
    private val redOfV: Int
    private val greenOfU: Int
    private val greenOfV: Int
    private val blueOfU: Int

    init {
        val chroma = if (fullRange) 1.0 else 255.0 / 224
        val green = 1 - standard.red - standard.blue
        redOfV = fixed(2 * (1 - standard.red) * chroma)
        blueOfU = fixed(2 * (1 - standard.blue) * chroma)
        greenOfU = fixed(2 * (1 - standard.blue) * standard.blue / green * chroma)
        greenOfV = fixed(2 * (1 - standard.red) * standard.red / green * chroma)
    }

    /**
     * @param rotation degrees clockwise to turn the picture upright: 0, 90, 180 or 270.
     * @return uint8 [height, width, 3], RGB, of the upright picture (whose sides are swapped by 90 and 270).
     */
    fun convert(y: Plane, u: Plane, v: Plane, crop: Crop, rotation: Int): ByteArray {
        require(rotation in listOf(0, 90, 180, 270)) { "rotation is 0, 90, 180 or 270, not $rotation" }
        val width = crop.width
        val height = crop.height
        val out = ByteArray(Math.multiplyExact(Math.multiplyExact(width, height), 3))
        val chromaLeft = crop.left / 2
        val chromaWidth = (crop.left + width - 1) / 2 - chromaLeft + 1
        val lumaRow = Row(y, width)
        val uRow = Row(u, chromaWidth)
        val vRow = Row(v, chromaWidth)
        for (row in 0 until height) {
            lumaRow.read(crop.top + row, crop.left)
            uRow.read((crop.top + row) / 2, chromaLeft)
            vRow.read((crop.top + row) / 2, chromaLeft)
            // Where the row's first pixel goes, and how far the next one is from it.
            val (first, step) = when (rotation) {
                0 -> row * width to 1
                90 -> height - 1 - row to height
                180 -> (height - row) * width - 1 to -1
                else -> (width - 1) * height + row to -height
            }
            var at = first * 3
            for (column in 0 until width) {
                val luma = (lumaRow[column] - lumaOffset) * lumaScale + HALF
                val chroma = (crop.left + column) / 2 - chromaLeft
                val uLevel = uRow[chroma] - 128
                val vLevel = vRow[chroma] - 128
                out[at] = level(luma + vLevel * redOfV)
                out[at + 1] = level(luma - uLevel * greenOfU - vLevel * greenOfV)
                out[at + 2] = level(luma + uLevel * blueOfU)
                at += step * 3
            }
        }
        return out
    }

    private fun level(fixed: Int): Byte = (fixed shr BITS).coerceIn(0, 255).toByte()

    /** A row in an array: a call for every byte of a buffer costs more than the arithmetic. */
    private class Row(private val plane: Plane, samples: Int) {
        private val stride = plane.pixelStride
        private val data = plane.data.duplicate()
        private val bytes = ByteArray((samples - 1) * stride + 1) // nothing after the last sample need be there

        fun read(row: Int, column: Int) {
            data.position(row * plane.rowStride + column * stride)
            data.get(bytes)
        }

        operator fun get(index: Int): Int = bytes[index * stride].toInt() and 0xff
    }

    private companion object {
        const val BITS = 16
        const val HALF = 1 shl (BITS - 1)

        fun fixed(value: Double): Int = (value * (1 shl BITS)).roundToInt()
    }
}
