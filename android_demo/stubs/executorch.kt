// Signatures of executorch-android 1.5 that this repository uses, for type checks without Android's SDK. They compute nothing.
@file:Suppress("UNUSED_PARAMETER")

package org.pytorch.executorch

import java.io.Closeable
import java.nio.ByteBuffer
import java.nio.FloatBuffer
import java.nio.LongBuffer

enum class DType { UINT8, INT8, INT16, INT32, INT64, HALF, FLOAT, DOUBLE, BOOL }

abstract class Tensor {
    fun shape(): LongArray = TODO()

    abstract fun dtype(): DType

    open fun copyDataInto(dst: FloatBuffer): Unit = TODO()

    open fun copyDataInto(dst: LongBuffer): Unit = TODO()

    open fun copyDataIntoUnsigned(dst: ByteBuffer): Unit = TODO()

    companion object {
        @JvmStatic
        fun fromBlobUnsigned(data: ByteBuffer, shape: LongArray): Tensor = TODO()

        @JvmStatic
        fun fromBlob(data: FloatBuffer, shape: LongArray): Tensor = TODO()

        @JvmStatic
        fun fromBlob(data: LongBuffer, shape: LongArray): Tensor = TODO()
    }
}

class EValue private constructor() {
    fun toTensor(): Tensor = TODO()

    fun toStr(): String = TODO()

    companion object {
        @JvmStatic
        fun from(tensor: Tensor): EValue = TODO()
    }
}

open class Module private constructor() : Closeable {
    open fun execute(methodName: String, vararg inputs: EValue): Array<EValue> = TODO()

    open fun loadMethod(methodName: String): Unit = TODO()

    override fun close(): Unit = TODO()

    companion object {
        const val LOAD_MODE_MMAP = 1

        @JvmStatic
        fun load(modelPath: String?, loadMode: Int = 0, numThreads: Int = 0): Module = TODO()
    }
}

class ExecuTorchRuntime private constructor() {
    companion object {
        @JvmStatic
        fun getRegisteredOps(): Array<String> = TODO()
    }
}

open class ExecutorchRuntimeException(val errorCode: Int, details: String?) : RuntimeException(details) {
    fun getDetailedError(): String = TODO()

    companion object {
        const val OPERATOR_MISSING = 0x14
        const val MEMORY_ALLOCATION_FAILED = 0x21
        const val DELEGATE_MEMORY_ALLOCATION_FAILED = 0x31
    }
}
