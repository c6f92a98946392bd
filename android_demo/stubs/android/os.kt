// Signatures of Android's classes that this repository uses, for type checks without its SDK. They compute nothing.
@file:Suppress("UNUSED_PARAMETER")

package android.os

class Bundle

object Build {
    val MODEL: String = TODO()
    val MANUFACTURER: String = TODO()
    val DEVICE: String = TODO()
    val HARDWARE: String = TODO()
    val SOC_MANUFACTURER: String = TODO()
    val SOC_MODEL: String = TODO()

    object VERSION {
        val SDK_INT: Int = TODO()
        val RELEASE: String = TODO()
    }

    object VERSION_CODES {
        const val O_MR1 = 27
        const val P = 28
        const val Q = 29
        const val S = 31
    }
}

object Debug {
    fun getPss(): Long = TODO()
}

class PowerManager {
    val isPowerSaveMode: Boolean get() = TODO()
    val currentThermalStatus: Int get() = TODO()
}

class BatteryManager {
    fun getLongProperty(id: Int): Long = TODO()

    companion object {
        const val BATTERY_PROPERTY_CHARGE_COUNTER = 1
        const val EXTRA_LEVEL = "level"
        const val EXTRA_SCALE = "scale"
        const val EXTRA_PLUGGED = "plugged"
        const val EXTRA_TEMPERATURE = "temperature"
        const val EXTRA_VOLTAGE = "voltage"
    }
}
