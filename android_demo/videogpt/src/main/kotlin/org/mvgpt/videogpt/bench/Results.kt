package org.mvgpt.videogpt.bench

/*
 * The result of a benchmark, as docs/benchmark-protocol.md and runtime/mvgpt_runtime/bench/results.py have it: a run holds
 * what was measured, `aggregates` what Metrics.kt computes from that. Names in JSON are these in snake case (ResultJson.kt).
 */

data class App(val name: String, val version: String, val buildCommit: String?)

data class Device(
    val name: String,
    val model: String,
    /** "desktop", "phone" or "emulator". */
    val kind: String,
    val cpuInfo: String,
    val nCores: Int,
    val memoryBytes: Long?,
)

data class OperatingSystem(val name: String, val version: String)

/** As the system tells it; what it does not tell is null. */
data class Thermal(val status: String?, val temperatureC: Double?)

data class Power(
    /** "ac" or "battery". */
    val source: String?,
    val batteryPercent: Double?,
    val lowPowerMode: Boolean?,
    val governor: String?,
)

data class Environment(
    val power: Power,
    val thermalBefore: Thermal,
    val thermalAfter: Thermal,
    val loadAverage: Double?,
    val pageCacheEvicted: Boolean,
)

data class Model(
    val name: String,
    val parameters: Long,
    /** Of the manifest, which has those of all other files. */
    val bundleSha256: String,
    val recipe: String,
    val kernels: String,
    /** By stage. */
    val backends: Map<String, String>,
    /** Bytes by file. */
    val files: Map<String, Long>,
    val geometry: Map<String, Int>,
)

/** What was asked to be measured, and the constants that went with it. */
data class Plan(
    val repeats: Int,
    val warmup: Int,
    /** Null: the backend's choice. */
    val threads: Int?,
    val lowMemory: Boolean,
    val prompt: String,
    /** Ascending; the last is the full context. */
    val depths: List<Int>,
    val video: String,
    val videoSha256: String,
    val frames: Int,
)

/** Loading the programs of all stages; `coldMs` is null where the page cache cannot be emptied. */
data class Load(val coldMs: Double?, val warmMs: Double)

data class Question(val timeToFirstTokenMs: Double, val promptEvalMs: Double, val numPrefilledTokens: Int)

/** Calls of the language model from one depth on: prefill (`nPrompt` > 0) or decode (`nGen` > 0). */
data class LanguageModelTest(val nPrompt: Int, val nGen: Int, val nDepth: Int, val samplesNs: List<Long>)

data class Run(
    val index: Int,
    val warmup: Boolean,
    /** ISO 8601 with a time zone: when it began. */
    val testTime: String,
    val load: Load,
    /** Metrics of loading the video as a file, by the contract's names. */
    val video: Map<String, Double>,
    /** Of the same frames arriving one by one. */
    val stream: Map<String, Double>,
    val firstQuestion: Question,
    val followUp: Question,
    val streamQuestion: Question,
    val tests: List<LanguageModelTest>,
    val energyJ: Double?,
    /** At its end. */
    val thermal: Thermal,
)

/** Of one metric over the counted runs. Outliers are in it, and named. */
data class Aggregate(
    val unit: String,
    /** "lower" or "higher". */
    val better: String,
    val n: Int,
    val median: Double,
    val p25: Double,
    val p75: Double,
    val minimum: Double,
    val maximum: Double,
    val outliers: List<Int>,
)

data class BenchmarkResult(
    val app: App,
    val device: Device,
    val os: OperatingSystem,
    val environment: Environment,
    val model: Model,
    val plan: Plan,
    val runs: List<Run>,
    val peakMemoryBytes: Long,
    /** "rss", "pss" or "phys_footprint". */
    val memoryMetric: String,
) {
    val aggregates: Map<String, Aggregate> = aggregate(runs)
}
