package org.mvgpt.demo.bundles

import androidx.activity.compose.rememberLauncherForActivityResult
import androidx.activity.result.contract.ActivityResultContracts
import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.lazy.LazyColumn
import androidx.compose.foundation.lazy.items
import androidx.compose.foundation.selection.toggleable
import androidx.compose.material3.Button
import androidx.compose.material3.Card
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.OutlinedTextField
import androidx.compose.material3.Switch
import androidx.compose.material3.Text
import androidx.compose.material3.TextButton
import androidx.compose.runtime.Composable
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.saveable.rememberSaveable
import androidx.compose.runtime.setValue
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.platform.LocalContext
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.semantics.Role
import androidx.compose.ui.semantics.contentDescription
import androidx.compose.ui.semantics.semantics
import androidx.compose.ui.unit.dp
import androidx.lifecycle.compose.collectAsStateWithLifecycle
import org.mvgpt.demo.R
import org.mvgpt.demo.ask.AskViewModel
import org.mvgpt.demo.ui.ErrorCard
import org.mvgpt.demo.ui.Working

/** The bundles on this phone; open, delete, import and download. */
@Composable
fun BundlesScreen(model: AskViewModel, onOpened: () -> Unit, modifier: Modifier) {
    val state by model.bundles.state.collectAsStateWithLifecycle()
    val asking by model.ask.state.collectAsStateWithLifecycle()
    var lowMemory by rememberSaveable { mutableStateOf(false) }
    LazyColumn(modifier.padding(horizontal = 16.dp), verticalArrangement = Arrangement.spacedBy(12.dp)) {
        state.error?.let { message -> item { ErrorCard(message, model.bundles::dismissError) } }
        if (state.rows.isEmpty()) item { Text(stringResource(R.string.bundles_none)) }
        items(state.rows) { row ->
            BundleCard(
                row,
                isOpen = asking.bundle == row.name,
                enabled = asking.busy == null && state.coming == null,
                onOpen = {
                    model.ask.open(row.name, lowMemory)
                    onOpened()
                },
                onDelete = { model.bundles.delete(row.name) },
            )
        }
        item { LowMemorySwitch(lowMemory) { lowMemory = it } }
        item { Coming(state, model.bundles) }
    }
}

@Composable
private fun BundleCard(row: BundleRow, isOpen: Boolean, enabled: Boolean, onOpen: () -> Unit, onDelete: () -> Unit) {
    Card(Modifier.fillMaxWidth()) {
        Column(Modifier.padding(12.dp)) {
            Text(row.name, style = MaterialTheme.typography.titleMedium)
            Text(stringResource(R.string.bundle_facts, row.model, row.recipe, row.megabytes))
            if (isOpen) {
                Text(stringResource(R.string.bundle_is_open), color = MaterialTheme.colorScheme.primary)
                return@Column
            }
            Row {
                TextButton(onOpen, enabled = enabled) { Text(stringResource(R.string.bundle_open)) }
                val description = stringResource(R.string.bundle_delete_description, row.name)
                TextButton(onDelete, Modifier.semantics { contentDescription = description }, enabled = enabled) {
                    Text(stringResource(R.string.bundle_delete))
                }
            }
        }
    }
}

/** The whole row is the switch. */
@Composable
private fun LowMemorySwitch(checked: Boolean, onChange: (Boolean) -> Unit) {
    Row(
        Modifier.fillMaxWidth().toggleable(checked, role = Role.Switch, onValueChange = onChange),
        verticalAlignment = Alignment.CenterVertically,
        horizontalArrangement = Arrangement.spacedBy(12.dp),
    ) {
        Switch(checked, onCheckedChange = null)
        Text(stringResource(R.string.low_memory))
    }
}

/** Ways to bring a bundle, or the one that is coming. */
@Composable
private fun Coming(state: BundlesState, model: BundlesModel) {
    val resolver = LocalContext.current.contentResolver
    var address by rememberSaveable { mutableStateOf("") }
    val pick = rememberLauncherForActivityResult(ActivityResultContracts.OpenDocumentTree()) { uri ->
        uri?.let { DocumentTree(resolver, it) }?.let { tree -> model.import(tree.name, tree::copyTo) }
    }
    val name = state.coming
    if (name != null) {
        val megabytes = listOf(state.doneBytes, state.totalBytes).map { it / 1_000_000 }
        Working(
            stringResource(R.string.bundle_progress, name, megabytes[0], megabytes[1]),
            if (state.totalBytes > 0) state.doneBytes.toFloat() / state.totalBytes else null,
            model::cancel,
        )
        return
    }
    Column(verticalArrangement = Arrangement.spacedBy(8.dp)) {
        Button({ pick.launch(null) }) { Text(stringResource(R.string.bundle_import)) }
        OutlinedTextField(
            value = address,
            onValueChange = { address = it },
            modifier = Modifier.fillMaxWidth(),
            label = { Text(stringResource(R.string.bundle_address)) },
            singleLine = true,
        )
        Button({ model.download(address) }, enabled = address.isNotBlank()) { Text(stringResource(R.string.bundle_download)) }
    }
}
