package org.mvgpt.videogpt.store

import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.withContext
import org.mvgpt.videogpt.Contract
import org.mvgpt.videogpt.FileInfo
import org.mvgpt.videogpt.Manifest
import org.mvgpt.videogpt.MvgptException
import org.mvgpt.videogpt.VerifyProgress
import org.mvgpt.videogpt.sha256
import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import java.net.HttpURLConnection
import java.net.URL
import java.net.URLEncoder

private const val STAGE = "download"
private const val PART = ".part"
private const val AGAIN = "try again: it goes on where it stopped"
private const val SPARE_BYTES = 64L shl 20
private const val MOST_MANIFEST_BYTES = 4L shl 20
private const val CONNECT_MS = 15_000
private const val READ_MS = 30_000

/**
 * Download the bundle whose manifest is at `base/manifest.json` into [folder], as a caller of [BundleStore.add] does.
 *
 * A file is written as `.part` and gets its name when its sha256 is the manifest's. What is there already is not fetched again:
 * whole files, and the beginning of one, if the server can send from the middle. Cancelling the coroutine stops it within a
 * block.
 *
 * @param base http or https (Android allows http only to apps that ask for it).
 * @param progress bytes that are there, and bytes in all.
 * @throws MvgptException no connection, not enough room, or a file that is not as the manifest says.
 */
suspend fun downloadBundle(base: String, folder: File, progress: VerifyProgress = { _, _ -> }) =
    withContext(Dispatchers.IO) {
        val root = base.removeSuffix("/")
        fetchManifest(root, folder)
        val files = Manifest.read(folder).files
        val total = files.values.sumOf { it.bytes }
        val missing = files.filterNot { (name, info) -> isWhole(File(folder, name), info) }
        var done = total - missing.values.sumOf { it.bytes }
        val started = missing.keys.sumOf { File(folder, it + PART).length() }
        val needed = total - done - started + SPARE_BYTES
        if (missing.isNotEmpty() && folder.usableSpace < needed) {
            val remedy = "make room on the phone, or remove another bundle"
            throw MvgptException("not enough room", STAGE, "${needed shr 20} MB", "${folder.usableSpace shr 20} MB", remedy)
        }
        progress(done, total)
        for ((name, info) in missing) {
            fetchFile(root, name, info, File(folder, name)) { progress(done + it, total) }
            done += info.bytes
        }
    }

private fun CoroutineScope.fetchManifest(root: String, folder: File) {
    val part = File(folder, Contract.MANIFEST_NAME + PART)
    part.delete()
    receive("$root/${Contract.MANIFEST_NAME}", part, MOST_MANIFEST_BYTES) {}
    rename(part, File(folder, Contract.MANIFEST_NAME))
}

private fun CoroutineScope.fetchFile(root: String, name: String, info: FileInfo, file: File, progress: (Long) -> Unit) {
    val part = File(file.path + PART)
    file.parentFile?.mkdirs()
    val address = root + "/" + name.split('/').joinToString("/") { URLEncoder.encode(it, "UTF-8").replace("+", "%20") }
    if (part.length() > info.bytes) part.delete()
    val resumed = part.length() > 0
    receive(address, part, info.bytes, progress)
    if (part.length() < info.bytes) { // some servers do not say how long an answer will be
        throw MvgptException("the connection ended early", STAGE, "${info.bytes} bytes", "$name: ${part.length()}", AGAIN)
    }
    var digest = sha256(part)
    if (digest != info.sha256 && resumed) { // the beginning was of another version
        part.delete()
        receive(address, part, info.bytes, progress)
        digest = sha256(part)
    }
    if (digest != info.sha256) {
        part.delete()
        val remedy = "is the bundle on the server whole, and of one export?"
        throw MvgptException("$name arrived damaged", STAGE, info.sha256, digest, remedy)
    }
    rename(part, file)
}

/** Append what is missing of [address] to [part], which then has at most [most] bytes. */
private fun CoroutineScope.receive(address: String, part: File, most: Long, progress: (Long) -> Unit) {
    val from = part.length()
    if (from > 0 && from == most) return // all of it came, and was not checked
    try {
        val connection = URL(address).openConnection() as? HttpURLConnection
            ?: throw MvgptException("this is no address of a web server", STAGE, "https://…", address)
        connection.connectTimeout = CONNECT_MS
        connection.readTimeout = READ_MS
        connection.setRequestProperty("Accept-Encoding", "identity") // bytes are counted
        if (from > 0) connection.setRequestProperty("Range", "bytes=$from-")
        try {
            val start = startOf(connection, address, from)
            FileOutputStream(part, start > 0).use { out -> copy(connection, out, start, most, address, progress) }
        } finally {
            connection.disconnect()
        }
    } catch (e: IOException) {
        throw MvgptException("the connection failed", STAGE, got = "$address: $e", remedy = AGAIN, cause = e)
    }
}

/** At which byte the answer begins: a server may send all of it although it was asked for the rest. */
private fun startOf(connection: HttpURLConnection, address: String, from: Long): Long {
    val status = connection.responseCode
    if (status == HttpURLConnection.HTTP_OK) return 0
    val range = connection.getHeaderField("Content-Range").orEmpty()
    if (status == HttpURLConnection.HTTP_PARTIAL && range.startsWith("bytes $from-")) return from
    val remedy = if (status == HttpURLConnection.HTTP_NOT_FOUND) "is this the folder that has manifest.json?" else AGAIN
    throw MvgptException("the server refuses", STAGE, "status 200 or 206", "$address: status $status $range", remedy)
}

private fun CoroutineScope.copy(
    connection: HttpURLConnection,
    out: FileOutputStream,
    start: Long,
    most: Long,
    address: String,
    progress: (Long) -> Unit,
) {
    var size = start
    val block = ByteArray(1 shl 16)
    connection.inputStream.use { input ->
        while (true) {
            ensureActive()
            val count = input.read(block)
            if (count < 0) break
            size += count
            if (size > most) {
                throw MvgptException("a file is longer than the manifest says", STAGE, "$most bytes", "$address: more")
            }
            out.write(block, 0, count)
            progress(size)
        }
    }
    out.fd.sync()
}

private fun isWhole(file: File, info: FileInfo) = file.length() == info.bytes && sha256(file) == info.sha256

private fun rename(from: File, to: File) {
    if (!from.renameTo(to)) throw MvgptException("a file cannot be put into its place", STAGE, got = to)
}
