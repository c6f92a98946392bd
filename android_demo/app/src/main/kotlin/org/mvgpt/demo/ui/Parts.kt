package org.mvgpt.demo.ui

import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.material3.Card
import androidx.compose.material3.CardDefaults
import androidx.compose.material3.LinearProgressIndicator
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.Text
import androidx.compose.material3.TextButton
import androidx.compose.runtime.Composable
import androidx.compose.ui.Modifier
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.semantics.LiveRegionMode
import androidx.compose.ui.semantics.liveRegion
import androidx.compose.ui.semantics.semantics
import androidx.compose.ui.unit.dp
import org.mvgpt.demo.R

/** An error, whole: what, expected, got, remedy. Read out when it comes. */
@Composable
fun ErrorCard(message: String, onDismiss: () -> Unit) {
    val colors = CardDefaults.cardColors(containerColor = MaterialTheme.colorScheme.errorContainer)
    Card(Modifier.fillMaxWidth().semantics { liveRegion = LiveRegionMode.Assertive }, colors = colors) {
        Column(Modifier.padding(12.dp)) {
            Text(message)
            TextButton(onDismiss) { Text(stringResource(R.string.dismiss)) }
        }
    }
}

/** What goes on, how far it is (null: not known), and a way to stop it. */
@Composable
fun Working(text: String, fraction: Float?, onCancel: (() -> Unit)?) {
    Column(Modifier.fillMaxWidth(), verticalArrangement = Arrangement.spacedBy(4.dp)) {
        Text(text)
        if (fraction == null) {
            LinearProgressIndicator(Modifier.fillMaxWidth())
        } else {
            LinearProgressIndicator({ fraction }, Modifier.fillMaxWidth())
        }
        if (onCancel != null) TextButton(onCancel) { Text(stringResource(R.string.cancel)) }
    }
}
