"""The Android app: assembled, looked at by Android's own tools, and all of it but the screen run on a desktop JVM.

The JVM takes the app's own Kotlin, compiled against the AAR that the app ships, and runs it on ONNX Runtime's Java API for the desktop. There is
no phone here, no emulator, and nothing that makes dex: what a phone would show has not been seen.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from edgedistill import npm
from edgedistill.bundle_format import read_golden
from edgedistill.npm import Package
from edgedistill.stages.app import assemble
from tests.all_scripts import cased_bundle, differences, strings, wide_bundle
from tests.conftest import share_native
from tests.tiny_models import SENTENCES

pytestmark = pytest.mark.long  # 400 MB are fetched, once

FRAMEWORK = Path("/usr/share/android-framework-res/framework-res.apk")
ORG_JSON = Path("/usr/share/java/json-android.jar")  # what Android has built in
KOTLIN = Package("kotlin-compiler@2.4.20", "c23dab400d7ce5ea8b6c909947c0ca5454189e4bb1108695b5f464500e5e950f", [])
# ONNX Runtime's Java API for desktops is on no registry of ours but inside this package. Its digest is checked before pip looks into it.
JAVA_ONNXRUNTIME = "pyserini==1.6.0 --hash=sha256:e34761d700b33613c26bc61113effc6d65598dee6ada28a33214f79350f833f4"
SOURCES = ("Unicode", "WordPiece", "Bundle", "OnnxNetwork")  # all but MainActivity, which needs a phone


def need(*things: Path | str) -> None:
    missing = [str(thing) for thing in things if not (thing.exists() if isinstance(thing, Path) else shutil.which(thing))]
    if missing and os.environ.get("CI"):
        pytest.fail(f"missing: {missing}")
    if missing:
        pytest.skip(f"missing: {missing}")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """The app with the tiny bundle. What is fetched for it is kept where earlier tests keep theirs."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("android-home")
        share_native(home)
        patch.setenv("EDGEDISTILL_HOME", str(home))
        out = tmp_path_factory.mktemp("android") / "app"
        assemble("android", tiny_bundle, out)
    return out


def test_it_is_whole(app: Path) -> None:
    """A project that lacks a file which Gradle, or the app when it starts, looks for."""
    assert {"settings.gradle.kts", "build.gradle.kts", "gradle.properties", "README.md", "app", "vendor"} <= {
        file.name for file in app.iterdir()
    }
    assert not (app / "app.toml").exists()
    main = app / "app" / "src" / "main"
    assert {"manifest.json", "model.onnx", "tokenizer.json", "golden.jsonl"} <= {
        file.name for file in (main / "assets" / "bundle").iterdir()
    }
    assert (main / "resources" / "unicode.txt").is_file() and (app / "vendor" / "onnxruntime.aar").is_file()


