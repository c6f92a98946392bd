package org.mvgpt.demo.ask

import android.app.Application
import android.net.Uri
import androidx.lifecycle.AndroidViewModel
import androidx.lifecycle.viewModelScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.delay
import kotlinx.coroutines.flow.Flow
import kotlinx.coroutines.flow.flow
import kotlinx.coroutines.flow.flowOn
import kotlinx.coroutines.withContext
import org.mvgpt.demo.bundles.BundlesModel
import org.mvgpt.demo.thisApp
import org.mvgpt.videogpt.FrameSource
import org.mvgpt.videogpt.Session
import org.mvgpt.videogpt.android.AndroidMachine
import org.mvgpt.videogpt.android.ExecuTorchEngine
import org.mvgpt.videogpt.android.MediaFrames
import org.mvgpt.videogpt.bench.Thermal
import org.mvgpt.videogpt.store.BundleStore
import java.io.File

/** What the phone says of itself while the app runs. */
data class Vitals(val memoryBytes: Long, val thermal: Thermal)

/** Keeps the models while the activity comes and goes, and hands them what is Android's. */
class AskViewModel(application: Application) : AndroidViewModel(application) {
    val machine = AndroidMachine(application, thisApp(application))
    val store = BundleStore(File(application.filesDir, "bundles"))
    val ask = AskModel(viewModelScope) { name, lowMemory ->
        val bundle = store.open(name)
        val engine = withContext(Dispatchers.IO) { ExecuTorchEngine(bundle) }
        try {
            Session.open(bundle, engine, lowMemory)
        } catch (e: Throwable) {
            engine.close()
            throw e
        }
    }
    val bundles = BundlesModel(viewModelScope, store)

    /** The clip that was picked last, for the benchmark too. */
    var clip: Uri? = null
        private set

    /** Every second, while somebody looks. */
    val vitals: Flow<Vitals> = flow {
        while (true) {
            emit(Vitals(machine.memoryBytes(), machine.thermal()))
            delay(1000)
        }
    }.flowOn(Dispatchers.Default)

    fun load(uri: Uri) {
        clip = uri
        ask.load(PickedClip(getApplication(), uri))
    }

    override fun onCleared() {
        Thread(ask::close, "mvgpt-close").start()
    }
}

private class PickedClip(private val application: Application, private val uri: Uri) : ClipSource {
    private var frames: MediaFrames? = null

    override suspend fun open(): FrameSource =
        withContext(Dispatchers.IO) { MediaFrames.open(application, uri) }.also { frames = it }

    override fun decoder() = frames?.decoder

    override fun close() {
        frames?.close()
    }
}
