package org.mvgpt.videogpt.jvm

import org.mvgpt.videogpt.DType
import org.mvgpt.videogpt.Tensor
import java.io.Closeable
import java.nio.file.Path

/** ExecuTorch's number of each type (`ScalarType`). */
private val SCALAR_TYPES = mapOf(DType.UINT8 to 0, DType.INT64 to 4, DType.FLOAT32 to 6)

/**
 * A `.pte` file, memory-mapped. A method is loaded when it is first used and keeps its state, such as a KV cache, from
 * call to call. Every function throws [ExecuTorchError].
 */
internal class Program(path: Path) : Closeable {
    private val handle = ExecuTorch.open(path.toString())

    fun load(method: String) = ExecuTorch.load(handle, method)

    fun metadata(method: String): String = ExecuTorch.metadata(handle, method)

    /** Outputs are copies. */
    fun execute(method: String, inputs: List<Tensor>): List<Tensor> =
        ExecuTorch
            .execute(
                handle,
                method,
                inputs.map { SCALAR_TYPES.getValue(it.dtype) }.toIntArray(),
                inputs.map { it.shape }.toTypedArray(),
                inputs.map { it.data }.toTypedArray(),
            ).mapIndexed { index, info ->
                val dtype =
                    SCALAR_TYPES.entries.find { it.value == info[0] }?.key
                        ?: throw ExecuTorchError("output $index of $method has the scalar type ${info[0]}")
                Tensor.allocate(dtype, *info.copyOfRange(1, info.size)).also { ExecuTorch.output(handle, index, it.data) }
            }

    override fun close() = ExecuTorch.close(handle)
}
