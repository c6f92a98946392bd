package org.mvgpt.videogpt

import org.junit.jupiter.api.DynamicTest
import org.junit.jupiter.api.DynamicTest.dynamicTest
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.TestFactory
import java.io.File
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue

/** What a host computes itself, beside the Python runtime's numbers: bit for bit. */
class GoldensTest {
    private val prompt =
        Prompt(
            Tokenizer.read(TINY_TOKENIZER),
            PromptTemplate(Contract.PROMPT_PREFIX, Contract.PROMPT_SUFFIX, Contract.PROMPT_NEXT_TURN),
            listOf(2, 0),
        )
    private val goldens = GoldenCases(File(REPOSITORY, "tests/goldens/vectors"), prompt)

    @TestFactory
    fun `host vectors`(): List<DynamicTest> = goldens.cases.map { case -> dynamicTest(case.id) { goldens.run(case) } }

    @Test
    fun `every step of the host has cases`() {
        val stages =
            "splitmix64 generator sample_indices frame_clock resize_clip resize_video prompt text_stream chunk_plan " +
                "sampler rate sum"
        assertTrue(goldens.cases.map { it.stage }.toSet().containsAll(stages.split(' ')))
    }

    @Test
    fun `cases that nobody runs fail`() {
        for (stage in listOf("unheard_of", "image_encoder")) {
            val case = """{"id": "x", "stage": "$stage", "inputs": [], "outputs": []}"""
            assertFailsWith<AssertionError> { goldens.run(Case(REPOSITORY, JsonFields(Json.parse(case)))) }
        }
    }
}
