// Signatures of Jetpack Compose that this repository uses, for type checks without its libraries. They compute nothing, and the
// compiler plugin of Compose, which holds composable functions apart from others, does not run.
@file:Suppress("UNUSED_PARAMETER")

package androidx.compose.ui.graphics

import android.graphics.Bitmap

class Color internal constructor() {
    companion object {
        val Transparent: Color = TODO()
    }
}

fun Color(color: Long): Color = TODO()

interface ImageBitmap

fun Bitmap.asImageBitmap(): ImageBitmap = TODO()
