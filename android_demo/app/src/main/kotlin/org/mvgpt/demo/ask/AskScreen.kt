package org.mvgpt.demo.ask

import android.content.ActivityNotFoundException
import android.content.Context
import android.net.Uri
import android.widget.Toast
import androidx.activity.compose.rememberLauncherForActivityResult
import androidx.activity.result.PickVisualMediaRequest
import androidx.activity.result.contract.ActivityResultContracts
import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.Row
import androidx.compose.foundation.layout.fillMaxWidth
import androidx.compose.foundation.layout.padding
import androidx.compose.foundation.lazy.LazyColumn
import androidx.compose.foundation.lazy.items
import androidx.compose.material3.Button
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.OutlinedButton
import androidx.compose.material3.OutlinedTextField
import androidx.compose.material3.Text
import androidx.compose.material3.TextButton
import androidx.compose.runtime.Composable
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableStateOf
import androidx.compose.runtime.saveable.rememberSaveable
import androidx.compose.runtime.setValue
import androidx.compose.ui.Modifier
import androidx.compose.ui.platform.LocalContext
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.semantics.LiveRegionMode
import androidx.compose.ui.semantics.liveRegion
import androidx.compose.ui.semantics.semantics
import androidx.compose.ui.unit.dp
import androidx.core.content.FileProvider
import androidx.lifecycle.compose.collectAsStateWithLifecycle
import org.mvgpt.demo.R
import org.mvgpt.demo.ui.ErrorCard
import org.mvgpt.demo.ui.Working
import java.io.File

/** Clip, its frames, questions and answers, what they took. */
@Composable
fun AskScreen(model: AskViewModel, modifier: Modifier) {
    val state by model.ask.state.collectAsStateWithLifecycle()
    val idle = state.busy == null && state.bundle != null
    Column(modifier.padding(horizontal = 16.dp), verticalArrangement = Arrangement.spacedBy(8.dp)) {
        LazyColumn(Modifier.weight(1f), verticalArrangement = Arrangement.spacedBy(12.dp)) {
            item { ClipButtons(idle, model::load) }
            state.error?.let { message -> item { ErrorCard(message, model.ask::dismissError) } }
            item { Hint(state, model.ask::stop) }
            if (state.hasVideo) item { FrameStrip(state.thumbnails) }
            items(state.turns) { turn -> TurnText(turn) }
            if (state.bundle != null) item { StatsPanel(state, model.vitals) }
        }
        QuestionRow(
            canAsk = idle && state.hasVideo,
            answering = state.busy == Busy.Answering,
            canStartOver = idle && state.turns.isNotEmpty(),
            model = model.ask,
        )
    }
}

/** What to do next, or what goes on. */
@Composable
private fun Hint(state: AskState, onStop: () -> Unit) {
    when (val busy = state.busy) {
        is Busy.Opening -> Working(stringResource(R.string.opening_bundle, busy.bundle), null, null)

        is Busy.Loading -> Working(stringResource(R.string.loading_clip, busy.stage), null, onStop)

        else -> when {
            state.bundle == null -> Text(stringResource(R.string.no_bundle))
            !state.hasVideo -> Text(stringResource(R.string.no_clip))
        }
    }
}

@Composable
private fun ClipButtons(enabled: Boolean, onClip: (Uri) -> Unit) {
    val context = LocalContext.current
    val noCamera = stringResource(R.string.no_camera)
    var recording by rememberSaveable { mutableStateOf<Uri?>(null) }
    val pick = rememberLauncherForActivityResult(ActivityResultContracts.PickVisualMedia()) { uri -> uri?.let(onClip) }
    val record = rememberLauncherForActivityResult(ActivityResultContracts.CaptureVideo()) { saved ->
        recording?.takeIf { saved }?.let(onClip)
    }
    Row(horizontalArrangement = Arrangement.spacedBy(8.dp)) {
        Button(
            { pick.launch(PickVisualMediaRequest(ActivityResultContracts.PickVisualMedia.VideoOnly)) },
            enabled = enabled,
        ) { Text(stringResource(R.string.pick_clip)) }
        OutlinedButton(
            {
                val uri = newClip(context)
                recording = uri
                try {
                    record.launch(uri)
                } catch (e: ActivityNotFoundException) {
                    Toast.makeText(context, noCamera, Toast.LENGTH_LONG).show()
                }
            },
            enabled = enabled,
        ) { Text(stringResource(R.string.record_clip)) }
    }
}

/** A file for the camera app to write; the one before goes. */
private fun newClip(context: Context): Uri {
    val folder = File(context.cacheDir, "clips").apply { mkdirs() }
    folder.listFiles()?.forEach { it.delete() }
    return FileProvider.getUriForFile(context, "${context.packageName}.clips", File(folder, "${System.currentTimeMillis()}.mp4"))
}

@Composable
private fun TurnText(turn: Turn) {
    Column {
        Text(turn.question, color = MaterialTheme.colorScheme.primary, style = MaterialTheme.typography.titleMedium)
        val answer = if (turn.stopped) stringResource(R.string.answer_stopped, turn.answer) else turn.answer
        Text(answer, Modifier.semantics { liveRegion = LiveRegionMode.Polite })
    }
}

@Composable
private fun QuestionRow(canAsk: Boolean, answering: Boolean, canStartOver: Boolean, model: AskModel) {
    var question by rememberSaveable { mutableStateOf("") }
    Column(Modifier.padding(bottom = 8.dp)) {
        OutlinedTextField(
            value = question,
            onValueChange = { question = it },
            modifier = Modifier.fillMaxWidth(),
            label = { Text(stringResource(R.string.question)) },
            maxLines = 4,
        )
        Row(horizontalArrangement = Arrangement.spacedBy(8.dp)) {
            if (answering) {
                Button(model::stop) { Text(stringResource(R.string.stop)) }
            } else {
                Button(
                    {
                        model.ask(question)
                        question = ""
                    },
                    enabled = canAsk && question.isNotBlank(),
                ) { Text(stringResource(R.string.ask)) }
            }
            TextButton(model::startOver, enabled = canStartOver) { Text(stringResource(R.string.new_conversation)) }
        }
    }
}
