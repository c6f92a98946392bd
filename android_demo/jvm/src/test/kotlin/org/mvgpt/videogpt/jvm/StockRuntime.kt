package org.mvgpt.videogpt.jvm

import kotlinx.coroutines.runBlocking
import org.mvgpt.videogpt.Bundle
import org.mvgpt.videogpt.MvgptException
import org.mvgpt.videogpt.zeroInputs
import java.io.File

/** A process without our operators' library, for `JvmEngineTest`. */
fun main(arguments: Array<String>) {
    val bundle = runBlocking { Bundle.open(File(arguments.single())) }
    JvmEngine(bundle).use { engine ->
        try {
            engine.load("text_decoder")
        } catch (e: MvgptException) {
            println(e.message)
        }
        if (engine.run("frame_scorer", zeroInputs("frame_scorer", bundle.geometry)).size == 2) println("frame_scorer runs")
    }
}
