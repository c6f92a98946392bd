package org.mvgpt.videogpt

import java.util.concurrent.atomic.AtomicLong

/**
 * A point in a conversation: just an integer, the position. `turn` only tells whether that point still exists.
 *
 * Nothing is copied: the rows before it stay in the KV cache until another video, or a turn that started further back, overwrites
 * them.
 *
 * @property position positions of prefix, visual tokens and text up to here
 * @property turn which turn put the last of them there
 */
data class Snapshot(val position: Int, val turn: Long)

/** A loaded video and the text about it, one position per id. The KV cache may hold less of the text than there is. */
internal class Conversation(val video: EncodedVideo, val stats: Stats, val prompt: Prompt, val generator: Generator) {
    /** The position after prefix and visual tokens, where the first question goes. */
    val start: Int = generator.cached

    /** The latest turn. */
    var turn: Long = turns.getAndIncrement()
        private set
    private val said = ArrayList<Int>()
    private val turnOf = arrayListOf(turn) // of the video, then of every id
    private var closed = false

    /** Text ids from [start] on: question templates and answers, without the tokens that stopped them. */
    val ids: List<Int> get() = said

    /** Positions that prefix, visual tokens and text take. */
    val position: Int get() = start + said.size

    /** Go back to the first `length` ids and begin a turn there; its number. */
    fun beginTurn(length: Int): Long {
        generator.rewind(start + length) // first, so that an interruption leaves no row that is not in `said`
        said.subList(length, said.size).clear()
        turnOf.subList(length + 1, turnOf.size).clear()
        turn = turns.getAndIncrement()
        return turn
    }

    /** Append ids of the latest turn. */
    fun say(ids: List<Int>) {
        said += ids
        repeat(ids.size) { turnOf += turn }
    }

    /** Another video takes the KV cache. */
    fun close() {
        closed = true
    }

    /** Throws unless the KV cache is still this video's, and `turn` the latest. */
    fun check(turn: Long) {
        val what =
            when {
                closed -> "another video was loaded since this question was asked"
                turn != this.turn -> "the session went on to something else"
                else -> return
            }
        throw MvgptException(what, "session", remedy = "ask again")
    }

    fun snapshot(): Snapshot = Snapshot(position, turnOf.last())

    /** Go back to a snapshot. Throws if it is of another video, or if what it stood on was overwritten. */
    fun restore(snapshot: Snapshot) {
        val length = snapshot.position - start
        if (length !in 0..said.size || turnOf[length] != snapshot.turn) {
            throw MvgptException(
                "the KV cache no longer holds this snapshot",
                "session",
                expected = "a point of this video's conversation, which now takes $position positions",
                got = "position ${snapshot.position} of another video, or of a turn that was overwritten",
                remedy = "restore a snapshot taken on the way here, or ask without keepHistory to start over",
            )
        }
        beginTurn(length)
    }

    private companion object {
        val turns = AtomicLong() // of the whole process: no two videos or sessions share a turn
    }
}
