package org.mvgpt.videogpt

import java.io.File
import java.io.IOException
import java.nio.ByteBuffer

/** The weights: `name` as it was given to the exporter. */
data class ModelInfo(val name: String, val parameters: Long, val license: String)

/** What the bundle was made from, so that it can be compared again. */
data class SourceInfo(val checkpoint: String, val clip: String?, val videomamba: String?, val weights: Map<String, String>)

/** A file of a bundle. `operators`: kernels the runtime must have besides the delegates. */
data class FileInfo(val sha256: String, val bytes: Long, val plannedBytes: Long, val operators: List<String>)

/** Where a stage is: a file, or a folder of files, and the method in it. */
data class StageInfo(
    val file: String,
    val method: String,
    val backend: String,
    val delegates: Int,
    val undelegated: Map<String, Int>,
)

/** Text before the visual tokens, text after them, and text that follows an answer; the last two with `{question}`. */
data class PromptTemplate(val prefix: String, val suffix: String, val nextTurn: String)

/** What `Session.ask` does when it is not told otherwise; [SamplingOptions] explains. */
data class SamplingDefaults(
    val temperature: Double,
    val topP: Double,
    val topK: Int,
    val repetitionPenalty: Double,
    val maxNewTokens: Int,
)

/** Estimates in bytes, to choose a device by: files mapped plus planned arenas; the process itself is not in it. */
data class Memory(val allLoaded: Long, val lowMemory: Long)

/** How close the stages came to the eager model at export: the worst of all inputs. */
data class Verification(
    val inputs: List<String>,
    val sqnrDb: Map<String, Double>,
    val argmaxAgreement: Double,
    val klDivergence: Double,
)

/** manifest.json; docs/bundle-format.md describes every field. */
data class Manifest(
    val model: ModelInfo,
    val source: SourceInfo,
    val recipe: String,
    val backend: String,
    val kernels: String,
    val geometry: Geometry,
    val stages: Map<String, StageInfo>,
    val files: Map<String, FileInfo>,
    val tokenizer: String?,
    val prompt: PromptTemplate,
    val stopIds: List<Int>,
    val specialIds: Map<String, Int>,
    val sampling: SamplingDefaults,
    val memory: Memory,
    val verified: Verification?,
    val tools: Map<String, String>,
) {
    /** Of the stages, each once. */
    val backends: List<String> get() = stages.values.map { it.backend }.distinct()

    /** The operators it needs that no stock runtime has. */
    val ownOperators: List<String>
        get() = files.values.flatMap { it.operators }.filter { it.startsWith("mvgpt::") }.distinct().sorted()

    /** The files of `file`'s unit: to load any of them, all must be there. */
    fun filesWith(file: String): List<String> = files.keys.filter { Contract.unit(it) == Contract.unit(file) }

    /** Bytes of all files of the stage's unit. */
    fun bytesOf(stage: String): Long = filesWith(stages.getValue(stage).file).sumOf { files.getValue(it).bytes }

    companion object {
        /**
         * The manifest of a bundle's folder, checked against the schema, this contract and itself; no other file is read.
         *
         * @throws MvgptException there is none, it is of another version, or malformed; it says where
         */
        fun read(folder: File): Manifest {
            val file = File(folder, Contract.MANIFEST_NAME)
            if (!folder.isDirectory) {
                throw MvgptException("no such bundle folder", "bundle", got = folder, remedy = "make one with `mvgpt export`")
            }
            if (!file.isFile) {
                throw MvgptException(
                    "the folder has no ${Contract.MANIFEST_NAME}",
                    "bundle",
                    got = folder,
                    remedy = "an export or a copy that was interrupted leaves none: do it again",
                )
            }
            val fields =
                try {
                    JsonFields(Json.parse(readUtf8(file)))
                } catch (e: IOException) {
                    // text that is no UTF-8 too
                    throw MvgptException("cannot read the manifest", "bundle", "UTF-8 JSON", e, cause = e)
                } catch (e: JsonException) {
                    throw MvgptException("cannot read the manifest", "bundle", "a JSON object", e.message, cause = e)
                }
            return try {
                checkVersions(fields)
                fields.manifest().also(::checkConsistency)
            } catch (e: JsonException) {
                throw MvgptException("the manifest is malformed", "bundle", got = e.message, remedy = "export again", cause = e)
            }
        }
    }
}

internal fun readUtf8(file: File): String = Charsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(file.readBytes())).toString()

// Before the fields: another version's need not fit this schema, and the reason should be the version.
private fun checkVersions(fields: JsonFields) {
    for ((key, expected) in listOf(
        "schema_version" to Contract.MANIFEST_SCHEMA_VERSION,
        "contract_version" to Contract.CONTRACT_VERSION,
    )) {
        val got = if (key in fields) fields.value(key) else null
        if (got != expected.toLong()) {
            throw MvgptException(
                "the bundle has another $key",
                "bundle",
                expected,
                got,
                "export the checkpoint again with the version of mvgpt that this app was built with",
            )
        }
    }
}

