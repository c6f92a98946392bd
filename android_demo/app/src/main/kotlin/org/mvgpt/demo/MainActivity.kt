package org.mvgpt.demo

import android.content.ComponentCallbacks2
import android.content.Intent
import android.os.Build
import android.os.Bundle
import android.view.WindowManager
import androidx.activity.ComponentActivity
import androidx.activity.compose.setContent
import androidx.activity.enableEdgeToEdge
import androidx.activity.viewModels
import org.mvgpt.demo.ask.AskViewModel
import org.mvgpt.demo.bench.ACTION_BENCHMARK
import org.mvgpt.demo.bench.BenchmarkLaunch
import org.mvgpt.demo.bench.RemoteBenchmark
import org.mvgpt.demo.ui.DemoTheme
import org.mvgpt.demo.ui.Home

class MainActivity : ComponentActivity() {
    private val model: AskViewModel by viewModels()
    private var benchmark: BenchmarkLaunch? = null

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        enableEdgeToEdge()
        show(intent)
    }

    override fun onNewIntent(intent: Intent) {
        super.onNewIntent(intent)
        show(intent)
    }

    /** In the background this app's memory is what the system wants next: better to load again than to be killed. */
    override fun onTrimMemory(level: Int) {
        super.onTrimMemory(level)
        if (level >= ComponentCallbacks2.TRIM_MEMORY_BACKGROUND && benchmark == null) model.ask.release()
    }

    private fun show(intent: Intent) {
        if (intent.action != ACTION_BENCHMARK) {
            if (benchmark == null) setContent { DemoTheme { Home(model) } }
            return
        }
        if (benchmark != null) return // one process measures once
        stayInFront()
        val launch = BenchmarkLaunch(this, model.machine) { finishAndRemoveTask() }
        benchmark = launch
        setContent { DemoTheme { RemoteBenchmark(launch) } }
        launch.start(intent::getStringExtra)
    }

    private fun stayInFront() {
        if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.O_MR1) {
            setShowWhenLocked(true)
            setTurnScreenOn(true)
        }
        window.addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON)
    }
}
