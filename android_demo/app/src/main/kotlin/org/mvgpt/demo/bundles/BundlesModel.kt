package org.mvgpt.demo.bundles

import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Job
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.launch
import org.mvgpt.videogpt.Manifest
import org.mvgpt.videogpt.MvgptException
import org.mvgpt.videogpt.store.BundleStore
import org.mvgpt.videogpt.store.downloadBundle
import java.io.File
import java.io.IOException

data class BundleRow(val name: String, val model: String, val recipe: String, val megabytes: Long)

data class BundlesState(
    val rows: List<BundleRow> = emptyList(),
    /** Of the bundle that is coming, if one is. */
    val coming: String? = null,
    val doneBytes: Long = 0,
    val totalBytes: Long = 0,
    val error: String? = null,
)

/** The bundles on this phone, and bringing more. Nothing of Android is in it. */
class BundlesModel(private val scope: CoroutineScope, private val store: BundleStore) {
    private val mutableState = MutableStateFlow(BundlesState(rows = rows()))
    private var job: Job? = null

    val state: StateFlow<BundlesState> = mutableState.asStateFlow()

    /** Under the last part of its address. A download that was stopped goes on where it was. */
    fun download(address: String) {
        val url = address.trim().removeSuffix("/").removeSuffix("/manifest.json")
        bring(url.substringAfterLast('/')) { folder -> downloadBundle(url, folder, ::progress) }
    }

    /** @param copy puts the bundle's files into the folder that it is given. */
    fun import(name: String, copy: suspend (File, progress: (Long, Long) -> Unit) -> Unit) =
        bring(name) { folder -> copy(folder, ::progress) }

    fun delete(name: String) {
        if (job?.isActive == true) return
        store.remove(name)
        mutableState.update { it.copy(rows = rows()) }
    }

    fun cancel() {
        job?.cancel()
    }

    fun dismissError() = mutableState.update { it.copy(error = null) }

    private fun bring(name: String, bring: suspend (File) -> Unit) {
        if (job?.isActive == true) return
        job = scope.launch {
            mutableState.update { it.copy(coming = name, doneBytes = 0, totalBytes = 0, error = null) }
            try {
                store.add(name, ::progress, bring)
            } catch (e: CancellationException) {
                throw e
            } catch (e: MvgptException) {
                mutableState.update { it.copy(error = e.message) }
            } catch (e: IOException) {
                // while copying
                mutableState.update { it.copy(error = e.message) }
            } finally {
                mutableState.update { it.copy(coming = null, rows = rows()) }
            }
        }
    }

    private fun progress(done: Long, total: Long) = mutableState.update { it.copy(doneBytes = done, totalBytes = total) }

    private fun rows(): List<BundleRow> =
        store.names().mapNotNull { name ->
            try {
                val manifest = Manifest.read(store.folderOf(name))
                BundleRow(name, manifest.model.name, manifest.recipe, manifest.files.values.sumOf { it.bytes } / 1_000_000)
            } catch (e: MvgptException) {
                // of another version: shown, to be deleted
                BundleRow(name, e.what, "?", 0)
            }
        }
}
