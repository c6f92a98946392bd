// Signatures of AndroidX that this repository uses, for type checks without its libraries. They compute nothing.
@file:Suppress("UNUSED_PARAMETER")

package androidx.activity.result

import androidx.activity.result.contract.ActivityResultContracts.PickVisualMedia

abstract class ActivityResultLauncher<I> {
    fun launch(input: I): Unit = TODO()
}

class PickVisualMediaRequest internal constructor()

fun PickVisualMediaRequest(mediaType: PickVisualMedia.VisualMediaType): PickVisualMediaRequest = TODO()
