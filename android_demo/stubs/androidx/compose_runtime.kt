// Signatures of Jetpack Compose that this repository uses, for type checks without its libraries. They compute nothing, and the
// compiler plugin of Compose, which holds composable functions apart from others, does not run.
@file:Suppress("UNUSED_PARAMETER")

package androidx.compose.runtime

import kotlinx.coroutines.CoroutineScope
import kotlin.reflect.KProperty

@Target(AnnotationTarget.FUNCTION, AnnotationTarget.TYPE, AnnotationTarget.TYPE_PARAMETER, AnnotationTarget.PROPERTY_GETTER)
annotation class Composable

interface State<out T> {
    val value: T
}

interface MutableState<T> : State<T> {
    override var value: T
}

interface MutableIntState : MutableState<Int>

fun <T> mutableStateOf(value: T): MutableState<T> = TODO()

fun mutableIntStateOf(value: Int): MutableIntState = TODO()

operator fun <T> State<T>.getValue(thisObj: Any?, property: KProperty<*>): T = TODO()

operator fun <T> MutableState<T>.setValue(thisObj: Any?, property: KProperty<*>, value: T): Unit = TODO()

@Composable
fun <T> remember(calculation: () -> T): T = TODO()

@Composable
fun <T> remember(key1: Any?, calculation: () -> T): T = TODO()

@Composable
fun rememberCoroutineScope(): CoroutineScope = TODO()

interface DisposableEffectResult

class DisposableEffectScope {
    fun onDispose(onDisposeEffect: () -> Unit): DisposableEffectResult = TODO()
}

@Composable
fun DisposableEffect(key1: Any?, effect: DisposableEffectScope.() -> DisposableEffectResult): Unit = TODO()

abstract class CompositionLocal<T> {
    val current: T
        @Composable get() = TODO()
}
