plugins {
    alias(libs.plugins.android.library)
}

android {
    namespace = "org.mvgpt.videogpt"
    compileSdk = 37

    defaultConfig {
        // What ExecuTorch's native library is built for.
        minSdk = 26
        consumerProguardFiles("consumer-rules.pro")
    }

    // What needs Android has a folder of its own: the rest is compiled and tested without it (tools/android_tests.py).
    sourceSets.named("main") {
        kotlin.directories += "src/android/kotlin"
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }

    testOptions {
        unitTests.all { it.useJUnitPlatform() }
    }
}

dependencies {
    api(libs.coroutines.core)
    // The app brings it: from Maven Central, or built with our operators (docs/embedding-android.md).
    compileOnly(libs.executorch)

    testImplementation(libs.kotlin.test)
    testImplementation(libs.junit.jupiter)
    testRuntimeOnly(libs.junit.launcher)
}
