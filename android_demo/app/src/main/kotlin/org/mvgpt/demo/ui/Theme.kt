package org.mvgpt.demo.ui

import androidx.compose.foundation.isSystemInDarkTheme
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.darkColorScheme
import androidx.compose.material3.lightColorScheme
import androidx.compose.runtime.Composable
import androidx.compose.ui.graphics.Color

private val LIGHT = lightColorScheme(primary = Color(0xFF1B4F72), tertiary = Color(0xFF9A6A00))
private val DARK = darkColorScheme(primary = Color(0xFF8FC1E8), tertiary = Color(0xFFF4D03F))

/** Light or dark, as the system is. */
@Composable
fun DemoTheme(content: @Composable () -> Unit) {
    MaterialTheme(colorScheme = if (isSystemInDarkTheme()) DARK else LIGHT, content = content)
}
