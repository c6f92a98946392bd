package org.mvgpt.demo.ui

import androidx.compose.foundation.layout.fillMaxSize
import androidx.compose.foundation.layout.padding
import androidx.compose.material3.Icon
import androidx.compose.material3.NavigationBar
import androidx.compose.material3.NavigationBarItem
import androidx.compose.material3.Scaffold
import androidx.compose.material3.Text
import androidx.compose.runtime.Composable
import androidx.compose.runtime.getValue
import androidx.compose.runtime.mutableIntStateOf
import androidx.compose.runtime.saveable.rememberSaveable
import androidx.compose.runtime.setValue
import androidx.compose.ui.Modifier
import androidx.compose.ui.res.painterResource
import androidx.compose.ui.res.stringResource
import org.mvgpt.demo.R
import org.mvgpt.demo.ask.AskScreen
import org.mvgpt.demo.ask.AskViewModel
import org.mvgpt.demo.bench.BenchmarkScreen
import org.mvgpt.demo.bundles.BundlesScreen

private enum class Tab(val title: Int, val icon: Int) {
    ASK(R.string.tab_ask, R.drawable.ic_ask),
    BUNDLES(R.string.tab_bundles, R.drawable.ic_bundles),
    BENCHMARK(R.string.tab_benchmark, R.drawable.ic_benchmark),
}

@Composable
fun Home(model: AskViewModel) {
    var selected by rememberSaveable { mutableIntStateOf(0) }
    Scaffold(
        bottomBar = {
            NavigationBar {
                for (tab in Tab.entries) {
                    NavigationBarItem(
                        selected = tab.ordinal == selected,
                        onClick = { selected = tab.ordinal },
                        icon = { Icon(painterResource(tab.icon), contentDescription = null) }, // the label says it
                        label = { Text(stringResource(tab.title)) },
                    )
                }
            }
        },
    ) { padding ->
        val modifier = Modifier.fillMaxSize().padding(padding)
        when (Tab.entries[selected]) {
            Tab.ASK -> AskScreen(model, modifier)
            Tab.BUNDLES -> BundlesScreen(model, { selected = Tab.ASK.ordinal }, modifier)
            Tab.BENCHMARK -> BenchmarkScreen(model, modifier)
        }
    }
}
