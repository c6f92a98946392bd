package org.mvgpt.videogpt.media

import org.junit.jupiter.api.Test
import java.nio.ByteBuffer
import java.util.Random
import kotlin.math.abs
import kotlin.math.roundToInt
import kotlin.test.assertEquals
import kotlin.test.assertTrue

class YuvToRgbTest {
    private val random = Random(7)

    @Test
    fun `known colours of both ranges and standards`() {
        // Limited range: black, white, and 75% blue of colour bars as ITU-R BT.601 and BT.709 give them.
        assertPixel(listOf(0, 0, 0), ColourStandard.BT709, false, 16, 128, 128)
        assertPixel(listOf(255, 255, 255), ColourStandard.BT601, false, 235, 128, 128)
        assertPixel(listOf(0, 0, 191), ColourStandard.BT601, false, 35, 212, 114, tolerance = 2)
        assertPixel(listOf(0, 0, 191), ColourStandard.BT709, false, 28, 212, 120, tolerance = 2)
        // Full range: as JPEG's red.
        assertPixel(listOf(254, 0, 0), ColourStandard.BT601, true, 76, 85, 255, tolerance = 1)
        assertPixel(listOf(16, 16, 16), ColourStandard.BT601, true, 16, 128, 128)
    }

    @Test
    fun `every level is within one of the formula`() {
        for (standard in ColourStandard.entries) {
            for (full in listOf(false, true)) {
                repeat(2000) {
                    val (y, u, v) = List(3) { random.nextInt(256) }
                    assertPixel(formula(standard, full, y, u, v), standard, full, y, u, v, tolerance = 1)
                }
            }
        }
    }

    @Test
    fun `strides, interleaved chroma and an odd crop address the right samples`() {
        val width = 7
        val height = 5
        val luma = plane(rows = 6, rowStride = 11, pixelStride = 1, last = 8)
        // u and v interleaved, as in NV12: one buffer, v a byte later, and no byte after the last sample.
        val chroma = bytes(3 * 12)
        val u = Plane(ByteBuffer.wrap(chroma), 12, 2)
        val v = Plane(ByteBuffer.wrap(chroma, 1, chroma.size - 1).slice(), 12, 2)
        val crop = Crop(left = 1, top = 1, width = width, height = height)
        val rgb = YuvToRgb(ColourStandard.BT709, false).convert(luma, u, v, crop, 0)
        for (row in 0 until height) {
            for (column in 0 until width) {
                val x = column + 1
                val y = row + 1
                val expected = formula(
                    ColourStandard.BT709,
                    false,
                    luma.data.get(y * 11 + x).level(),
                    chroma[y / 2 * 12 + x / 2 * 2].level(),
                    chroma[y / 2 * 12 + x / 2 * 2 + 1].level(),
                )
                assertClose(expected, rgb, row * width + column, 1)
            }
        }
    }

    @Test
    fun `rotation turns clockwise`() {
        // Two grey pixels over two: 10 20 / 30 40; full range, so that luma is the level.
        val y = Plane(ByteBuffer.wrap(byteArrayOf(10, 20, 30, 40)), 2, 1)
        val grey = Plane(ByteBuffer.wrap(byteArrayOf(-128)), 1, 1)
        val converter = YuvToRgb(ColourStandard.BT601, true)

        fun turned(degrees: Int) =
            converter.convert(y, grey, grey, Crop(0, 0, 2, 2), degrees).filterIndexed { i, _ -> i % 3 == 0 }.map { it.toInt() }
        assertEquals(listOf(10, 20, 30, 40), turned(0))
        assertEquals(listOf(30, 10, 40, 20), turned(90))
        assertEquals(listOf(40, 30, 20, 10), turned(180))
        assertEquals(listOf(20, 40, 10, 30), turned(270))
    }

    @Test
    fun `a wide picture on its side is tall`() {
        val y = Plane(ByteBuffer.wrap(byteArrayOf(1, 2, 3)), 3, 1)
        val grey = Plane(ByteBuffer.wrap(byteArrayOf(-128, -128)), 2, 1)

        fun turned(degrees: Int) = YuvToRgb(ColourStandard.BT601, true).convert(y, grey, grey, Crop(0, 0, 3, 1), degrees).toList()
        assertEquals(List(3) { listOf<Byte>(1, 2, 3)[it] }.flatMap { level -> List(3) { level } }, turned(90))
        assertEquals(turned(90).reversed(), turned(270))
    }

    private fun assertPixel(
        expected: List<Int>,
        standard: ColourStandard,
        full: Boolean,
        y: Int,
        u: Int,
        v: Int,
        tolerance: Int = 0,
    ) {
        fun one(level: Int) = Plane(ByteBuffer.wrap(byteArrayOf(level.toByte())), 1, 1)
        val rgb = YuvToRgb(standard, full).convert(one(y), one(u), one(v), Crop(0, 0, 1, 1), 0)
        assertClose(expected, rgb, 0, tolerance)
    }

    private fun assertClose(expected: List<Int>, rgb: ByteArray, pixel: Int, tolerance: Int) {
        val got = List(3) { rgb[pixel * 3 + it].level() }
        assertTrue(expected.zip(got).all { (a, b) -> abs(a - b) <= tolerance }, "expected $expected, got $got")
    }

    private fun formula(standard: ColourStandard, full: Boolean, y: Int, u: Int, v: Int): List<Int> {
        val luma = if (full) y / 255.0 else (y - 16) / 219.0
        val cb = (u - 128) / if (full) 255.0 else 224.0
        val cr = (v - 128) / if (full) 255.0 else 224.0
        val red = luma + 2 * (1 - standard.red) * cr
        val blue = luma + 2 * (1 - standard.blue) * cb
        val green = (luma - standard.red * red - standard.blue * blue) / (1 - standard.red - standard.blue)
        return listOf(red, green, blue).map { (it * 255).coerceIn(0.0, 255.0).roundToInt() }
    }

    private fun plane(rows: Int, rowStride: Int, pixelStride: Int, last: Int) =
        Plane(ByteBuffer.wrap(bytes((rows - 1) * rowStride + last)), rowStride, pixelStride)

    private fun bytes(n: Int) = ByteArray(n).also(random::nextBytes)

    private fun Byte.level() = toInt() and 0xff
}
