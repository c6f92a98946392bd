package org.mvgpt.videogpt

import java.nio.ByteBuffer

/** Rows `first` until `first + count` of the first dimension, in the same memory. */
internal fun Tensor.rows(first: Int, count: Int): Tensor {
    val bytes = data.limit() / shape[0]
    val part: ByteBuffer = data.duplicate()
    part.limit((first + count) * bytes)
    part.position(first * bytes)
    return Tensor(dtype, shape.copyOf().also { it[0] = count }, part.slice().order(data.order()))
}

/** The same numbers in another shape, in the same memory. */
internal fun Tensor.reshaped(vararg shape: Int): Tensor = Tensor(dtype, shape, data)

internal fun Tensor.toFloats(): FloatArray = FloatArray(elements).also { data.asFloatBuffer().get(it) }

internal fun Tensor.toLongs(): LongArray = LongArray(elements).also { data.asLongBuffer().get(it) }

/** One after the other along the first dimension. */
internal fun concatenated(parts: List<Tensor>): Tensor {
    val shape = parts[0].shape.copyOf().also { it[0] = parts.sumOf { part -> part.shape[0] } }
    val whole = Tensor.allocate(parts[0].dtype, *shape)
    val room = whole.data.duplicate()
    for (part in parts) room.put(part.data.duplicate())
    return whole
}
