package org.mvgpt.demo.ask

import android.graphics.Bitmap
import androidx.compose.foundation.Image
import androidx.compose.foundation.border
import androidx.compose.foundation.layout.Arrangement
import androidx.compose.foundation.layout.Column
import androidx.compose.foundation.layout.size
import androidx.compose.foundation.lazy.LazyRow
import androidx.compose.foundation.lazy.itemsIndexed
import androidx.compose.material3.MaterialTheme
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.runtime.remember
import androidx.compose.ui.Alignment
import androidx.compose.ui.Modifier
import androidx.compose.ui.graphics.Color
import androidx.compose.ui.graphics.asImageBitmap
import androidx.compose.ui.res.stringResource
import androidx.compose.ui.unit.dp
import org.mvgpt.demo.R

/** The sampled frames in order, with their scores; key frames are framed, which their descriptions say too. */
@Composable
fun FrameStrip(thumbnails: List<Thumbnail>) {
    Column(verticalArrangement = Arrangement.spacedBy(4.dp)) {
        LazyRow(horizontalArrangement = Arrangement.spacedBy(6.dp)) {
            itemsIndexed(thumbnails) { index, thumbnail -> FrameView(index, thumbnails.size, thumbnail) }
        }
        Text(stringResource(R.string.frames_legend), style = MaterialTheme.typography.bodySmall)
    }
}

@Composable
private fun FrameView(index: Int, count: Int, thumbnail: Thumbnail) {
    val bitmap = remember(thumbnail) { bitmap(thumbnail).asImageBitmap() }
    val text = if (thumbnail.isKey) R.string.key_frame_description else R.string.frame_description
    val frame = if (thumbnail.isKey) MaterialTheme.colorScheme.tertiary else Color.Transparent
    Column(horizontalAlignment = Alignment.CenterHorizontally) {
        Image(
            bitmap,
            contentDescription = stringResource(text, index + 1, count, thumbnail.seconds, thumbnail.score),
            modifier = Modifier.size(80.dp).border(3.dp, frame),
        )
        Text(stringResource(R.string.frame_score, thumbnail.score), style = MaterialTheme.typography.labelSmall)
    }
}

private fun bitmap(thumbnail: Thumbnail): Bitmap {
    val pixels = IntArray(thumbnail.size * thumbnail.size) { i ->
        fun level(channel: Int) = thumbnail.rgb[3 * i + channel].toInt() and 0xff
        (0xff shl 24) or (level(0) shl 16) or (level(1) shl 8) or level(2)
    }
    return Bitmap.createBitmap(pixels, thumbnail.size, thumbnail.size, Bitmap.Config.ARGB_8888)
}
