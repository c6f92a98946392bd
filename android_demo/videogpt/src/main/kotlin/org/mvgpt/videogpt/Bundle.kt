package org.mvgpt.videogpt

import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.withContext
import java.io.File
import java.io.IOException
import java.nio.file.Files
import java.nio.file.attribute.BasicFileAttributes

/** Called with bytes checked so far and bytes in all. */
typealias VerifyProgress = (done: Long, total: Long) -> Unit

/** An opened bundle: the manifest is valid, every file is there and has the promised size and hash. */
class Bundle private constructor(val folder: File, val manifest: Manifest, private val identities: Map<String, FileIdentity?>) {
    val geometry: Geometry get() = manifest.geometry

    /** The file or folder that holds `stage`; see [file]. */
    fun path(stage: String): File = file(manifest.stages.getValue(stage).file)

    /**
     * Where a file of the bundle is, to be opened at once, with the others of its unit if it refers to them.
     *
     * @throws MvgptException since the bundle was opened one was replaced or written to; its hash is not known any more
     */
    fun file(name: String): File {
        for (part in manifest.filesWith(name)) {
            if (identity(File(folder, part)) != identities[part]) {
                throw MvgptException(
                    "$part was changed while the bundle was open",
                    "bundle",
                    got = File(folder, part),
                    remedy = "open the bundle again, which checks its files anew",
                )
            }
        }
        return File(folder, name)
    }

    companion object {
        /**
         * Read the manifest and check every file. Cancelling the coroutine stops it within a megabyte.
         *
         * @param folder made by `mvgpt export`
         * @param hashes false compares sizes only: for a folder whose hashes were checked after it was copied to where this app
         *     alone can write
         * @param progress called now and then, on the thread that reads
         * @throws MvgptException anything that is not exactly as the manifest says
         */
        suspend fun open(folder: File, hashes: Boolean = true, progress: VerifyProgress = { _, _ -> }): Bundle =
            withContext(Dispatchers.IO) {
                val manifest = Manifest.read(folder)
                // Before the files are read: what is written to meanwhile is noticed later.
                val bundle = Bundle(folder, manifest, manifest.files.keys.associateWith { identity(File(folder, it)) })
                val total = manifest.files.values.sumOf { it.bytes }
                var done = 0L
                for ((name, info) in manifest.files) {
                    checkFile(folder, name, info, hashes) { bytes ->
                        ensureActive()
                        done += bytes
                        progress(done, total)
                    }
                }
                bundle
            }

        private fun checkFile(folder: File, name: String, info: FileInfo, hashes: Boolean, read: (Int) -> Unit) {
            val file = File(folder, name)
            if (!file.isFile) {
                throw MvgptException(
                    "a file of the bundle is missing",
                    "bundle",
                    expected = file,
                    remedy = "copy or export it again",
                )
            }
            if (file.length() != info.bytes) {
                throw MvgptException(
                    "$name has another size than the manifest says",
                    "bundle",
                    "${info.bytes} bytes",
                    "${file.length()} bytes",
                    "the copy was cut short or the file was changed: copy or export it again",
                )
            }
            if (!hashes) return
            val digest =
                try {
                    sha256(file, read)
                } catch (e: IOException) {
                    throw MvgptException("a file of the bundle cannot be read", "bundle", got = e, cause = e)
                }
            if (digest != info.sha256) {
                throw MvgptException(
                    "$name has another sha256 than the manifest says",
                    "bundle",
                    info.sha256,
                    digest,
                    "the file is damaged or was changed: copy or export it again",
                )
            }
        }

        private fun identity(file: File): FileIdentity? =
            try {
                val attributes = Files.readAttributes(file.toPath(), BasicFileAttributes::class.java)
                FileIdentity(attributes.fileKey(), attributes.size(), attributes.lastModifiedTime().toMillis())
            } catch (e: IOException) {
                null // there is none
            }
    }
}

/** Changes when a file is replaced or written to. */
private data class FileIdentity(val key: Any?, val bytes: Long, val modifiedMs: Long)
