plugins {
    id("com.android.application")
    id("org.jetbrains.kotlin.android")
}

android {
    namespace = "edge"
    compileSdk = 35

    defaultConfig {
        applicationId = "dev.edgedistill.edge"
        minSdk = 24 // as the AAR says
        targetSdk = 35
        versionCode = 1
        versionName = "1.0"
        // Phones, and the emulator on a PC. ONNX Runtime is some 30 MB a processor: an app bundle (AAB) gives each phone its own alone.
        ndk { abiFilters += listOf("arm64-v8a", "x86_64") }
    }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
    kotlinOptions { jvmTarget = "17" }
    // The model is small and hardly compresses; uncompressed it need not be unpacked at every start.
    androidResources { noCompress += listOf("onnx") }
}

dependencies {
    // ONNX Runtime with its Java API, fetched and checked by `edgedistill app android`.
    implementation(files("$rootDir/vendor/onnxruntime.aar"))
}
