package org.mvgpt.demo.ask

import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Job
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.launch
import org.mvgpt.videogpt.FinishReason
import org.mvgpt.videogpt.FrameSource
import org.mvgpt.videogpt.MvgptException
import org.mvgpt.videogpt.Session

/** A frame as the image encoder saw it: uint8 RGB, [size] x [size]. */
class Thumbnail(val rgb: ByteArray, val size: Int, val seconds: Double, val score: Float, val isKey: Boolean)

data class Turn(val question: String, val answer: String, val stopped: Boolean = false)

/** What the app does just now. */
sealed interface Busy {
    data class Opening(val bundle: String) : Busy

    /** [stage] is what runs, as the contract calls it. */
    data class Loading(val stage: String) : Busy

    data object Answering : Busy
}

data class AskState(
    val bundle: String? = null,
    val busy: Busy? = null,
    val thumbnails: List<Thumbnail> = emptyList(),
    val turns: List<Turn> = emptyList(),
    /** By the contract's names. */
    val stats: Map<String, Double> = emptyMap(),
    /** Of the video, as the system calls it. */
    val decoder: String? = null,
    val error: String? = null,
) {
    val hasVideo: Boolean get() = thumbnails.isNotEmpty()
}

/** A clip that was picked: [open] opens it, [close] frees its decoder, [decoder] says afterwards who decoded. */
interface ClipSource {
    suspend fun open(): FrameSource

    fun decoder(): String?

    fun close()
}

/**
 * The conversation that the app shows. Nothing of Android is in it; it runs in [scope], and the session on its own thread.
 *
 * One thing at a time: what is asked for while something runs is ignored, except [stop] and [release].
 */
class AskModel(
    private val scope: CoroutineScope,
    private val openSession: suspend (bundle: String, lowMemory: Boolean) -> Session,
) {
    private val mutableState = MutableStateFlow(AskState())
    private var session: Session? = null
    private var job: Job? = null

    val state: StateFlow<AskState> = mutableState.asStateFlow()

    fun open(bundle: String, lowMemory: Boolean) =
        work(Busy.Opening(bundle)) {
            closeSession()
            mutableState.value = AskState(busy = Busy.Opening(bundle))
            session = openSession(bundle, lowMemory)
            mutableState.update { it.copy(bundle = bundle) }
        }

    fun load(clip: ClipSource) =
        work(Busy.Loading("video")) {
            val session = session ?: return@work
            try {
                val source = clip.open() // if that fails, the video before stays
                mutableState.update { it.copy(thumbnails = emptyList(), turns = emptyList(), stats = emptyMap(), decoder = null) }
                session.loadVideo(source) { stage -> mutableState.update { it.copy(busy = Busy.Loading(stage)) } }
            } finally {
                clip.close()
            }
            mutableState.update {
                it.copy(thumbnails = thumbnails(session), stats = session.videoStats, decoder = clip.decoder())
            }
        }

    fun ask(question: String) =
        work(Busy.Answering) {
            val session = session ?: return@work
            val answer = session.ask(question.trim(), keepHistory = state.value.turns.isNotEmpty())
            mutableState.update { it.copy(turns = it.turns + Turn(question.trim(), "")) }
            try {
                answer.collect { lastTurn { turn -> turn.copy(answer = answer.text) } }
            } catch (e: MvgptException) {
                // A question that could not be asked is no turn of the conversation.
                if (answer.tokenIds.isEmpty()) mutableState.update { it.copy(turns = it.turns.dropLast(1)) }
                throw e
            }
            lastTurn { it.copy(answer = answer.text, stopped = answer.finishReason == FinishReason.CANCELLED) }
            mutableState.update { it.copy(stats = answer.stats) }
        }

    /** Stop loading or answering before its next step. */
    fun stop() {
        session?.cancel()
    }

    /** Forget the questions and answers; the video stays. */
    fun startOver() {
        if (job?.isActive != true) mutableState.update { it.copy(turns = emptyList()) }
    }

    fun dismissError() = mutableState.update { it.copy(error = null) }

    /** Free the session's memory, when the job returned has ended. What was open can be opened again. */
    fun release(): Job {
        stop()
        val running = job
        return scope.launch {
            running?.join()
            closeSession()
            mutableState.value = AskState()
        }.also { job = it }
    }

    /** For when [scope] is no more. Waits for the step that runs, so not on the main thread. */
    fun close() {
        stop()
        closeSession()
    }

    private fun work(busy: Busy, block: suspend () -> Unit) {
        if (job?.isActive == true) return
        job = scope.launch {
            mutableState.update { it.copy(busy = busy, error = null) }
            try {
                block()
            } catch (e: CancellationException) {
                throw e
            } catch (e: MvgptException) {
                // also Cancelled, after which no video is loaded
                mutableState.update { it.copy(error = e.message) }
            } finally {
                mutableState.update { it.copy(busy = null) }
            }
        }
    }

    private fun closeSession() {
        session?.close()
        session = null
    }

    private fun lastTurn(change: (Turn) -> Turn) =
        mutableState.update { it.copy(turns = it.turns.dropLast(1) + change(it.turns.last())) }
}

/** The clip's frames as they were encoded, without padding. */
private fun thumbnails(session: Session): List<Thumbnail> {
    val video = session.video ?: return emptyList()
    val clip = session.clip ?: return emptyList()
    val frames = video.frames
    val scores = video.frameScores.flatMap { chunk -> List(chunk.elements) { chunk.data.getFloat(it * Float.SIZE_BYTES) } }
    val pixels = frames.clipPixels.data.duplicate()
    return List(frames.count) { index ->
        val rgb = ByteArray(frames.size * frames.size * 3)
        pixels.position(index * rgb.size)
        pixels.get(rgb)
        Thumbnail(rgb, frames.size, clip.indices[index] / clip.fps, scores[index], index in video.keyFrames)
    }
}
