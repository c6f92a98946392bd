package org.mvgpt.demo

import android.content.Context
import org.mvgpt.videogpt.bench.App

/** As benchmark results name it. */
fun thisApp(context: Context): App {
    val version = context.packageManager.getPackageInfo(context.packageName, 0).versionName
    return App(name = context.packageName, version = version ?: "unknown", buildCommit = BuildConfig.COMMIT.ifEmpty { null })
}
