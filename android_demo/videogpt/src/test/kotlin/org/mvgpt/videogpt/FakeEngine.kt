package org.mvgpt.videogpt

import kotlinx.coroutines.runBlocking
import org.junit.jupiter.api.BeforeEach
import org.junit.jupiter.api.io.TempDir
import java.nio.file.Path

/**
 * An engine whose numbers say what they were computed from. The text decoder holds the embeddings it was given, and its logits
 * follow from all of them, so that a row that is missing, stale or in the wrong place changes the answer.
 */
internal class FakeEngine(private val geometry: Geometry) : Engine {
    /** "load", "unload", "prewarm" or "run", and the stage. */
    val calls = ArrayList<String>()

    /** Called before each run of a stage. */
    var before: (stage: String) -> Unit = {}

    /** Token ids that are never chosen. */
    var excluded: Set<Int> = setOf(0, 1, 2)
    val decoded = ArrayList<Chunk>()
    var closed = false
    private val loaded = HashSet<String>()
    private val cache = arrayOfNulls<FloatArray>(geometry.maxContext)

    val loadedUnits: Set<String> get() = loaded

    override fun load(stage: String) {
        calls += "load $stage"
        loaded += Contract.stage(stage).unit
    }

    override fun unload(stage: String) {
        calls += "unload $stage"
        loaded -= Contract.stage(stage).unit
        if (Contract.stage(stage).unit == "slm") cache.fill(null)
    }

    override fun prewarm(stage: String) {
        calls += "prewarm $stage"
        load(stage)
    }

    override fun run(stage: String, inputs: List<Tensor>): List<Tensor> {
        before(stage)
        checkInputs(stage, inputs, geometry)
        calls += "run $stage"
        loaded += Contract.stage(stage).unit
        return when (stage) {
            "frame_scorer" -> {
                listOf(noise(stage, inputs, geometry.chunkFrames), Tensor.longs(longArrayOf(0, 2), 2))
            }

            "token_embedding" -> {
                val ids = inputs[0].toLongs()
                listOf(
                    Tensor.floats(
                        FloatArray(ids.size * geometry.hiddenSize) { ids[it / geometry.hiddenSize] + it % 8 / 8f },
                        1,
                        ids.size,
                        geometry.hiddenSize,
                    ),
                )
            }

            "text_decoder" -> {
                listOf(decode(inputs[0], inputs[1].data.getLong(0).toInt()))
            }

            else -> {
                val spec = Contract.stage(stage).outputs.single()
                listOf(noise(stage, inputs, *spec.shape(geometry).map { it.last }.toIntArray()))
            }
        }
    }

    override fun close() {
        closed = true
    }

    private fun decode(rows: Tensor, start: Int): Tensor {
        val count = rows.shape[1]
        decoded += Chunk(start, count)
        val values = rows.toFloats().toList().chunked(geometry.hiddenSize)
        for (i in 0 until count) cache[start + i] = values[i].toFloatArray()
        var hash = 17
        for (position in 0 until start + count) {
            hash = 31 * hash + (cache[position] ?: error("position $position was never written")).contentHashCode()
        }
        val draws = SplitMix64(hash.toLong())
        return Tensor.floats(
            FloatArray(geometry.vocabSize) { id -> if (id in excluded) -9f else (draws.next() ushr 40) / (1 shl 24).toFloat() },
            1,
            geometry.vocabSize,
        )
    }

    private fun noise(stage: String, inputs: List<Tensor>, vararg shape: Int): Tensor {
        val draws = SplitMix64(inputs.fold(stage.hashCode()) { hash, tensor -> 31 * hash + tensor.doubles().hashCode() }.toLong())
        return Tensor.allocate(DType.FLOAT32, *shape).also { tensor ->
            for (i in 0 until tensor.elements) tensor.data.putFloat(4 * i, (draws.next() ushr 40) / (1 shl 24).toFloat())
        }
    }
}

/** Sessions on an engine whose answers depend on every row of its KV cache. */
abstract class FakeSession {
    @TempDir
    lateinit var temporary: Path
    protected lateinit var bundle: Bundle
    internal lateinit var engine: FakeEngine

    @BeforeEach
    fun open() {
        bundle = runBlocking { Bundle.open(FakeBundle(temporary.toFile()).folder) }
        engine = FakeEngine(bundle.geometry)
    }

    protected fun session(lowMemory: Boolean = false, body: suspend (Session) -> Unit) =
        runBlocking { Session.open(bundle, engine, lowMemory).use { body(it) } }

    protected fun frames(count: Int, seed: Long = 1): List<Frame> {
        val draws = SplitMix64(seed)
        return List(count) { Frame(9, 7, drawnFrames(draws, 1, 7, 9)) }
    }

    protected suspend fun Session.say(question: String, keepHistory: Boolean = false, limit: Int = 9): List<Int> {
        val answer = ask(question, keepHistory, limit)
        answer.collect {}
        return answer.tokenIds
    }
}
