package org.mvgpt.videogpt

import java.io.File
import java.security.MessageDigest

/** Small sizes, no two of which are equal where mixing them up would go unnoticed. */
internal val FAKE_SIZES: Map<String, Int> =
    mapOf(
        "image_size" to 5,
        "num_frames" to 6,
        "chunk_frames" to 3,
        "select_k" to 2,
        "image_patches" to 2,
        "image_width" to 3,
        "image_tokens" to 4,
        "video_patches" to 3,
        "video_width" to 2,
        "video_tokens" to 7,
        "hidden_size" to 8,
        "vocab_size" to 600,
        "max_context" to 200,
        "prefill_chunk" to 10,
    )

/** A bundle that opens: tiny's tokenizer, and programs that only [FakeEngine] can stand in for. */
internal class FakeBundle(val folder: File) {
    private val files = listOf("image_encoder", "frame_scorer", "video_encoder", "image_projector", "video_projector", "slm")

    /** JSON of every field by its name; tests change them. */
    val fields: MutableMap<String, String>

    init {
        for (file in files) File(folder, "$file.pte").writeText("not a program: $file")
        TINY_TOKENIZER.copyTo(File(folder, "tokenizer.json"))
        fields =
            linkedMapOf(
                "schema_version" to "${Contract.MANIFEST_SCHEMA_VERSION}",
                "contract_version" to "${Contract.CONTRACT_VERSION}",
                "model" to """{"name": "fake", "parameters": 1, "license": "none"}""",
                "source" to """{"checkpoint": "fake", "clip": null, "videomamba": null, "weights": {}}""",
                "recipe" to "\"fp32\"",
                "backend" to "\"xnnpack\"",
                "kernels" to "\"stock\"",
                "geometry" to FAKE_SIZES.entries.joinToString(prefix = "{", postfix = "}") { "\"${it.key}\": ${it.value}" },
                "stages" to Contract.STAGES.joinToString(prefix = "{", postfix = "}") { "\"${it.name}\": ${stage(it)}" },
                "files" to (files.map { "$it.pte" } + "tokenizer.json").joinToString(prefix = "{", postfix = "}") { file(it) },
                "tokenizer" to "\"tokenizer.json\"",
                "prompt" to """{"prefix": "video:", "suffix": " {question}:", "next_turn": "<|im_end|>{question}:"}""",
                "stop_ids" to "[2, 0]",
                "special_ids" to """{"<|im_end|>": 2}""",
                "sampling" to
                    """{"temperature": 0.0, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1, "max_new_tokens": 9}""",
                "memory" to """{"all_loaded": 2, "low_memory": 1}""",
                "verified" to
                    """{"inputs": ["noise"], "sqnr_db": {"slm": 40.5}, "argmax_agreement": 1.0, "kl_divergence": 1e-3}""",
                "tools" to """{"mvgpt": "0"}""",
            )
        write()
    }

    fun write() {
        val text = fields.entries.joinToString(",\n", "{", "}\n") { "\"${it.key}\": ${it.value}" }
        File(folder, Contract.MANIFEST_NAME).writeText(text)
    }

    private fun stage(stage: StageSpec) =
        """{"file": "${stage.unit}.pte", "method": "${stage.name}", "backend": "xnnpack", "delegates": 1, "undelegated": {}}"""

    private fun file(name: String): String {
        val bytes = File(folder, name).readBytes()
        val sha256 = MessageDigest.getInstance("SHA-256").digest(bytes).joinToString("") { "%02x".format(it) }
        return "\"$name\": {\"sha256\": \"$sha256\", \"bytes\": ${bytes.size}}"
    }
}
