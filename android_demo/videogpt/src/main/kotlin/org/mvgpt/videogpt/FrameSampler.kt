package org.mvgpt.videogpt

import kotlin.math.max
import kotlin.math.min
import kotlin.math.round

private const val CONVERT = "if a player shows it, convert it: ffmpeg -i INPUT -c:v libx264 -pix_fmt yuv420p OUTPUT.mp4"

/**
 * Which frames of a clip the model sees.
 *
 * Every round(fps)-th frame of \[startS, endS], which is one per second (halves round to even; at least 1). If these are more
 * than `maxFrames`, that many of them, evenly spread: i * ((count - 1) / (maxFrames - 1)) in doubles, rounded down, and the last
 * one. If they are fewer, as many frames as there are, up to `maxFrames`, at the largest equal distance.
 *
 * @param numFrames frames in the clip
 * @param fps frames per second, on average
 * @param startS seconds, included; null for the clip's own
 * @param endS likewise; an end after the clip's own is cut to it
 * @param maxFrames most indices to return
 * @return strictly increasing frame indices: at least one, at most `maxFrames`
 * @throws MvgptException (stage "video") there is no such frame, or an argument is no such quantity
 */
fun sampleIndices(numFrames: Int, fps: Double, startS: Double? = null, endS: Double? = null, maxFrames: Int = 16): List<Int> {
    require(numFrames >= 1, "the clip has no frames", ">= 1 frame", numFrames, CONVERT)
    require(fps.isFinite() && fps > 0, "the clip has no usable frame rate", "> 0 per second", fps, CONVERT)
    require(maxFrames >= 1, "at least one frame must be asked for", "maxFrames >= 1", maxFrames)
    for ((name, value) in listOf("startS" to startS, "endS" to endS)) {
        val valid = value == null || (value.isFinite() && value >= 0)
        require(valid, "$name is not a time in the clip", "seconds >= 0, or null", value)
    }
    val first = if (startS == null) 0 else min(startS * fps, numFrames.toDouble()).toInt()
    require(first < numFrames, "startS is after the end of the clip", "< ${numFrames / fps} s", startS)
    var last = numFrames - 1
    if (endS != null) {
        require(endS >= (startS ?: 0.0), "endS is before startS", ">= $startS s", endS)
        last = min(endS * fps, last.toDouble()).toInt()
    }
    val step = max(1.0, round(fps)).toInt()
    val count = (last - first) / step + 1
    if (count >= maxFrames) {
        val spread = if (maxFrames > 1) (count - 1.0) / (maxFrames - 1.0) else 0.0
        val chosen = List(maxFrames) { i -> if (i > 0 && i == maxFrames - 1) count - 1 else (i * spread).toInt() }
        return chosen.map { first + it * step }
    }
    val fewer = min(maxFrames, last - first + 1)
    val stride = max(1, (last - first) / max(1, fewer - 1))
    return List(fewer) { i -> first + i * stride }
}

private fun require(valid: Boolean, what: String, expected: Any, got: Any?, remedy: String = "change this argument") {
    if (!valid) throw MvgptException(what, "video", expected, got, remedy)
}

/**
 * Which frames of a live stream are taken: one per second.
 *
 * After a taken frame, the next is the one nearest to a second later; whether that is the present frame or one yet to come is
 * decided as if frames kept the distance of the last two. So a camera's jitter does not make a second a frame longer, and of a
 * steady stream every round(fps)-th frame is taken, as [sampleIndices] does with a clip that has as many seconds as the model
 * takes frames.
 */
class FrameClock {
    private var previous: Double? = null
    private var taken: Double? = null

    /**
     * Whether to take the frame shown at `timestampS` (seconds from any origin); asks once per frame, in order.
     *
     * @throws MvgptException a timestamp that is not finite or not after the one before; it is as if it had not come
     */
    fun takes(timestampS: Double): Boolean {
        val before = previous
        val lastTaken = taken
        if (!timestampS.isFinite() || (before != null && timestampS <= before)) {
            throw MvgptException(
                "bad timestamp",
                "video",
                expected = if (before == null) "finite seconds" else "finite seconds, after $before",
                got = timestampS,
                remedy = "add frames in the order they are shown, each once",
            )
        }
        previous = timestampS
        val takes = lastTaken == null || before == null || timestampS + (timestampS - before) / 2 >= lastTaken + 1
        if (takes) taken = timestampS
        return takes
    }
}
