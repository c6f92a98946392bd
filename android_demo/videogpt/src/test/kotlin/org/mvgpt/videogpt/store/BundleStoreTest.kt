package org.mvgpt.videogpt.store

import kotlinx.coroutines.runBlocking
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import org.mvgpt.videogpt.MvgptException
import java.io.File
import kotlin.test.assertEquals
import kotlin.test.assertFailsWith
import kotlin.test.assertFalse
import kotlin.test.assertTrue

class BundleStoreTest {
    @TempDir
    lateinit var scratch: File
    private val store by lazy { BundleStore(File(scratch, "store")) }
    private val source by lazy { writeBundle(File(scratch, "source"), seed = 1) }

    private fun add(name: String, from: File) = runBlocking { store.add(name) { from.copyRecursively(it, overwrite = true) } }

    @Test
    fun `a bundle that comes is checked and then there`() {
        assertEquals(emptyList(), store.names())
        add("one", source)
        assertEquals(listOf("one"), store.names())
        assertEquals("noise", runBlocking { store.open("one") }.manifest.model.name)
    }

    @Test
    fun `a damaged one does not come, and the older one stays`() {
        add("one", source)
        val before = File(scratch, "store/one/slm.pte").readBytes()
        val damaged = writeBundle(File(scratch, "damaged"), seed = 2)
        File(damaged, "slm.pte").apply { writeBytes(readBytes().also { it[7] = (it[7] + 1).toByte() }) }
        assertFailsWith<MvgptException> { add("one", damaged) }
        assertFailsWith<MvgptException> { add("two", damaged) }
        assertEquals(listOf("one"), store.names())
        assertTrue(before.contentEquals(File(scratch, "store/one/slm.pte").readBytes()))
        add("one", writeBundle(File(scratch, "newer"), seed = 3))
        assertFalse(before.contentEquals(File(scratch, "store/one/slm.pte").readBytes()))
    }

    @Test
    fun `what an earlier try left does not come along`() {
        val part = File(scratch, "store/one.part").apply { mkdirs() }
        File(part, "old.pte").writeText("of another version")
        add("one", source)
        assertEquals(source.list()!!.toSet(), File(scratch, "store/one").list()!!.toSet())
    }

    @Test
    fun `names that lead elsewhere are refused`() {
        for (name in listOf("", ".", "..", "a/b", "../one", "a.part", "ä")) {
            assertFailsWith<MvgptException>(name) {
                add(name, source)
            }
        }
        assertFalse(File(scratch, "one").exists())
    }

    @Test
    fun `removing takes what was left of a try, too`() {
        assertFailsWith<IllegalStateException> { runBlocking { store.add("one") { error("the line is dead") } } }
        assertTrue(File(scratch, "store/one.part").isDirectory)
        store.remove("one")
        assertEquals(emptyList(), File(scratch, "store").list().orEmpty().toList())
    }
}
