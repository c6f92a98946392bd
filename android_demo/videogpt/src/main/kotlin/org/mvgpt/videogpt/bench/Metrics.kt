package org.mvgpt.videogpt.bench

// The formulas of docs/benchmark-protocol.md; tests/goldens/benchmark.json has cases for them.

/** Of the protocol: results of different versions are not comparable. */
const val PROTOCOL_VERSION = 1

const val PROMPT = "What happens in this video?"
const val FOLLOW_UP = "What is in the background?"
const val N_GEN = 32

/** Per depth, each of a frame's image tokens. */
const val PREFILL_CALLS = 4

/** Positions at which prefill and decode are measured, besides the full context; those that are below it count. */
val DEPTHS = listOf(64, 512, 1024)

private const val MS = "ms"
private const val RATE = "tokens/s"

private val VIDEO_METRICS =
    listOf(
        "video_decode_ms",
        "preprocess_ms",
        "image_encoder_ms",
        "frame_scorer_ms",
        "video_encoder_ms",
        "image_projector_ms",
        "video_projector_ms",
        "video_prefill_ms",
        "video_ready_ms",
    )

/** Unit of a metric in aggregates, where those by depth are called `name@depth`. */
fun unit(metric: String): String =
    when {
        metric.endsWith("_ms") -> MS
        metric == "energy_j" -> "J"
        else -> RATE
    }

/** "higher" or "lower". */
fun better(metric: String): String = if (unit(metric) == RATE) "higher" else "lower"

/** Rows of all calls over the time of all calls. */
fun tokensPerSecond(test: LanguageModelTest): Double {
    val calls = test.samplesNs.size.toDouble()
    val rows = if (test.nPrompt > 0) test.nPrompt * calls else calls
    return rows * 1e9 / test.samplesNs.sumOf(Long::toDouble)
}

/** Every metric that was measured in [run]; what was not, or is not finite, is absent, never 0. */
fun runMetrics(run: Run): Map<String, Double> {
    val video = run.video
    val values = linkedMapOf<String, Double?>("model_load_cold_ms" to run.load.coldMs, "model_load_warm_ms" to run.load.warmMs)
    VIDEO_METRICS.forEach { values[it] = video[it] }
    values["video_prefill_tokens_per_s"] = perSecond(video["num_video_prefilled_tokens"], video["video_prefill_ms"])
    values["first_time_to_first_token_ms"] = video["video_ready_ms"]?.plus(run.firstQuestion.timeToFirstTokenMs)
    values["follow_up_time_to_first_token_ms"] = run.followUp.timeToFirstTokenMs
    values["stream_time_to_first_token_ms"] =
        run.stream["last_frame_to_ready_ms"]?.plus(run.streamQuestion.timeToFirstTokenMs)
    for (test in run.tests) {
        val kind = if (test.nPrompt > 0) "prefill" else "decode"
        values["${kind}_tokens_per_s@${test.nDepth}"] = tokensPerSecond(test)
    }
    values["energy_j"] = run.energyJ
    return buildMap { values.forEach { (name, value) -> if (value != null && value.isFinite()) put(name, value) } }
}

/** Every metric over the counted runs. */
fun aggregate(runs: List<Run>): Map<String, Aggregate> {
    val counted = runs.filterNot { it.warmup }.map { it.index to runMetrics(it) }
    return counted.flatMap { it.second.keys }.distinct().associateWith { name ->
        val byRun = counted.mapNotNull { (index, values) -> values[name]?.let { index to it } }
        val values = byRun.map { it.second }.sorted()
        val (p25, median, p75) = listOf(0.25, 0.5, 0.75).map { quantile(values, it) }
        val reach = 1.5 * (p75 - p25) // Tukey's fences
        Aggregate(
            unit = unit(name),
            better = better(name),
            n = values.size,
            median = median,
            p25 = p25,
            p75 = p75,
            minimum = values.first(),
            maximum = values.last(),
            outliers = byRun.filterNot { it.second in (p25 - reach)..(p75 + reach) }.map { it.first },
        )
    }
}

/** Of ascending [values], by linear interpolation between the two nearest (R's type 7). */
fun quantile(values: List<Double>, q: Double): Double {
    val position = q * (values.size - 1)
    val below = position.toInt()
    val above = minOf(below + 1, values.size - 1)
    return values[below] + (values[above] - values[below]) * (position - below)
}

/** Where the language model is measured, if video and prompt fill [full] positions. */
fun depths(full: Int): List<Int> = DEPTHS.filter { it < full } + full

private fun perSecond(count: Double?, ms: Double?): Double? =
    if (count != null && ms != null && count > 0 && ms > 0) count / ms * 1e3 else null
