// Signatures of Jetpack Compose that this repository uses, for type checks without its libraries. They compute nothing, and the
// compiler plugin of Compose, which holds composable functions apart from others, does not run.
@file:Suppress("UNUSED_PARAMETER")

package androidx.compose.ui.text

class TextStyle