private fun JsonFields.manifest(): Manifest =
    part {
        Manifest(
            model = fields("model").part { ModelInfo(string("name"), long("parameters", 1), string("license")) },
            source =
                fields("source").part {
                    SourceInfo(
                        string("checkpoint"),
                        nullable("clip") { string(it) },
                        nullable("videomamba") { string(it) },
                        map("weights") { sha256(it) },
                    )
                },
            recipe = string("recipe"),
            backend = string("backend"),
            kernels = string("kernels").also { if (it !in listOf("fused", "stock")) refuse("kernels", "fused or stock") },
            geometry = geometry(map("geometry") { int(it, 1) }),
            stages =
                map("stages") { name ->
                    fields(name).part {
                        StageInfo(
                            relative(string("file")),
                            string("method"),
                            string("backend"),
                            int("delegates"),
                            map("undelegated") { int(it, 1) },
                        )
                    }
                },
            files =
                map("files") { name ->
                    relative(name)
                    fields(name).part {
                        FileInfo(
                            sha256("sha256"),
                            long("bytes"),
                            if ("planned_bytes" in this) long("planned_bytes") else 0,
                            if ("operators" in this) strings("operators") else emptyList(),
                        )
                    }
                },
            tokenizer = nullable("tokenizer") { relative(string(it)) },
            prompt = fields("prompt").part { PromptTemplate(string("prefix"), string("suffix"), string("next_turn")) },
            stopIds = list("stop_ids").map { JsonFields(mapOf("stop_ids" to it)).int("stop_ids") },
            specialIds = map("special_ids") { int(it) },
            sampling = fields("sampling").part { sampling() },
            memory = fields("memory").part { Memory(long("all_loaded"), long("low_memory")) },
            verified =
                nullable("verified") { name ->
                    fields(name).part {
                        Verification(
                            strings("inputs"),
                            map("sqnr_db") { double(it) },
                            double("argmax_agreement").also { if (it !in 0.0..1.0) refuse("argmax_agreement", "0 to 1") },
                            double("kl_divergence"),
                        )
                    }
                },
            tools = map("tools") { string(it) },
        )
    }

private fun JsonFields.sampling(): SamplingDefaults {
    val options =
        try {
            SamplingOptions(double("temperature"), double("top_p"), int("top_k"), double("repetition_penalty"))
        } catch (e: MvgptException) {
            throw JsonException("sampling: ${e.what}: expected ${e.expected}, got ${e.got}")
        }
    val (temperature, topP, topK, repetitionPenalty) = options
    return SamplingDefaults(temperature, topP, topK, repetitionPenalty, int("max_new_tokens", 1))
}

private inline fun <T> JsonFields.part(read: JsonFields.() -> T): T = read().also { end() }

private val SHA256 = Regex("[0-9a-f]{64}")

private fun JsonFields.sha256(name: String): String =
    string(name).also { if (!SHA256.matches(it)) refuse(name, "64 hexadecimal digits") }

/** A file below the folder, `/` between names: nothing that could leave it, on any system. */
private fun relative(name: String): String {
    val bad = name.split('/').any { part -> part in listOf("", ".", "..") || part.any { it in "\\:\u0000" } }
    return if (bad) throw JsonException("file name '$name' leaves the bundle folder") else name
}

private fun geometry(sizes: Map<String, Int>): Geometry {
    val odd = (Geometry.NAMES - sizes.keys) + (sizes.keys - Geometry.NAMES.toSet())
    if (odd.isNotEmpty()) throw JsonException("geometry: missing or unknown: ${odd.joinToString()}")
    return Geometry.of(sizes)
}

private fun checkConsistency(manifest: Manifest) {
    fun require(condition: Boolean, message: () -> String) {
        if (!condition) throw JsonException(message())
    }
    require(manifest.stages.keys.toList() == Contract.STAGE_NAMES) {
        "stages: expected ${Contract.STAGE_NAMES.joinToString()}; got ${manifest.stages.keys.joinToString()}"
    }
    val listed = manifest.files.keys.filter { it != manifest.tokenizer }
    for ((name, stage) in manifest.stages) {
        val unit = Contract.stage(name).unit
        require(Contract.unit(stage.file) == unit) { "stages.$name: ${stage.file} is not called $unit and a dot" }
        require(listed.any { "$it/".startsWith("${stage.file}/") }) { "stages.$name: ${stage.file} is not listed in files" }
    }
    require(manifest.tokenizer == null || manifest.tokenizer in manifest.files) {
        "tokenizer: ${manifest.tokenizer} is not listed in files"
    }
    val others = listed.filter { Contract.unit(it) !in Contract.UNITS }
    require(others.isEmpty()) { "files: neither of a stage nor the tokenizer: ${others.joinToString()}" }
    require(manifest.tokenizer == null || manifest.stopIds.isNotEmpty()) { "stop_ids is empty: no answer would end" }
    require("{question}" in manifest.prompt.suffix) { "prompt.suffix has no {question}" }
    require("{question}" in manifest.prompt.nextTurn) { "prompt.next_turn has no {question}" }
    val sizes = manifest.geometry
    val visualTokens = sizes.numFrames.toLong() * sizes.imageTokens + sizes.numChunks.toLong() * sizes.videoTokens
    require(sizes.numFrames % sizes.chunkFrames == 0 && visualTokens < sizes.maxContext) { "geometry: impossible sizes $sizes" }
}
