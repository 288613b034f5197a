// swift-tools-version: 5.9
import PackageDescription

let package = Package(
    name: "Edge",
    platforms: [.iOS(.v16)],
    products: [.library(name: "Edge", targets: ["Edge"])],
    targets: [
        // ONNX Runtime, fetched and checked by `edgedistill app ios`.
        .binaryTarget(name: "onnxruntime", path: "vendor/onnxruntime.xcframework"),
        // The C++ of the app embedded_linux, file by file, behind five functions of C.
        .target(
            name: "EdgeCore",
            dependencies: ["onnxruntime"],
            cxxSettings: [.headerSearchPath("json"), .headerSearchPath("shims")],
            linkerSettings: [.linkedFramework("CoreML"), .linkedLibrary("c++")]
        ),
        .target(name: "Edge", dependencies: ["EdgeCore"], resources: [.copy("bundle")]),
    ],
    cxxLanguageStandard: .cxx17
)
