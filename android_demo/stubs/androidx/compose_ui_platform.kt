// Signatures of Jetpack Compose that this repository uses, for type checks without its libraries. They compute nothing, and the
// compiler plugin of Compose, which holds composable functions apart from others, does not run.
@file:Suppress("UNUSED_PARAMETER")

package androidx.compose.ui.platform

import android.content.Context
import android.view.View
import androidx.compose.runtime.CompositionLocal

val LocalContext: CompositionLocal<Context> = TODO()

val LocalView: CompositionLocal<View> = TODO()
