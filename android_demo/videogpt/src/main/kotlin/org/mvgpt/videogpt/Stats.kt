package org.mvgpt.videogpt

import java.io.File
import java.io.IOException

/** Milliseconds, counts and rates by the contract's metric names. A metric that was not measured is absent. */
class Stats internal constructor() {
    private val values = LinkedHashMap<String, Double>()

    operator fun get(name: String): Double? = values[name]

    /** In the contract's order. */
    fun toMap(): Map<String, Double> =
        Contract.METRICS.keys.filter { it in values }.associateWithTo(LinkedHashMap()) { values.getValue(it) }

    internal fun add(name: String, value: Double) {
        require(name in Contract.METRICS) { name }
        values[name] = (values[name] ?: 0.0) + value
    }

    /** Both, what stands in both added up. */
    internal operator fun plus(other: Stats): Stats {
        val total = Stats()
        for ((name, value) in values) total.add(name, value)
        for ((name, value) in other.values) total.add(name, value)
        return total
    }

    /** Add the wall-clock time of the block, whatever ends it. */
    internal inline fun <T> timed(name: String, block: () -> T): T {
        val start = System.nanoTime()
        try {
            return block()
        } finally {
            add(name, msSince(start))
        }
    }

    /** count per second; absent where there is nothing to divide by. */
    internal fun rate(name: String, count: Double, ms: Double) {
        if (count > 0 && ms > 0) add(name, count / ms * 1e3)
    }
}

internal fun msSince(nanoTime: Long): Double = (System.nanoTime() - nanoTime) / 1e6

/** Highest resident set size of this process so far, mapped files too; null where the system has no /proc. */
internal fun peakRssBytes(): Long? =
    try {
        val line = File("/proc/self/status").useLines { lines -> lines.firstOrNull { it.startsWith("VmHWM:") } }
        line?.split(Regex("\\s+"))?.getOrNull(1)?.toLongOrNull()?.times(1024)
    } catch (e: IOException) {
        null
    }
