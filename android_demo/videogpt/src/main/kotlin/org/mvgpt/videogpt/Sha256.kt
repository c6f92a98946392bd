package org.mvgpt.videogpt

import java.io.File
import java.security.MessageDigest

/** Of a file's bytes, in hexadecimal; `read` is told how many bytes each block had. */
fun sha256(file: File, read: (Int) -> Unit = {}): String {
    val digest = MessageDigest.getInstance("SHA-256")
    val block = ByteArray(1 shl 20)
    file.inputStream().use { input ->
        while (true) {
            val count = input.read(block)
            if (count < 0) break
            digest.update(block, 0, count)
            read(count)
        }
    }
    return digest.digest().joinToString("") { "%02x".format(it) }
}
