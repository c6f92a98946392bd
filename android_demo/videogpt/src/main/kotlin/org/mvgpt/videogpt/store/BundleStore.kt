package org.mvgpt.videogpt.store

import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.withContext
import org.mvgpt.videogpt.Bundle
import org.mvgpt.videogpt.Contract
import org.mvgpt.videogpt.MvgptException
import org.mvgpt.videogpt.VerifyProgress
import java.io.File

/**
 * Bundles in a folder that only this app writes to, one folder each. A bundle is there whole and checked, or not at all: it is
 * brought into a folder beside, checked there, and renamed.
 */
class BundleStore(private val folder: File) {
    /** Names of the bundles, sorted. */
    fun names(): List<String> =
        folder.listFiles { file ->
            isName(file.name) && File(file, Contract.MANIFEST_NAME).isFile
        }.orEmpty().map { it.name }.sorted()

    /**
     * Where a bundle is, or would be.
     *
     * @throws MvgptException a name that is no plain one.
     */
    fun folderOf(name: String): File {
        if (!isName(name)) throw MvgptException("bad name of a bundle", "bundle", "letters, digits, '-', '_' and '.'", name)
        return File(folder, name)
    }

    /**
     * Open a bundle, whose hashes were checked when it came: sizes only.
     *
     * @throws MvgptException there is none, or it is not as its manifest says.
     */
    suspend fun open(name: String): Bundle = Bundle.open(folderOf(name), hashes = false)

    /**
     * Bring a bundle under [name], in place of an older one. If it fails, the older one stays; what was brought so far stays for
     * the next try, which [bring] may make use of.
     *
     * @param bring puts the bundle's files into the folder that it is given; [downloadBundle] is one that does.
     * @throws MvgptException a name that is no plain one, or a bundle that is not as its manifest says.
     */
    suspend fun add(name: String, progress: VerifyProgress = { _, _ -> }, bring: suspend (File) -> Unit): Bundle =
        withContext(Dispatchers.IO) {
            val target = folderOf(name)
            val part = File(folder, name + PART)
            if (!part.isDirectory && !part.mkdirs()) throw error("there is no room for a folder", part)
            bring(part)
            val listed = Bundle.open(part, progress = progress).manifest.files.keys + Contract.MANIFEST_NAME
            // What an earlier try left, of another version.
            part.walk().filter { it.isFile && it.relativeTo(part).invariantSeparatorsPath !in listed }.forEach { it.delete() }
            target.deleteRecursively()
            if (!part.renameTo(target)) throw error("the bundle cannot be put into its place", target)
            open(name)
        }

    /** Remove a bundle, and what an interrupted [add] of its name left. */
    fun remove(name: String) {
        folderOf(name).deleteRecursively()
        File(folder, name + PART).deleteRecursively()
    }

    private fun error(what: String, got: File) =
        MvgptException(what, "bundle", got = got, remedy = "make room on the phone, and try again")

    private companion object {
        const val PART = ".part"
        val NAME = Regex("[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")

        fun isName(name: String) = NAME.matches(name) && !name.endsWith(PART)
    }
}
