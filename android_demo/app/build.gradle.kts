plugins {
    alias(libs.plugins.android.application)
    alias(libs.plugins.compose.compiler)
}

// An AAR of ExecuTorch with our operators, made by aar/build.sh: ./gradlew -Pmvgpt.aar=aar/executorch-mvgpt.aar …
val ownAar: String? = providers.gradleProperty("mvgpt.aar").orNull

val commit: Provider<String> = providers.exec {
    commandLine("git", "rev-parse", "HEAD")
    isIgnoreExitValue = true
}.standardOutput.asText.map { it.trim() }

android {
    namespace = "org.mvgpt.demo"
    compileSdk = 37

    defaultConfig {
        applicationId = "org.mvgpt.demo"
        minSdk = 26
        targetSdk = 36
        versionCode = 1
        versionName = "0.1.0"
        buildConfigField("String", "COMMIT", "\"${commit.get()}\"")
        ndk {
            abiFilters += listOf("arm64-v8a", "x86_64")
        }
    }

    buildTypes {
        release {
            isMinifyEnabled = true
            isShrinkResources = true
            proguardFiles(getDefaultProguardFile("proguard-android-optimize.txt"))
            // To install it without a store's key; whoever publishes it signs it with theirs.
            signingConfig = signingConfigs.getByName("debug")
        }
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }

    buildFeatures {
        compose = true
        buildConfig = true
    }
}

dependencies {
    implementation(project(":videogpt"))
    if (ownAar == null) {
        implementation(libs.executorch)
    } else {
        implementation(files(rootProject.file(ownAar)))
        // A file names no dependencies.
        implementation(libs.fbjni)
        implementation(libs.nativeloader)
    }
    implementation(libs.coroutines.android)
    implementation(libs.core)
    implementation(libs.activity.compose)
    implementation(libs.lifecycle.viewmodel)
    implementation(libs.lifecycle.runtime.compose)
    implementation(platform(libs.compose.bom))
    implementation(libs.compose.foundation)
    implementation(libs.compose.material3)
}
