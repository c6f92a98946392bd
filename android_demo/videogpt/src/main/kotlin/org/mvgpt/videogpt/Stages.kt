package org.mvgpt.videogpt

/** One input or output. A dimension is a number, a size of [Geometry], or `1..LIMIT` (dynamic). */
class TensorSpec(val name: String, val dtype: DType, val dims: List<String>) {
    /** Least to most of every dimension. */
    fun shape(geometry: Geometry): List<IntRange> = dims.map { bounds(it, geometry) }

    private fun bounds(dim: String, geometry: Geometry): IntRange {
        if (dim.startsWith("1..")) return 1..bounds(dim.substring(3), geometry).last
        val size = dim.toIntOrNull() ?: geometry.size(dim)
        return size..size
    }
}

/** One step of the pipeline; `unit` is what it is loaded and unloaded with. */
class StageSpec(val name: String, val unit: String, val inputs: List<TensorSpec>, val outputs: List<TensorSpec>)

/**
 * For engines: throws unless number, types and shapes of `inputs` are what the contract says of `stage`, and positions are in
 * the KV cache, past whose end some backends would write.
 *
 * @throws MvgptException what does not fit, and what would
 */
fun checkInputs(stage: String, inputs: List<Tensor>, geometry: Geometry) {
    val specs = Contract.stage(stage).inputs
    if (inputs.size != specs.size) {
        val names = specs.joinToString { it.name }
        throw MvgptException("wrong number of inputs", stage, expected = names, got = "${inputs.size} tensors")
    }
    for ((spec, tensor) in specs.zip(inputs)) {
        val bounds = spec.shape(geometry)
        val fits = tensor.shape.size == bounds.size && tensor.shape.zip(bounds).all { (side, range) -> side in range }
        if (tensor.dtype != spec.dtype || !fits) {
            val sides = bounds.map { if (it.first == it.last) "${it.first}" else "${it.first}..${it.last}" }
            throw MvgptException(
                "wrong input '${spec.name}'",
                stage,
                expected = "${spec.dtype.numpyName} $sides",
                got = "${tensor.dtype.numpyName} ${tensor.shape.contentToString()}",
            )
        }
    }
    if (stage == "text_decoder") {
        val rows = inputs[0].shape[1]
        val start = inputs[1].data.getLong(0)
        if (start < 0 || start > geometry.maxContext - rows) {
            throw MvgptException(
                "the positions are not in the KV cache",
                stage,
                expected = "0 to ${geometry.maxContext - 1}",
                got = "$rows rows from $start",
            )
        }
    }
}

/**
 * For engines: the smallest valid inputs of `stage`, all zero; a row of the text decoder at the last position, where it disturbs
 * least.
 */
fun zeroInputs(stage: String, geometry: Geometry): List<Tensor> {
    val inputs =
        Contract.stage(stage).inputs.map { spec ->
            Tensor.allocate(spec.dtype, *spec.shape(geometry).map { it.first }.toIntArray())
        }
    if (stage == "text_decoder") inputs[1].data.putLong(0, geometry.maxContext - 1L)
    return inputs
}

/**
 * For engines: throws unless what `file` says of itself is what the bundle's manifest says of it.
 *
 * @param stamp the JSON of [Contract.METADATA_METHOD]
 * @throws MvgptException the file was exported for another bundle
 */
fun checkStamp(bundle: Bundle, file: String, stamp: String) {
    val geometry = bundle.geometry
    val expected =
        mapOf(
            "contract_version" to Contract.CONTRACT_VERSION.toLong(),
            "stages" to bundle.manifest.stages.filterValues { it.file == file }.keys.toList(),
            "geometry" to Geometry.NAMES.associateWith { geometry.size(it).toLong() },
        )
    val got =
        try {
            Json.parse(stamp)
        } catch (e: JsonException) {
            e.message
        }
    if (got != expected) {
        throw MvgptException(
            "$file was exported for another bundle",
            "bundle",
            expected,
            got,
            "export the whole bundle again; files of different exports do not mix",
        )
    }
}
