package org.mvgpt.videogpt.bench

/** The result as the JSON that `mvgpt` reads: benchmark.schema.json is its schema. */
fun BenchmarkResult.toJson(): String =
    json(
        mapOf(
            "schema_version" to 1,
            "app" to
                mapOf("name" to app.name, "version" to app.version, "language" to "kotlin", "build_commit" to app.buildCommit),
            "device" to
                mapOf(
                    "name" to device.name,
                    "model" to device.model,
                    "kind" to device.kind,
                    "cpu_info" to device.cpuInfo,
                    "n_cores" to device.nCores,
                    "memory_bytes" to device.memoryBytes,
                ),
            "os" to mapOf("name" to os.name, "version" to os.version),
            "environment" to fields(environment),
            "model" to fields(model),
            "protocol" to fields(plan),
            "runs" to runs.map(::fields),
            "peak_memory_bytes" to peakMemoryBytes,
            "memory_metric" to memoryMetric,
            "aggregates" to aggregates.mapValues { fields(it.value) },
        ),
    )

private fun fields(thermal: Thermal) = mapOf("status" to thermal.status, "temperature_c" to thermal.temperatureC)

private fun fields(environment: Environment) =
    mapOf(
        "power" to
            mapOf(
                "source" to environment.power.source,
                "battery_percent" to environment.power.batteryPercent,
                "low_power_mode" to environment.power.lowPowerMode,
                "governor" to environment.power.governor,
            ),
        "thermal_before" to fields(environment.thermalBefore),
        "thermal_after" to fields(environment.thermalAfter),
        "load_average" to environment.loadAverage,
        "page_cache_evicted" to environment.pageCacheEvicted,
    )

private fun fields(model: Model) =
    mapOf(
        "name" to model.name,
        "model_n_params" to model.parameters,
        "bundle_sha256" to model.bundleSha256,
        "recipe" to model.recipe,
        "kernels" to model.kernels,
        "backends" to model.backends,
        "bundle_bytes" to model.files.values.sum(),
        "files" to model.files,
        "geometry" to model.geometry,
    )

private fun fields(plan: Plan) =
    mapOf(
        "version" to PROTOCOL_VERSION,
        "repeats" to plan.repeats,
        "warmup" to plan.warmup,
        "n_threads" to plan.threads,
        "low_memory" to plan.lowMemory,
        "prompt" to plan.prompt,
        "follow_up" to FOLLOW_UP,
        "n_gen" to N_GEN,
        "n_depths" to plan.depths,
        "video" to plan.video,
        "video_sha256" to plan.videoSha256,
        "n_frames" to plan.frames,
        // Whoever starts the app waits between its launches, and counts that.
        "cool_down_s" to 0.0,
    )

private fun fields(run: Run) =
    mapOf(
        "index" to run.index,
        "warmup" to run.warmup,
        "test_time" to run.testTime,
        "load" to mapOf("cold_ms" to run.load.coldMs, "warm_ms" to run.load.warmMs),
        "video" to run.video,
        "stream" to run.stream,
        "first_question" to fields(run.firstQuestion),
        "follow_up" to fields(run.followUp),
        "stream_question" to fields(run.streamQuestion),
        "tests" to run.tests.map(::fields),
        "energy_j" to run.energyJ,
        "thermal" to fields(run.thermal),
    )

private fun fields(question: Question) =
    mapOf(
        "time_to_first_token_ms" to question.timeToFirstTokenMs,
        "prompt_eval_ms" to question.promptEvalMs,
        "num_prefilled_tokens" to question.numPrefilledTokens,
    )

private fun fields(test: LanguageModelTest) =
    mapOf("n_prompt" to test.nPrompt, "n_gen" to test.nGen, "n_depth" to test.nDepth, "samples_ns" to test.samplesNs)

private fun fields(aggregate: Aggregate) =
    mapOf(
        "unit" to aggregate.unit,
        "better" to aggregate.better,
        "n" to aggregate.n,
        "median" to aggregate.median,
        "p25" to aggregate.p25,
        "p75" to aggregate.p75,
        "minimum" to aggregate.minimum,
        "maximum" to aggregate.maximum,
        "outliers" to aggregate.outliers,
    )

/** Maps, lists, texts, numbers, booleans and null as JSON on one line; numbers must be finite. */
internal fun json(value: Any?): String = buildString { write(value) }

private fun StringBuilder.write(value: Any?) {
    when (value) {
        null, is Boolean, is Int, is Long -> {
            append(value)
        }

        is Double -> {
            append(value.also { require(it.isFinite()) { "JSON has no $it" } })
        }

        is String -> {
            quote(value)
        }

        is List<*> -> {
            joined('[', ']', value) { write(it) }
        }

        is Map<*, *> -> {
            joined('{', '}', value.entries) { (name, member) ->
                quote(name as String)
                append(": ")
                write(member)
            }
        }

        else -> {
            throw IllegalArgumentException("no JSON for ${value::class}")
        }
    }
}

private fun <T> StringBuilder.joined(open: Char, close: Char, items: Collection<T>, each: (T) -> Unit) {
    append(open)
    items.forEachIndexed { index, item ->
        if (index > 0) append(", ")
        each(item)
    }
    append(close)
}

private fun StringBuilder.quote(text: String) {
    append('"')
    var at = 0
    while (at < text.length) {
        val c = text[at++]
        when {
            c == '"' || c == '\\' -> append('\\').append(c)
            c < ' ' || c == '\u007f' -> append("\\u").append(c.code.toString(16).padStart(4, '0'))
            !c.isSurrogate() -> append(c)
            c.isHighSurrogate() && text.getOrNull(at)?.isLowSurrogate() == true -> append(c).append(text[at++])
            else -> append('\ufffd') // half a pair is no text, and UTF-8 has no bytes for it
        }
    }
    append('"')
}
