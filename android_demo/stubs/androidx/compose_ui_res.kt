// Signatures of Jetpack Compose that this repository uses, for type checks without its libraries. They compute nothing, and the
// compiler plugin of Compose, which holds composable functions apart from others, does not run.
@file:Suppress("UNUSED_PARAMETER")

package androidx.compose.ui.res

import androidx.compose.runtime.Composable
import androidx.compose.ui.graphics.painter.Painter

@Composable
fun stringResource(id: Int): String = TODO()

@Composable
fun stringResource(id: Int, vararg formatArgs: Any): String = TODO()

@Composable
fun painterResource(id: Int): Painter = TODO()
