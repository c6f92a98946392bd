package org.mvgpt.videogpt.store

import com.sun.net.httpserver.HttpExchange
import com.sun.net.httpserver.HttpServer
import org.mvgpt.videogpt.Contract
import org.mvgpt.videogpt.Geometry
import org.mvgpt.videogpt.bench.json
import org.mvgpt.videogpt.sha256
import java.io.File
import java.net.InetAddress
import java.net.InetSocketAddress
import java.util.Random

/** A folder that opens as a bundle, though its programs are noise: of no tokenizer, so that nothing asks it. */
internal fun writeBundle(folder: File, seed: Long, bytes: Int = 300_000): File {
    folder.mkdirs()
    val random = Random(seed)
    for (unit in Contract.UNITS) File(folder, "$unit.pte").writeBytes(ByteArray(bytes).also(random::nextBytes))
    val sizes = Geometry.NAMES.associateWith { 2 } + mapOf("max_context" to 512, "num_frames" to 4)
    val manifest = mapOf(
        "schema_version" to Contract.MANIFEST_SCHEMA_VERSION,
        "contract_version" to Contract.CONTRACT_VERSION,
        "model" to mapOf("name" to "noise", "parameters" to 1, "license" to "none"),
        "source" to
            mapOf("checkpoint" to "noise", "clip" to null, "videomamba" to null, "weights" to emptyMap<String, String>()),
        "recipe" to "fp32",
        "backend" to "xnnpack",
        "kernels" to "stock",
        "geometry" to sizes,
        "stages" to
            Contract.STAGES.associate {
                it.name to
                    mapOf(
                        "file" to "${it.unit}.pte",
                        "method" to it.name,
                        "backend" to "xnnpack",
                        "delegates" to 1,
                        "undelegated" to emptyMap<String, Int>(),
                    )
            },
        "files" to
            Contract.UNITS.associate {
                "$it.pte" to mapOf("sha256" to sha256(File(folder, "$it.pte")), "bytes" to bytes)
            },
        "tokenizer" to null,
        "prompt" to mapOf("prefix" to "a", "suffix" to "{question}", "next_turn" to "{question}"),
        "stop_ids" to emptyList<Int>(),
        "special_ids" to emptyMap<String, Int>(),
        "sampling" to
            mapOf("temperature" to 0.0, "top_p" to 1.0, "top_k" to 0, "repetition_penalty" to 1.0, "max_new_tokens" to 1),
        "memory" to mapOf("all_loaded" to 1, "low_memory" to 1),
        "verified" to null,
        "tools" to emptyMap<String, String>(),
    )
    File(folder, Contract.MANIFEST_NAME).writeText(json(manifest))
    return folder
}

/** Serves a folder on this machine, and can be told to misbehave. */
internal class FileServer(private val folder: File) : AutoCloseable {
    private val server = HttpServer.create(InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0)

    /** Requests as "path" or "path from N". */
    val asked = ArrayList<String>()

    /** Close the connection after so many bytes of a file. */
    var breakAfter: Int? = null

    /** Whether it can send from the middle. */
    var resumes = true

    val address get() = "http://localhost:${server.address.port}/bundle"

    init {
        server.createContext("/bundle/") { exchange -> exchange.use(::answer) }
        server.start()
    }

    override fun close() = server.stop(0)

    private fun answer(exchange: HttpExchange) {
        val name = exchange.requestURI.path.removePrefix("/bundle/")
        val from = exchange.requestHeaders.getFirst("Range")?.removePrefix("bytes=")?.removeSuffix("-")?.toInt() ?: 0
        asked += if (from > 0) "$name from $from" else name
        val file = File(folder, name)
        if (!file.isFile) return exchange.sendResponseHeaders(404, -1)
        val bytes = file.readBytes()
        val start = if (resumes) from else 0
        if (start > 0) exchange.responseHeaders.add("Content-Range", "bytes $start-${bytes.size - 1}/${bytes.size}")
        exchange.sendResponseHeaders(if (start > 0) 206 else 200, (bytes.size - start).toLong())
        val most = breakAfter?.takeIf { name != Contract.MANIFEST_NAME } ?: Int.MAX_VALUE
        exchange.responseBody.write(bytes, start, minOf(most, bytes.size - start))
        exchange.responseBody.flush()
    }

    private fun HttpExchange.use(block: (HttpExchange) -> Unit) =
        try {
            block(this)
        } finally {
            close()
        }
}
