"""Tests the Kotlin SDK on this machine's Java, with the programs of bundles on executorch's own runtime.

    python tools/android_tests.py bundles/tiny bundles/mobile

Compiles the library of android_demo, its tests and the engine of android_demo/jvm; writes golden vectors and Python's
answers; runs JUnit. All of it goes to build/android, and what is up to date is used again. Linux only. Needs a JDK,
npm (which has the Kotlin compiler), JUnit 5 and a C++ compiler: where one is missing this fails and says what to do,
it never skips. The last line is `N passed, N failed`; the exit status is 0 if none failed.

Names of test classes after the bundles run only these.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from mvgpt_runtime import build_kernels, kernels
from mvgpt_runtime.errors import MvgptError

ROOT = Path(__file__).resolve().parent.parent
# What needs Android is in another folder of the library (src/android).
LIBRARY, JVM = ROOT / "android_demo/videogpt/src", ROOT / "android_demo/jvm/src"
# Of the app, what is tested besides: the models hold nothing of Android.
MODELS = [ROOT / "android_demo/app/src/main/kotlin/org/mvgpt/demo" / name for name in ("ask/AskModel.kt",)]
BUILD = ROOT / "build/android"

KOTLIN = "2.4.20"
OLDEST_JAVA = 17
# The library may use no more of Java than this, because Android's own classes stop near it (API level 26).
LIBRARY_JAVA = 8
# Where Debian's package puts them; MVGPT_JUNIT names another folder.
JUNIT_FOLDER = Path("/usr/share/java")
JUNIT = (
    "junit-jupiter-api", "junit-jupiter-engine", "junit-jupiter-params", "junit-platform-commons",
    "junit-platform-console", "junit-platform-engine", "junit-platform-launcher", "junit-platform-reporting",
    "opentest4j", "opentest4j-reporting-events", "apiguardian-api", "picocli", "univocity-parsers",
)  # fmt: skip
KOTLIN_TEST = ("kotlin-stdlib", "kotlin-test", "kotlin-test-junit5", "kotlinx-coroutines-core-jvm")
# Their kernels and delegates register themselves when they are loaded.
RUNTIME_LIBRARIES = tuple(
    f"executorch{part}" for part in ("", "_threadpool", "_kernels_optimized", "_kernels_quantized", "_backend_xnnpack")
)
TEST_SECONDS, ALL_SECONDS = 120, 900


def fail(what: str, remedy: str) -> MvgptError:
    return MvgptError(what, stage="test-android", remedy=remedy)


def run(command: Sequence[str | Path], failure: str) -> None:
    """Run a tool whose output matters only if it fails."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise MvgptError(failure, stage="test-android", got=(done.stdout + done.stderr).strip())


def step(name: str, output: Path, sources: Iterable[Path], settings: object, make: Callable[[], None]) -> None:
    """Run `make`, unless `output` is there and was made from the same sources and settings."""
    digest = hashlib.sha256(repr(settings).encode())
    for path in sorted(sources):
        digest.update(f"\0{path}\0".encode() + path.read_bytes())
    stamp = output.with_name(f"{output.name}.stamp")
    if output.exists() and stamp.is_file() and stamp.read_text() == digest.hexdigest():
        return
    stamp.unlink(missing_ok=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    make()
    stamp.write_text(digest.hexdigest())
    print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)


# --- tools ---


def find_jdk() -> Path:
    """The home of a JDK: of JAVA_HOME, else of the `java` on the path."""
    remedy = f"install a JDK ≥ {OLDEST_JAVA} (Debian: apt-get install openjdk-17-jdk-headless), or set JAVA_HOME"
    home = os.environ.get("JAVA_HOME")
    java = shutil.which(str(Path(home) / "bin/java") if home else "java")
    if java is None:
        raise fail("there is no Java", remedy)
    jdk = Path(java).resolve().parent.parent
    done = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    version = re.search(r'version "(\d+)', done.stderr)
    if not version or int(version[1]) < OLDEST_JAVA:
        raise fail(f"{java} is no Java {OLDEST_JAVA}: {done.stderr.strip()}", remedy)
    if not (jdk / "include/jni.h").is_file():
        raise fail(f"{jdk} is no JDK: include/jni.h is missing", remedy)
    return jdk


