package org.mvgpt.videogpt.android

import android.app.ActivityManager
import android.content.Context
import android.content.Intent
import android.content.IntentFilter
import android.os.BatteryManager
import android.os.Build
import android.os.Debug
import android.os.PowerManager
import org.mvgpt.videogpt.bench.App
import org.mvgpt.videogpt.bench.Device
import org.mvgpt.videogpt.bench.Machine
import org.mvgpt.videogpt.bench.OperatingSystem
import org.mvgpt.videogpt.bench.Power
import org.mvgpt.videogpt.bench.Thermal
import java.io.File
import java.io.IOException

/** This phone, as far as an app without permissions is told. */
class AndroidMachine(private val context: Context, override val app: App) : Machine {
    private val powerManager = context.getSystemService(PowerManager::class.java)
    private val battery = context.getSystemService(BatteryManager::class.java)

    override val device = Device(
        name = if (Build.MODEL.startsWith(Build.MANUFACTURER, true)) Build.MODEL else "${Build.MANUFACTURER} ${Build.MODEL}",
        model = Build.DEVICE,
        kind = if (Build.HARDWARE in EMULATORS) "emulator" else "phone",
        cpuInfo = if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.S) {
            "${Build.SOC_MANUFACTURER} ${Build.SOC_MODEL}"
        } else {
            Build.HARDWARE
        },
        nCores = Runtime.getRuntime().availableProcessors(),
        memoryBytes = ActivityManager.MemoryInfo()
            .also(context.getSystemService(ActivityManager::class.java)::getMemoryInfo)
            .totalMem,
    )

    override val os = OperatingSystem("Android", "${Build.VERSION.RELEASE} (API ${Build.VERSION.SDK_INT})")

    override val memoryMetric = "pss"

    /** Now: the kernel keeps no highest value of it, so that what is gone between two looks was not seen. */
    override fun memoryBytes(): Long = Debug.getPss() * 1024

    override fun power(): Power {
        val state = batteryState()
        val level = state?.getIntExtra(BatteryManager.EXTRA_LEVEL, -1) ?: -1
        val scale = state?.getIntExtra(BatteryManager.EXTRA_SCALE, -1) ?: -1
        return Power(
            source = plugged(state)?.let { if (it) "ac" else "battery" },
            batteryPercent = if (level >= 0 && scale > 0) 100.0 * level / scale else null,
            lowPowerMode = powerManager.isPowerSaveMode,
            governor = governors(),
        )
    }

    /** The status is the system's word, since Android 10; the battery's is the one sensor that apps may read. */
    override fun thermal(): Thermal {
        val status = if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.Q) {
            THERMAL_STATUS.getOrNull(powerManager.currentThermalStatus)
        } else {
            null
        }
        val tenths = batteryState()?.getIntExtra(BatteryManager.EXTRA_TEMPERATURE, 0) ?: 0
        return Thermal(status, if (tenths > 0) tenths / 10.0 else null)
    }

    /** Android keeps it from apps. */
    override fun loadAverage(): Double? = null

    /** Its system calls are closed to Java, and ExecuTorch's mapping would keep the pages: cold loads are not measured. */
    override fun evict(files: List<File>): Boolean = false

    /** By the battery's charge counter, whose steps are coarse: null if it did not move, or the phone was plugged in. */
    override fun energyMeter(): () -> Double? {
        val before = charge()
        return {
            val after = charge()
            val volts = (batteryState()?.getIntExtra(BatteryManager.EXTRA_VOLTAGE, 0) ?: 0) / 1e3
            if (before != null && after != null && before > after && volts > 0) {
                (before - after) * MICRO_AMPERE_HOUR_IN_COULOMB * volts
            } else {
                null
            }
        }
    }

    /** Microampere hours left; null while it is charged, or where the phone has no counter. */
    private fun charge(): Long? {
        if (plugged(batteryState()) != false) return null
        return battery.getLongProperty(BatteryManager.BATTERY_PROPERTY_CHARGE_COUNTER).takeIf { it > 0 }
    }

    /** The last broadcast, which stays; nothing is registered. */
    private fun batteryState(): Intent? = context.registerReceiver(null, IntentFilter(Intent.ACTION_BATTERY_CHANGED))

    private fun plugged(state: Intent?): Boolean? =
        state?.getIntExtra(BatteryManager.EXTRA_PLUGGED, -1)?.takeIf { it >= 0 }?.let { it != 0 }

    private fun governors(): String? {
        val cores = File("/sys/devices/system/cpu").listFiles { file -> CORE.matches(file.name) }.orEmpty()
        val names = cores.mapNotNull { read(File(it, "cpufreq/scaling_governor")) }.toSortedSet()
        return names.joinToString().ifEmpty { null }
    }

    private fun read(file: File): String? =
        try {
            file.readText().trim().ifEmpty { null }
        } catch (e: IOException) {
            // many phones keep it from apps
            null
        }

    private companion object {
        val THERMAL_STATUS = listOf("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
        val EMULATORS = listOf("ranchu", "goldfish")
        val CORE = Regex("cpu\\d+")
        const val MICRO_AMPERE_HOUR_IN_COULOMB = 3.6e-3
    }
}
