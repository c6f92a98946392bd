// Signatures of Jetpack Compose that this repository uses, for type checks without its libraries. They compute nothing, and the
// compiler plugin of Compose, which holds composable functions apart from others, does not run.
@file:Suppress("UNUSED_PARAMETER")

package androidx.compose.ui.semantics

import androidx.compose.ui.Modifier

interface SemanticsPropertyReceiver

class LiveRegionMode private constructor() {
    companion object {
        val Polite: LiveRegionMode = TODO()
        val Assertive: LiveRegionMode = TODO()
    }
}

class Role private constructor() {
    companion object {
        val Switch: Role = TODO()
    }
}

fun Modifier.semantics(mergeDescendants: Boolean = false, properties: SemanticsPropertyReceiver.() -> Unit): Modifier = TODO()

var SemanticsPropertyReceiver.liveRegion: LiveRegionMode
    get() = TODO()
    set(value) = TODO()

var SemanticsPropertyReceiver.contentDescription: String
    get() = TODO()
    set(value) = TODO()
