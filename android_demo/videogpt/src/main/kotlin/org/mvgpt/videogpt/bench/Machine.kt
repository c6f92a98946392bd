package org.mvgpt.videogpt.bench

import java.io.File

/** What a benchmark asks of the machine it runs on. What the system does not tell is null. */
interface Machine {
    val app: App
    val device: Device
    val os: OperatingSystem

    /** What [memoryBytes] is: "rss" or "pss". */
    val memoryMetric: String

    fun power(): Power

    fun thermal(): Thermal

    /** Of the last minute, in processes. */
    fun loadAverage(): Double?

    /** Of the process: now, or the highest so far where the system keeps that. */
    fun memoryBytes(): Long

    /** Take these files out of the page cache; whether they are out of it. */
    fun evict(files: List<File>): Boolean

    /** Starts counting; the function returned tells the joules since. */
    fun energyMeter(): () -> Double?
}
