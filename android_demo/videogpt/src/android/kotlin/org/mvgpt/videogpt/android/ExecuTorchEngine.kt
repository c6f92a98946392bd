package org.mvgpt.videogpt.android

import org.mvgpt.videogpt.Bundle
import org.mvgpt.videogpt.Contract
import org.mvgpt.videogpt.DType
import org.mvgpt.videogpt.Engine
import org.mvgpt.videogpt.MvgptException
import org.mvgpt.videogpt.Tensor
import org.mvgpt.videogpt.checkInputs
import org.mvgpt.videogpt.checkStamp
import org.mvgpt.videogpt.zeroInputs
import org.pytorch.executorch.EValue
import org.pytorch.executorch.ExecuTorchRuntime
import org.pytorch.executorch.ExecutorchRuntimeException
import org.pytorch.executorch.Module
import java.nio.ByteOrder
import org.pytorch.executorch.DType as NativeType
import org.pytorch.executorch.Tensor as NativeTensor

/**
 * See [Engine]. ExecuTorch's Android package; programs are memory-mapped, a stage's method is loaded when it is first used.
 *
 * Inputs are read where they are: nobody may write to them during a call. Outputs are copies.
 *
 * @param threads of the thread pool, which the whole process shares; null: ExecuTorch's choice, half the cores. Engines that
 *   are open at the same time must agree.
 * @throws MvgptException another engine is open with another number of threads
 */
class ExecuTorchEngine(private val bundle: Bundle, threads: Int? = null) : Engine {
    private val threads = SharedPool.join(threads)
    private val modules = HashMap<String, Module>() // by file
    private val loaded = HashSet<String>() // stages
    private var closed = false

    override fun load(stage: String) {
        if (stage in loaded) return
        if (closed) throw MvgptException("the engine is closed", stage, remedy = "open a new one")
        val info = bundle.manifest.stages.getValue(stage)
        val module = modules[info.file] ?: open(stage, info.file).also { modules[info.file] = it }
        native(stage, "ExecuTorch cannot load ${info.file}") { module.loadMethod(info.method) }
        loaded += stage
    }

    override fun unload(stage: String) {
        val file = bundle.manifest.stages.getValue(stage).file
        loaded -= bundle.manifest.stages.filterValues { it.file == file }.keys
        modules.remove(file)?.close()
    }

    override fun prewarm(stage: String) {
        run(stage, zeroInputs(stage, bundle.geometry))
    }

    override fun run(stage: String, inputs: List<Tensor>): List<Tensor> {
        // Also keeps an empty list away from `execute`, which would run on sample inputs of its own.
        checkInputs(stage, inputs, bundle.geometry)
        load(stage)
        val info = bundle.manifest.stages.getValue(stage)
        val values = inputs.map { EValue.from(toNative(it)) }.toTypedArray()
        return native(stage, "ExecuTorch could not run the stage") {
            // What comes back is the method's own memory, which its next call overwrites.
            modules.getValue(info.file).execute(info.method, *values).map { copy(stage, it.toTensor()) }
        }
    }

    override fun close() {
        if (closed) return
        closed = true
        loaded.clear()
        modules.values.forEach { it.close() }
        modules.clear()
        SharedPool.leave()
    }

    private fun open(stage: String, file: String): Module {
        val path = bundle.file(file).absolutePath
        return native(stage, "ExecuTorch cannot load $file") {
            checkOperators(stage, file)
            // Whoever makes a module sets the size of the pool: to what it is already, which changes nothing. Another
            // size would replace the pool under the delegates that were loaded before.
            val module = Module.load(path, Module.LOAD_MODE_MMAP, threads ?: 0)
            try {
                // The one method that takes no inputs, so that the empty list is right.
                checkStamp(bundle, file, module.execute(Contract.METADATA_METHOD).single().toStr())
            } catch (e: Throwable) {
                module.close()
                throw e
            }
            module
        }
    }