def find_kotlin() -> Path:
    """The compiler's folder of jars, from npm if it is not there."""
    folder = BUILD / "npm/node_modules/kotlin-compiler"

    def install() -> None:
        if (npm := shutil.which("npm")) is None:
            raise fail("there is no npm, which has the Kotlin compiler", "install it (Debian: apt-get install npm)")
        options = ["--no-save", "--no-audit", "--no-fund", "--prefix", BUILD / "npm"]
        run([npm, "install", *options, f"kotlin-compiler@{KOTLIN}"], "npm cannot install the Kotlin compiler")

    step("kotlin", folder, (), KOTLIN, install)
    return folder / "lib"


def find_junit() -> list[Path]:
    """The jars of JUnit 5; as root on Debian they are installed."""
    folder = Path(os.environ.get("MVGPT_JUNIT", JUNIT_FOLDER))
    jars = [folder / f"{name}.jar" for name in JUNIT]

    def missing() -> list[str]:
        return [jar.name for jar in jars if not jar.is_file()]

    if missing() and folder == JUNIT_FOLDER and os.getuid() == 0 and (apt := shutil.which("apt-get")):
        run([apt, "update"], "apt-get update failed")
        run([apt, "install", "-y", "--no-install-recommends", "junit5"], "apt-get cannot install junit5")
    if missing():
        remedy = "install JUnit 5 (Debian: apt-get install junit5), or set MVGPT_JUNIT to a folder with its jars"
        raise fail(f"JUnit's jars are not in {folder}: {', '.join(missing())}", remedy)
    return jars


# --- what is compiled ---


def compile_engine(jdk: Path) -> tuple[Path, Path]:
    """The JNI library, and that of our operators."""
    spec = importlib.util.find_spec("executorch")
    executorch = Path(next(iter(spec.submodule_search_locations or ()))) if spec else None
    if executorch is None:
        raise fail("executorch is not installed", "make .venv/runtime")
    if (compiler := build_kernels.find_compiler()) is None:
        raise fail("there is no C++ compiler", "install g++ or clang++, or set CXX")
    operators = kernels.library_path() or kernels.build()
    source, output = JVM / "main/cpp/executorch_jni.cpp", BUILD / "libexecutorch_jni.so"
    include, lib = executorch / "include", executorch / "lib"
    command = [
        *compiler, *build_kernels.COMMON_FLAGS, *build_kernels.EXECUTORCH_FLAGS, "-Wall", "-shared",
        f"-I{jdk}/include", f"-I{jdk}/include/linux",
        f"-isystem{include}", f"-isystem{include}/executorch/runtime/core/portable_type/c10",
        source, "-o", output, f"-L{lib}", f"-Wl,-rpath,{lib}", "-Wl,--no-as-needed,--no-undefined",
        *(f"-l{name}" for name in RUNTIME_LIBRARIES),
    ]  # fmt: skip
    step("JNI library", output, [source], command, lambda: run(command, "cannot compile the JNI library"))
    return output, operators


def kotlin_sources(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in sorted(folder.rglob("*.kt"))]


def compile_kotlin(jdk: Path, kotlin: Path, junit: Sequence[Path]) -> list[Path]:
    """The class path to run the tests with."""
    library, tests = BUILD / "classes/library", BUILD / "classes/tests"
    kotlin_test = [kotlin / f"{name}.jar" for name in KOTLIN_TEST]
    compiler = [
        jdk / "bin/java", "-Xmx1g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{kotlin}/*",
        "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", "-no-stdlib", "-no-reflect", "-module-name", "videogpt",
    ]  # fmt: skip

    def compile_(name: str, output: Path, sources: list[Path], classes: Sequence[Path], *options: str) -> None:
        command = [*compiler, "-cp", ":".join(map(str, classes)), "-d", output, *options]

        def make() -> None:
            shutil.rmtree(output, ignore_errors=True)  # classes of files that are gone
            run([*command, *sources], f"the Kotlin compiler does not accept the {name}")

        compiled = [path for folder in classes if folder.is_dir() for path in folder.rglob("*.class")]
        step(name, output, [*sources, *compiled], command, make)

    target = "1.8" if LIBRARY_JAVA == 8 else str(LIBRARY_JAVA)
    uses = [jar for jar in kotlin_test if "test" not in jar.name]
    compile_("library", library, kotlin_sources(LIBRARY / "main"), uses,
             "-jvm-target", target, f"-Xjdk-release={LIBRARY_JAVA}")  # fmt: skip
    # A friend, as Gradle has it for tests: they see what is internal.
    sources = [*kotlin_sources(LIBRARY / "test", JVM / "main", JVM / "test"), *MODELS]
    compile_("tests", tests, sources, [library, *kotlin_test, *junit],
             "-jvm-target", str(OLDEST_JAVA), f"-Xfriend-paths={library}")  # fmt: skip
    return [library, tests, *kotlin_test, *junit]