def test_manifest_and_resources_are_android_s(app: Path, tmp_path: Path) -> None:
    """A layout, string or manifest that Android's own packer refuses; a permission nobody should be asked for."""
    need("aapt", FRAMEWORK)
    main = app / "app" / "src" / "main"
    manifest = tmp_path / "AndroidManifest.xml"  # Gradle puts the package's name and the SDK versions in
    text = (main / "AndroidManifest.xml").read_text().replace("<manifest ", '<manifest package="edge" ', 1)
    manifest.write_text(text)
    command = ["aapt", "package", "-f", "-M", str(manifest), "-S", str(main / "res"), "-A", str(main / "assets"), "-I", str(FRAMEWORK)]
    versions = ["--min-sdk-version", "24", "--target-sdk-version", "29", "-0", "onnx", "-F", str(tmp_path / "app.apk")]
    done = subprocess.run([*command, *versions], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = subprocess.run(["aapt", "dump", "badging", str(tmp_path / "app.apk")], capture_output=True, text=True, check=True).stdout
    assert "launchable-activity: name='edge.MainActivity'" in said and "uses-permission" not in said
    with zipfile.ZipFile(tmp_path / "app.apk") as package:
        assert package.getinfo("assets/bundle/model.onnx").compress_type == zipfile.ZIP_STORED
        assert json.loads(package.read("assets/bundle/manifest.json"))["task"] == "classify"


def test_libraries_fit_phones(app: Path) -> None:
    """A library for the wrong processor, or one that phones with pages of 16 KB refuse to load (asked of apps for Android 15 and later)."""
    machines = {"arm64-v8a": 183, "x86_64": 62}  # e_machine of the ELF specification
    assert 'abiFilters += listOf("arm64-v8a", "x86_64")' in (app / "app" / "build.gradle.kts").read_text()
    with zipfile.ZipFile(app / "vendor" / "onnxruntime.aar") as package:
        for abi, machine in machines.items():
            for name in ("libonnxruntime.so", "libonnxruntime4j_jni.so"):
                elf = package.read(f"jni/{abi}/{name}")
                assert elf[:5] == b"\x7fELF\x02" and struct.unpack_from("<H", elf, 18)[0] == machine
                (start,), (size, count) = struct.unpack_from("<Q", elf, 32), struct.unpack_from("<HH", elf, 54)
                segments = [struct.unpack_from("<II6Q", elf, start + size * number) for number in range(count)]
                assert all(segment[-1] >= 0x4000 for segment in segments if segment[0] == 1), f"{abi}/{name}: pages of 4 KB"


@pytest.fixture(scope="module")
def java(app: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that runs the app's classes: + ids, golden or ask, and a bundle."""
    need("java", ORG_JSON)
    folder = tmp_path_factory.mktemp("jvm")
    with pytest.MonkeyPatch.context() as patch:
        share_native(folder / "home")
        patch.setenv("EDGEDISTILL_HOME", str(folder / "home"))
        compiler = npm.kept(KOTLIN)
    with zipfile.ZipFile(app / "vendor" / "onnxruntime.aar") as package:
        (folder / "classes.jar").write_bytes(package.read("classes.jar"))
    main = app / "app" / "src" / "main"
    sources = [str(main / "kotlin" / "edge" / f"{name}.kt") for name in SOURCES]
    command = ["java", "-Xmx1g", "-cp", str(compiler / "lib" / "kotlin-compiler.jar"), "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"]
    options = [
        "-no-reflect",
        "-jvm-target",
        "17",
        "-kotlin-home",
        str(compiler),
        "-Werror",
        "-include-runtime",
        "-d",
        str(folder / "app.jar"),
    ]
    path = ["-classpath", f"{folder / 'classes.jar'}:{ORG_JSON}"]
    done = subprocess.run(
        [*command, *options, *path, *sources, str(Path(__file__).parent / "android_check.kt")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (folder / "wanted.txt").write_text(JAVA_ONNXRUNTIME)
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "--require-hashes"]
    subprocess.run([*pip, "-d", str(folder), "-r", str(folder / "wanted.txt")], check=True)
    npm.unpack(next(folder.glob("*.tar.gz")), folder / "package", inside=["fatjar.jar"])
    (runtime,) = (folder / "package").rglob("*.jar")
    return ["java", "-Xmx500m", "-cp", f"{folder / 'app.jar'}:{runtime}:{ORG_JSON}:{main / 'resources'}", "Android_checkKt"]


def test_its_answers_are_the_bundle_s(java: list[str], app: Path, tmp_path: Path) -> None:
    """An app that answers otherwise than the bundle, or a check that passes whatever it sees."""
    bundle = app / "app" / "src" / "main" / "assets" / "bundle"
    seen = json.loads(subprocess.run([*java, "golden", str(bundle)], capture_output=True, text=True, check=True).stdout)
    vectors = list(read_golden(bundle / "golden.jsonl"))
    assert seen["vectors"] == len(vectors) >= 64 and "wrong" not in seen
    wanted = {vector.text: vector.answer for vector in vectors if vector.answer}
    texts = [text for text in SENTENCES if text in wanted]
    said = subprocess.run([*java, "ask", str(bundle)], input="\n".join(map(json.dumps, texts)), capture_output=True, text=True, check=True)
    assert texts and [json.loads(line)["answer"] for line in said.stdout.splitlines()] == [wanted[text] for text in texts]
    broken = Path(shutil.copytree(bundle, tmp_path / "broken"))
    first, *rest = (broken / "golden.jsonl").read_text().splitlines()
    moved = json.loads(first)
    moved["logits"][0] += 1
    (broken / "golden.jsonl").write_text("\n".join([json.dumps(moved), *rest]))
    seen = json.loads(subprocess.run([*java, "golden", str(broken)], capture_output=True, text=True, check=True).stdout)
    assert seen["wrong"].startswith('vector 1, "') and "a logit differs by " in seen["wrong"]


@pytest.mark.parametrize(("count", "cased"), [(20_000, False), (2_000, True)])
def test_same_tokens_as_the_reference(java: list[str], tiny_bundle: Path, tmp_path: Path, count: int, cased: bool) -> None:
    """A phone whose tokenizer cuts some script otherwise: it answers with confidence, and wrongly."""
    bundle = wide_bundle(tiny_bundle, tmp_path)
    bundle = cased_bundle(bundle, tmp_path) if cased else bundle
    wrong = differences([*java, "ids", str(bundle)], bundle, strings(count, seed=count))
    assert wrong == [], f"{len(wrong)} of {count}"


def test_another_tokenizer_is_refused(java: list[str], tiny_bundle: Path, tmp_path: Path) -> None:
    """Wrong ids that look like answers."""
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    facts = json.loads((bundle / "tokenizer.json").read_text())
    facts["pre_tokenizer"] = {"type": "ByteLevel"}
    (bundle / "tokenizer.json").write_text(json.dumps(facts))
    done = subprocess.run([*java, "ask", str(bundle)], input='"x"', capture_output=True, text=True)
    assert "the tokenizer has a pre-tokenizer of type ByteLevel, which this app does not know: it reads BERT's WordPiece" in done.stderr
