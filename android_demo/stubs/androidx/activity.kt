// Signatures of AndroidX that this repository uses, for type checks without its libraries. They compute nothing.
@file:Suppress("UNUSED_PARAMETER")

package androidx.activity

import android.app.Activity
import androidx.lifecycle.ViewModel

open class ComponentActivity : Activity()

fun ComponentActivity.enableEdgeToEdge(): Unit = TODO()

inline fun <reified VM : ViewModel> ComponentActivity.viewModels(): Lazy<VM> = TODO()
