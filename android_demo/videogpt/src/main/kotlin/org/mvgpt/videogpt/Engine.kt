package org.mvgpt.videogpt

import java.io.Closeable
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** Types of a stage's tensors; `numpyName` is what contract and manifest call them. */
enum class DType(val numpyName: String, val bytes: Int) {
    UINT8("uint8", 1),
    INT64("int64", 8),
    FLOAT32("float32", 4),
}

/**
 * One array: C order, in a direct buffer of native byte order, whose position is 0 and whose limit is its size in bytes.
 * Whoever gets a tensor owns it; an engine never hands out memory that a later call overwrites.
 */
class Tensor(val dtype: DType, val shape: IntArray, val data: ByteBuffer) {
    init {
        require(data.isDirect && data.order() == ByteOrder.nativeOrder()) { "a tensor needs a direct buffer in native order" }
        require(data.limit() == elements * dtype.bytes) {
            "${data.limit()} bytes for ${shape.contentToString()} ${dtype.numpyName}"
        }
    }

    val elements: Int get() = shape.fold(1, Int::times)

    companion object {
        /** Zeros. */
        fun allocate(dtype: DType, vararg shape: Int): Tensor {
            val bytes = shape.fold(dtype.bytes, Math::multiplyExact)
            return Tensor(dtype, shape, ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder()))
        }

        fun floats(values: FloatArray, vararg shape: Int): Tensor =
            allocate(DType.FLOAT32, *shape).apply { data.asFloatBuffer().put(values) }

        fun longs(values: LongArray, vararg shape: Int): Tensor =
            allocate(DType.INT64, *shape).apply { data.asLongBuffer().put(values) }

        fun bytes(values: ByteArray, vararg shape: Int): Tensor =
            allocate(DType.UINT8, *shape).apply { data.duplicate().put(values) }
    }
}

/** Runs a bundle's stages. Not thread-safe: one call at a time. */
interface Engine : Closeable {
    /** Load `stage`, if it is not loaded. */
    fun load(stage: String)

    /** Free the unit of `stage` (every stage of it, and its KV cache); a later call loads it again. */
    fun unload(stage: String)

    /** Load `stage` and run it once on zeros, so that the next call is as fast as any. */
    fun prewarm(stage: String)

    /** Run `stage` on tensors in the contract's order; outputs likewise. */
    fun run(stage: String, inputs: List<Tensor>): List<Tensor>
}
