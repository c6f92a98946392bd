package org.mvgpt.videogpt.jvm

import org.mvgpt.videogpt.Bundle
import org.mvgpt.videogpt.Contract
import org.mvgpt.videogpt.Engine
import org.mvgpt.videogpt.MvgptException
import org.mvgpt.videogpt.Tensor
import org.mvgpt.videogpt.checkInputs
import org.mvgpt.videogpt.checkStamp
import org.mvgpt.videogpt.zeroInputs

private const val OWN_OPERATORS = "mvgpt::"

/**
 * Does what `engines/executorch.py` does, on the same libraries, for tests off a phone.
 *
 * @param threads size of the process-wide pool, while no other engine has loaded anything; null: leaves it as it is
 */
class JvmEngine(private val bundle: Bundle, threads: Int? = null) : Engine {
    private val programs = HashMap<String, Program>() // by file
    private val loaded = HashSet<String>() // stages

    init {
        threads?.let(ExecuTorch::setThreads)
    }

    override fun load(stage: String) {
        if (stage in loaded) return
        val info = bundle.manifest.stages.getValue(stage)
        checkOperators(stage, info.file)
        attempt(stage, "ExecuTorch cannot load ${info.file}") {
            programs.getOrPut(info.file) { open(info.file) }.load(info.method)
        }
        loaded += stage
    }

    override fun unload(stage: String) {
        val file = bundle.manifest.stages.getValue(stage).file
        loaded -= bundle.manifest.stages.filterValues { it.file == file }.keys
        programs.remove(file)?.close()
    }

    override fun prewarm(stage: String) {
        run(stage, zeroInputs(stage, bundle.geometry))
    }

    override fun run(stage: String, inputs: List<Tensor>): List<Tensor> {
        checkInputs(stage, inputs, bundle.geometry)
        load(stage)
        val info = bundle.manifest.stages.getValue(stage)
        return attempt(stage, "ExecuTorch could not run the stage") { programs.getValue(info.file).execute(info.method, inputs) }
    }

    override fun close() {
        loaded.clear()
        programs.values.forEach(Program::close)
        programs.clear()
    }

    private fun open(file: String): Program {
        val program = Program(bundle.file(file).toPath())
        try {
            checkStamp(bundle, file, program.metadata(Contract.METADATA_METHOD))
        } catch (e: RuntimeException) {
            program.close()
            throw e
        }
        return program
    }

    private fun checkOperators(stage: String, file: String) {
        val needed = bundle.manifest.files.getValue(file).operators
        if (needed.any { it.startsWith(OWN_OPERATORS) }) ExecuTorch.loadKernels()
        val missing = needed - ExecuTorch.operators().toSet()
        if (missing.isEmpty()) return
        throw MvgptException(
            "this runtime lacks operators that $file needs",
            stage,
            expected = missing.sorted().joinToString(),
            remedy = "use a runtime built with them, or export with --kernels stock",
        )
    }

    private inline fun <T> attempt(stage: String, failure: String, body: () -> T): T =
        try {
            body()
        } catch (e: ExecuTorchError) {
            throw MvgptException(failure, stage, got = e.message, cause = e)
        }
}