# --- what the tests compare with ---


def write_expected(bundle: Path) -> None:
    """Golden vectors and Python's answers, in a folder called as the bundle."""
    manifest, folder = bundle / "manifest.json", BUILD / "expected" / bundle.name
    if not manifest.is_file():
        raise fail(f"{bundle} is no bundle", f"make {bundle}/manifest.json")
    runtime = Path(kernels.__file__).parent
    sources = [manifest, *ROOT.glob("assets/*.mp4"), *runtime.rglob("*.py")]
    vectors = [sys.executable, "-m", "mvgpt_export", "goldens", bundle, "-o", folder / "vectors"]
    step(f"golden vectors of {bundle.name}", folder / "vectors", sources, vectors,
         lambda: run(vectors, f"cannot write the golden vectors of {bundle.name}"))  # fmt: skip
    script = ROOT / "tools/write_android_answers.py"
    answers = [sys.executable, script, bundle, folder / "answers"]
    step(f"answers of {bundle.name}", folder / "answers", [script, *sources], answers,
         lambda: run(answers, f"cannot write the answers of {bundle.name}"))  # fmt: skip


# --- JUnit ---

Counts = tuple[int, int]
"""Passed, failed."""


def run_tests(jdk: Path, classes: Sequence[Path], properties: dict[str, object], only: Sequence[str]) -> Counts:
    """Skipped ones are failures, and so is whatever ends the Java virtual machine."""
    reports = BUILD / "reports"
    shutil.rmtree(reports, ignore_errors=True)
    tests = [f"--select-class={name}" for name in only] or [f"--scan-class-path={BUILD / 'classes/tests'}"]
    command = [
        jdk / "bin/java", "-Xmx1g", "-XX:+UseSerialGC", "-ea", f"-XX:ErrorFile={BUILD}/crash.log",
        f"-Djunit.jupiter.execution.timeout.default={TEST_SECONDS} s",
        *(f"-D{name}={value}" for name, value in properties.items()),
        "-cp", ":".join(map(str, classes)), "org.junit.platform.console.ConsoleLauncher",
        *tests, "--disable-banner", "--disable-ansi-colors", "--details=tree", f"--reports-dir={reports}",
    ]  # fmt: skip
    try:
        status = subprocess.run([str(part) for part in command], cwd=ROOT, timeout=ALL_SECONDS, check=False).returncode
    except subprocess.TimeoutExpired:
        print(f"the tests took more than {ALL_SECONDS} s")
        return 0, 1
    counts = count(reports)
    if not sum(counts) or (status and not counts[1]):
        print(f"the Java virtual machine ended with status {status}")
        return counts[0], counts[1] + 1
    return counts


def count(reports: Path) -> Counts:
    """Of JUnit's reports."""
    suites = [ElementTree.parse(path).getroot().attrib for path in reports.glob("TEST-*.xml")]
    total = sum(int(suite["tests"]) for suite in suites)
    bad = sum(int(suite[name]) for suite in suites for name in ("failures", "errors", "skipped"))
    return total - bad, bad


def main(arguments: Sequence[str]) -> int:
    bundles = [Path(argument).resolve() for argument in arguments if not argument.startswith("org.")]
    try:
        jdk = find_jdk()
        kotlin, junit = find_kotlin(), find_junit()
        jni, operators = compile_engine(jdk)
        classes = compile_kotlin(jdk, kotlin, junit)
        for bundle in bundles:
            write_expected(bundle)
    except MvgptError as e:
        print(e)
        print("0 passed, 1 failed")
        return 1
    properties = {
        "mvgpt.jni": jni, "mvgpt.kernels": operators, "mvgpt.root": ROOT, "mvgpt.expected": BUILD / "expected",
        "mvgpt.bundles": ":".join(map(str, bundles)),
    }  # fmt: skip
    passed, failed = run_tests(jdk, classes, properties, [a for a in arguments if a.startswith("org.")])
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
