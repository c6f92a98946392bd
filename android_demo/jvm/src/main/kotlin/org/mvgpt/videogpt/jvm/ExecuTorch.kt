package org.mvgpt.videogpt.jvm

import java.nio.ByteBuffer

/** What ExecuTorch could not do, in its words. Native code throws it, by this name. */
internal class ExecuTorchError(message: String) : RuntimeException(message)

/** The functions of `executorch_jni.cpp`, whose library the system property `mvgpt.jni` names. A handle is a program. */
internal object ExecuTorch {
    init {
        System.load(checkNotNull(System.getProperty("mvgpt.jni")) { "the system property mvgpt.jni names no library" })
    }

    /** `namespace::operator.overload` of every kernel that is registered in this process. */
    external fun operators(): Array<String>

    /** Size of the process-wide pool; before any method is loaded. */
    external fun setThreads(threads: Int)

    /** Map the file into memory. */
    external fun open(path: String): Long

    /** Free the program, its methods and their state. */
    external fun close(handle: Long)

    external fun load(handle: Long, method: String)

    /** The string that a method without inputs returns. */
    external fun metadata(handle: Long, method: String): String

    /** Run a method; returns scalar type and shape of each output, which [output] then copies. */
    external fun execute(
        handle: Long,
        method: String,
        scalarTypes: IntArray,
        shapes: Array<IntArray>,
        buffers: Array<ByteBuffer>,
    ): Array<IntArray>

    /** Copy an output of the last call into a direct buffer of its size. */
    external fun output(handle: Long, index: Int, buffer: ByteBuffer)

    /**
     * Our own operators, from the library that the system property `mvgpt.kernels` names, if it is set: they register themselves,
     * with the runtime that this object has loaded before. Again: no effect.
     */
    fun loadKernels() {
        System.getProperty("mvgpt.kernels")?.let(System::load)
    }
}
