package org.mvgpt.videogpt.store

import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.cancel
import kotlinx.coroutines.runBlocking
import org.junit.jupiter.api.AfterEach
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import org.mvgpt.videogpt.Bundle
import org.mvgpt.videogpt.Contract
import org.mvgpt.videogpt.MvgptException
import java.io.File
import kotlin.test.assertContains
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertTrue

class BundleDownloadTest {
    @TempDir
    lateinit var scratch: File
    private val source by lazy { writeBundle(File(scratch, "source"), seed = 1) }
    private val target by lazy { File(scratch, "target").apply { mkdirs() } }
    private val server by lazy { FileServer(source) }
    private val files = Contract.UNITS.map { "$it.pte" }

    @AfterEach
    fun stop() = server.close()

    private fun download() = runBlocking { downloadBundle(server.address, target) }

    private fun assertWhole() {
        runBlocking { Bundle.open(target) }
        assertEquals((files + Contract.MANIFEST_NAME).toSet(), target.list()!!.toSet())
    }

    @Test
    fun `every file comes, and progress ends at their bytes`() {
        val steps = ArrayList<Long>()
        runBlocking {
            downloadBundle(server.address + "/", target) { done, total ->
                steps +=
                    done.also { check(total == 6 * 300_000L) }
            }
        }
        assertEquals(6 * 300_000L, steps.last())
        assertEquals(steps.sorted(), steps)
        assertWhole()
    }

    @Test
    fun `a broken connection is gone on with, byte for byte`() {
        server.breakAfter = 100_000
        val error = assertFailsWith<MvgptException> { download() }
        assertContains(error.message!!, "try again")
        server.breakAfter = null
        server.asked.clear()
        download()
        assertWhole()
        assertTrue(server.asked[1].matches(Regex("${files[0]} from [1-9]\\d*")), "${server.asked}")
        assertEquals(files.drop(1), server.asked.drop(2))
    }

    @Test
    fun `what is there is not fetched again`() {
        download()
        server.asked.clear()
        File(target, files[2]).writeBytes(ByteArray(300_000))
        download()
        assertWhole()
        assertEquals(listOf(Contract.MANIFEST_NAME, files[2]), server.asked)
    }

    @Test
    fun `a server that cannot resume sends all of it`() {
        server.resumes = false
        File(target, files[0] + ".part").writeBytes(ByteArray(1000))
        download()
        assertWhole()
    }

    @Test
    fun `a beginning of another version is thrown away`() {
        File(target, files[0] + ".part").writeBytes(ByteArray(1000))
        download()
        assertWhole()
        assertEquals(listOf("${files[0]} from 1000", files[0]), server.asked.slice(1..2))
        File(target, files[1]).delete()
        File(target, files[1] + ".part").writeBytes(ByteArray(300_000)) // all of it, and wrong
        download()
        assertWhole()
    }

    @Test
    fun `a damaged file is no part of a bundle`() {
        File(source, files[1]).apply { writeBytes(readBytes().also { it[5] = (it[5] + 1).toByte() }) }
        assertContains(assertFailsWith<MvgptException> { download() }.message!!, "${files[1]} arrived damaged")
        assertEquals(setOf(files[0], Contract.MANIFEST_NAME), target.list()!!.toSet())
    }

    @Test
    fun `a longer file than was promised is refused`() {
        File(source, files[0]).appendBytes(ByteArray(10))
        assertContains(assertFailsWith<MvgptException> { download() }.message!!, "longer")
    }

    @Test
    fun `no such bundle, no server, no web address`() {
        File(source, Contract.MANIFEST_NAME).delete()
        assertContains(assertFailsWith<MvgptException> { download() }.message!!, "404")
        val address = server.address
        server.close()
        assertFailsWith<MvgptException> { runBlocking { downloadBundle(address, target) } }
        for (bad in listOf("file:///etc", "nonsense", "")) {
            assertFailsWith<MvgptException>(bad) { runBlocking { downloadBundle(bad, target) } }
        }
    }

    @Test
    fun `cancelling stops it`() {
        assertFailsWith<CancellationException> {
            runBlocking { downloadBundle(server.address, target) { done, _ -> if (done > 0) coroutineContext.cancel() } }
        }
        assertTrue(target.list()!!.none { it in files })
    }
}
