// Signatures of Jetpack Compose that this repository uses, for type checks without its libraries. They compute nothing, and the
// compiler plugin of Compose, which holds composable functions apart from others, does not run.
@file:Suppress("UNUSED_PARAMETER")

package androidx.compose.material3

import androidx.compose.foundation.layout.ColumnScope
import androidx.compose.foundation.layout.PaddingValues
import androidx.compose.foundation.layout.RowScope
import androidx.compose.runtime.Composable
import androidx.compose.ui.Modifier
import androidx.compose.ui.graphics.Color
import androidx.compose.ui.graphics.painter.Painter
import androidx.compose.ui.text.TextStyle

class ColorScheme internal constructor() {
    val primary: Color get() = TODO()
    val tertiary: Color get() = TODO()
    val errorContainer: Color get() = TODO()
}

class Typography {
    val titleMedium: TextStyle get() = TODO()
    val titleSmall: TextStyle get() = TODO()
    val bodySmall: TextStyle get() = TODO()
    val labelSmall: TextStyle get() = TODO()
}

fun lightColorScheme(primary: Color, tertiary: Color): ColorScheme = TODO()

fun darkColorScheme(primary: Color, tertiary: Color): ColorScheme = TODO()

object MaterialTheme {
    val colorScheme: ColorScheme
        @Composable get() = TODO()
    val typography: Typography
        @Composable get() = TODO()
}

@Composable
fun MaterialTheme(colorScheme: ColorScheme = MaterialTheme.colorScheme, content: @Composable () -> Unit): Unit = TODO()

@Composable
fun Text(text: String, modifier: Modifier = Modifier, color: Color = TODO(), style: TextStyle = TODO()): Unit = TODO()

@Composable
fun Icon(painter: Painter, contentDescription: String?, modifier: Modifier = Modifier): Unit = TODO()

@Composable
fun Button(
    onClick: () -> Unit,
    modifier: Modifier = Modifier,
    enabled: Boolean = true,
    content: @Composable RowScope.() -> Unit,
): Unit = TODO()

@Composable
fun OutlinedButton(
    onClick: () -> Unit,
    modifier: Modifier = Modifier,
    enabled: Boolean = true,
    content: @Composable RowScope.() -> Unit,
): Unit = TODO()

@Composable
fun TextButton(
    onClick: () -> Unit,
    modifier: Modifier = Modifier,
    enabled: Boolean = true,
    content: @Composable RowScope.() -> Unit,
): Unit = TODO()

@Composable
fun Switch(checked: Boolean, onCheckedChange: ((Boolean) -> Unit)?, modifier: Modifier = Modifier): Unit = TODO()

@Composable
fun OutlinedTextField(
    value: String,
    onValueChange: (String) -> Unit,
    modifier: Modifier = Modifier,
    enabled: Boolean = true,
    label: @Composable (() -> Unit)? = null,
    singleLine: Boolean = false,
    maxLines: Int = 1,
): Unit = TODO()

class CardColors internal constructor()

object CardDefaults {
    @Composable
    fun cardColors(containerColor: Color): CardColors = TODO()
}

@Composable
fun Card(modifier: Modifier = Modifier, colors: CardColors = TODO(), content: @Composable ColumnScope.() -> Unit): Unit = TODO()

@Composable
fun LinearProgressIndicator(modifier: Modifier = Modifier): Unit = TODO()

@Composable
fun LinearProgressIndicator(progress: () -> Float, modifier: Modifier = Modifier): Unit = TODO()

@Composable
fun NavigationBar(modifier: Modifier = Modifier, content: @Composable RowScope.() -> Unit): Unit = TODO()

@Composable
fun RowScope.NavigationBarItem(
    selected: Boolean,
    onClick: () -> Unit,
    icon: @Composable () -> Unit,
    modifier: Modifier = Modifier,
    enabled: Boolean = true,
    label: @Composable (() -> Unit)? = null,
): Unit = TODO()

@Composable
fun Scaffold(
    modifier: Modifier = Modifier,
    bottomBar: @Composable () -> Unit = {},
    content: @Composable (PaddingValues) -> Unit,
): Unit = TODO()
