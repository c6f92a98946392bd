package org.mvgpt.demo.bundles

import android.content.ContentResolver
import android.net.Uri
import android.provider.DocumentsContract
import android.provider.DocumentsContract.Document
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.currentCoroutineContext
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.withContext
import java.io.File
import java.io.IOException

/** A folder that the user chose in the system's picker; the right to read it lasts as long as the activity. */
class DocumentTree(private val resolver: ContentResolver, private val tree: Uri) {
    private class Entry(val path: String, val uri: Uri, val bytes: Long)

    /** What the picker calls it. */
    val name: String by lazy {
        val root = DocumentsContract.buildDocumentUriUsingTree(tree, DocumentsContract.getTreeDocumentId(tree))
        resolver.query(root, arrayOf(Document.COLUMN_DISPLAY_NAME), null, null, null)?.use { row ->
            if (row.moveToFirst()) row.getString(0) else null
        } ?: "bundle"
    }

    /** Copy all files below it into [target]; cancelling stops it within a block. */
    suspend fun copyTo(target: File, progress: (done: Long, total: Long) -> Unit) =
        withContext(Dispatchers.IO) {
            val entries = entries(DocumentsContract.getTreeDocumentId(tree), "")
            val total = entries.sumOf { it.bytes }
            val block = ByteArray(1 shl 20)
            var done = 0L
            for (entry in entries) {
                val file = File(target, entry.path)
                file.parentFile?.mkdirs()
                val input = resolver.openInputStream(entry.uri) ?: throw IOException("${entry.path} cannot be read")
                input.use {
                    file.outputStream().use { output ->
                        while (true) {
                            currentCoroutineContext().ensureActive()
                            val count = input.read(block)
                            if (count < 0) break
                            output.write(block, 0, count)
                            done += count
                            progress(done, total)
                        }
                    }
                }
            }
        }

    private fun entries(folder: String, path: String): List<Entry> {
        val children = DocumentsContract.buildChildDocumentsUriUsingTree(tree, folder)
        val columns =
            arrayOf(Document.COLUMN_DOCUMENT_ID, Document.COLUMN_DISPLAY_NAME, Document.COLUMN_MIME_TYPE, Document.COLUMN_SIZE)
        val found = ArrayList<Entry>()
        resolver.query(children, columns, null, null, null)?.use { row ->
            while (row.moveToNext()) {
                val id = row.getString(0)
                val name = row.getString(1)
                // Another app's provider names these: none may lead out of the folder they are copied to.
                if (name.isEmpty() || name == "." || name == ".." || '/' in name) throw IOException("'$name' is no file name")
                if (row.getString(2) == Document.MIME_TYPE_DIR) {
                    found += entries(id, "$path$name/")
                } else {
                    found += Entry(path + name, DocumentsContract.buildDocumentUriUsingTree(tree, id), row.getLong(3))
                }
            }
        }
        return found
    }
}