    private fun checkOperators(stage: String, file: String) {
        val needed = bundle.manifest.files.getValue(file).operators
        val missing = (needed - ExecuTorchRuntime.getRegisteredOps().toSet()).sorted()
        if (missing.isEmpty()) return
        val ours = missing.any { it.startsWith("mvgpt::") }
        throw MvgptException(
            "this runtime lacks operators that $file needs",
            stage,
            expected = missing.joinToString(),
            remedy = if (ours) OWN_OPERATORS else "build ExecuTorch with them, or export with its version of this app",
        )
    }

    private companion object {
        const val OWN_OPERATORS =
            "build the AAR with mvgpt's operators (docs/embedding-android.md), or export with --kernels stock"
    }
}

/** The process's thread pool: delegates keep a pointer to it, so that its size must stay while any engine is open. */
private object SharedPool {
    private var users = 0
    private var threads: Int? = null

    @Synchronized
    fun join(wanted: Int?): Int? {
        if (wanted != null && wanted < 1) throw MvgptException("bad number of threads", "engine", ">= 1, or null", wanted)
        if (users > 0 && wanted != threads) {
            throw MvgptException(
                "another engine of this process has another number of threads",
                "engine",
                expected = threads ?: "ExecuTorch's choice",
                got = wanted ?: "ExecuTorch's choice",
                remedy = "close that engine first, or use as many",
            )
        }
        users++
        threads = wanted
        return wanted
    }

    @Synchronized
    fun leave() {
        users--
    }
}

/** Shares the buffer. */
private fun toNative(tensor: Tensor): NativeTensor {
    val shape = LongArray(tensor.shape.size) { tensor.shape[it].toLong() }
    val data = tensor.data.duplicate().order(ByteOrder.nativeOrder())
    return when (tensor.dtype) {
        DType.UINT8 -> NativeTensor.fromBlobUnsigned(data, shape)
        DType.INT64 -> NativeTensor.fromBlob(data.asLongBuffer(), shape)
        DType.FLOAT32 -> NativeTensor.fromBlob(data.asFloatBuffer(), shape)
    }
}

private fun copy(stage: String, native: NativeTensor): Tensor {
    val shape = native.shape().map { it.toInt() }.toIntArray()
    return when (val type = native.dtype()) {
        NativeType.FLOAT -> Tensor.allocate(DType.FLOAT32, *shape).also { native.copyDataInto(it.data.asFloatBuffer()) }
        NativeType.INT64 -> Tensor.allocate(DType.INT64, *shape).also { native.copyDataInto(it.data.asLongBuffer()) }
        NativeType.UINT8 -> Tensor.allocate(DType.UINT8, *shape).also { native.copyDataIntoUnsigned(it.data.duplicate()) }
        else -> throw MvgptException("an output has a type that the contract does not know", stage, got = type)
    }
}

/** Whatever ExecuTorch throws as an [MvgptException], with what it logged. */
private inline fun <T> native(stage: String, what: String, body: () -> T): T =
    try {
        body()
    } catch (e: MvgptException) {
        throw e
    } catch (e: ExecutorchRuntimeException) {
        throw MvgptException(what, stage, got = "${e.message} ${reasons(e)}".trim(), remedy = remedy(e.errorCode), cause = e)
    } catch (e: RuntimeException) {
        throw MvgptException(what, stage, got = e.message, cause = e)
    } catch (e: LinkageError) {
        // its library is loaded at the first use
        val remedy = "the app must hold libexecutorch.so and libfbjni.so for this phone's ABI (arm64-v8a or x86_64)"
        throw MvgptException("ExecuTorch's library cannot be loaded", stage, got = e.message, remedy = remedy, cause = e)
    }

private fun reasons(e: ExecutorchRuntimeException): String =
    e.getDetailedError().lines().filter { "rror" in it || "issing" in it }.joinToString("; ").takeLast(500)

private fun remedy(code: Int): String? =
    when (code) {
        ExecutorchRuntimeException.MEMORY_ALLOCATION_FAILED, ExecutorchRuntimeException.DELEGATE_MEMORY_ALLOCATION_FAILED -> {
            "use lowMemory, a smaller recipe, or close what else holds memory"
        }

        ExecutorchRuntimeException.OPERATOR_MISSING -> {
            "export the bundle with the version of ExecuTorch that this app has"
        }

        else -> {
            null
        }
    }
