package org.mvgpt.demo.ask

import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.material3.Card
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.runtime.getValue
import androidx.compose.ui.Modifier
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.unit.dp
import androidx.lifecycle.compose.collectAsStateWithLifecycle
import kotlinx.coroutines.flow.Flow
import org.mvgpt.demo.R

/** The metrics of the video and the last answer by the contract's names, and the phone's memory and heat as they are now. */
@Composable
fun StatsPanel(state: AskState, vitals: Flow<Vitals>) {
    val now by vitals.collectAsStateWithLifecycle(initialValue = null)
    Card(Modifier.fillMaxWidth()) {
        Column(Modifier.padding(12.dp), verticalArrangement = Arrangement.spacedBy(2.dp)) {
            Text(stringResource(R.string.stats), style = MaterialTheme.typography.titleSmall)
            now?.let {
                Fact(stringResource(R.string.memory_now), stringResource(R.string.stat_mb, it.memoryBytes / 1e6))
                val status = it.thermal.status ?: stringResource(R.string.thermal_unknown)
                Fact(stringResource(R.string.thermal_status), status)
            }
            state.decoder?.let { Fact(stringResource(R.string.decoder), it) }
            for ((name, value) in state.stats) Fact(name, formatted(name, value))
        }
    }
}

@Composable
private fun Fact(name: String, value: String) {
    Row(Modifier.fillMaxWidth(), horizontalArrangement = Arrangement.SpaceBetween) {
        Text(name, style = MaterialTheme.typography.bodySmall)
        Text(value, style = MaterialTheme.typography.bodySmall)
    }
}

/** The contract's names end in their units. */
@Composable
private fun formatted(name: String, value: Double): String =
    when {
        name.endsWith("_ms") -> stringResource(R.string.stat_ms, value)
        name.endsWith("_per_s") -> stringResource(R.string.stat_rate, value)
        name.endsWith("_bytes") -> stringResource(R.string.stat_mb, value / 1e6)
        else -> stringResource(R.string.stat_count, value)
    }
