package org.mvgpt.videogpt.store

import java.io.File
import java.security.MessageDigest

/** Of a file's bytes, in hexadecimal. */
fun sha256(file: File): String {
    val digest = MessageDigest.getInstance("SHA-256")
    val block = ByteArray(1 shl 20)
    file.inputStream().use { input ->
        while (true) {
            val count = input.read(block)
            if (count < 0) break
            digest.update(block, 0, count)
        }
    }
    return digest.digest().joinToString("") { "%02x".format(it) }
}
