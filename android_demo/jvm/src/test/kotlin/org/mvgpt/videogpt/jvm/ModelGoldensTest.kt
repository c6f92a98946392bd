package org.mvgpt.videogpt.jvm

import kotlinx.coroutines.runBlocking
import org.junit.jupiter.api.AfterAll
import org.junit.jupiter.api.DynamicContainer
import org.junit.jupiter.api.DynamicContainer.dynamicContainer
import org.junit.jupiter.api.DynamicTest.dynamicTest
import org.junit.jupiter.api.TestFactory
import org.junit.jupiter.api.TestInstance
import org.mvgpt.videogpt.Bundle
import org.mvgpt.videogpt.Contract
import org.mvgpt.videogpt.GoldenCases
import org.mvgpt.videogpt.Prompt
import kotlin.test.assertTrue

/** All golden vectors of the bundles, in the order of the data: each stage alone, then whole videos and their answers. */
@TestInstance(TestInstance.Lifecycle.PER_CLASS)
class ModelGoldensTest {
    private val engines = ArrayList<JvmEngine>()

    @AfterAll
    fun close() = engines.forEach(JvmEngine::close)

    @TestFactory
    fun `golden vectors`(): List<DynamicContainer> =
        BUNDLES.map { folder ->
            val bundle = runBlocking { Bundle.open(folder, hashes = false) }
            val engine = JvmEngine(bundle).also { engines += it }
            val goldens = GoldenCases(vectorsOf(folder), Prompt.of(bundle), GoldenCases.Model(engine, bundle.geometry))
            assertTrue(goldens.cases.map { it.stage }.containsAll(Contract.STAGE_NAMES + "pipeline"))
            dynamicContainer(folder.name, goldens.cases.map { case -> dynamicTest(case.id) { goldens.run(case) } })
        }
}
