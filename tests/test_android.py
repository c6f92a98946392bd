"""tools/android_tests.py itself: what it says when a tool is missing, what it makes again, how it counts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mvgpt_runtime.errors import MvgptError

from tools import android_tests

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A build folder of its own, and nothing in the environment that finds tools."""
    monkeypatch.setattr(android_tests, "BUILD", tmp_path / "build")
    for name in ("JAVA_HOME", "MVGPT_JUNIT", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "")
    return tmp_path / "build"


def executable(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def jdk(home: Path, version: str, script: str = "") -> Path:
    executable(
        home / "bin/java", f"""[ "$1" = -version ] && {{ echo 'openjdk version "{version}"' >&2; exit; }}\n{script}"""
    )
    (home / "include").mkdir()
    (home / "include/jni.h").touch()
    return home


def test_without_tools_the_command_fails_and_says_what_to_install() -> None:
    command = [sys.executable, ROOT / "tools/android_tests.py", "bundles/tiny"]
    paths = os.pathsep.join(sys.path)  # of an environment where nothing is installed but found
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={"PATH": "", "PYTHONPATH": paths}, cwd=ROOT
    )
    assert done.returncode == 1, done.stderr
    assert "there is no Java" in done.stdout
    assert "remedy: install a JDK" in done.stdout
    assert done.stdout.splitlines()[-1] == "0 passed, 1 failed"


@pytest.mark.parametrize(
    ("version", "accepted"), [("1.8.0_392", False), ("11.0.2", False), ("17.0.15", True), ("25", True)]
)
def test_which_java_is_new_enough(
    version: str, accepted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = jdk(tmp_path / "jdk", version)
    monkeypatch.setenv("JAVA_HOME", str(home))
    if accepted:
        assert android_tests.find_jdk() == home
    else:
        with pytest.raises(MvgptError, match="is no Java 17"):
            android_tests.find_jdk()


def test_a_runtime_without_headers_is_no_jdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = jdk(tmp_path / "jdk", "17.0.15")
    (home / "include/jni.h").unlink()
    monkeypatch.setenv("PATH", str(home / "bin"))
    with pytest.raises(MvgptError, match=r"jni\.h is missing") as error:
        android_tests.find_jdk()
    assert "install a JDK" in str(error.value.remedy)


def test_without_npm_there_is_no_compiler() -> None:
    with pytest.raises(MvgptError, match="there is no npm") as error:
        android_tests.find_kotlin()
    assert "apt-get install npm" in str(error.value.remedy)


def test_npm_installs_the_pinned_compiler_once(tmp_path: Path, build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    package = build / "npm/node_modules/kotlin-compiler"
    executable(tmp_path / "bin/npm", f'echo "$@" >> {log}; /bin/mkdir -p {package}/lib')
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert android_tests.find_kotlin() == android_tests.find_kotlin() == package / "lib"
    (line,) = log.read_text().splitlines()
    assert line.endswith(f"kotlin-compiler@{android_tests.KOTLIN}")


def test_junit_that_is_not_complete_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MVGPT_JUNIT", str(tmp_path))
    for name in android_tests.JUNIT[1:]:
        (tmp_path / f"{name}.jar").touch()
    with pytest.raises(MvgptError, match=r"junit-jupiter-api\.jar") as error:
        android_tests.find_junit()
    assert "apt-get install junit5" in str(error.value.remedy)
    (tmp_path / "junit-jupiter-api.jar").touch()
    assert [jar.parent for jar in android_tests.find_junit()] == [tmp_path] * len(android_tests.JUNIT)


def test_a_step_runs_again_when_sources_or_settings_changed(tmp_path: Path) -> None:
    source, output, runs = tmp_path / "source", tmp_path / "made/output", []
    source.write_text("a")

    def step(settings: object = 1) -> int:
        def make() -> None:
            runs.append(settings)
            output.touch()

        android_tests.step("step", output, [source], settings, make)
        return len(runs)

    assert [step(), step()] == [1, 1]
    source.write_text("b")
    assert [step(), step()] == [2, 2]
    assert [step(2), step(2)] == [3, 3]
    output.unlink()
    assert [step(2), step(2)] == [4, 4]


def test_a_step_that_failed_runs_again(tmp_path: Path) -> None:
    output = tmp_path / "output"

    def fail() -> None:
        output.touch()  # half of it
        raise MvgptError("no", stage="test-android")

    with pytest.raises(MvgptError):
        android_tests.step("step", output, [], 1, fail)
    made: list[int] = []
    android_tests.step("step", output, [], 1, lambda: made.append(1))
    assert made == [1]


REPORT = '<testsuite tests="{}" skipped="{}" failures="{}" errors="{}"/>'


@pytest.mark.parametrize(
    ("report", "status", "counts"),
    [
        (REPORT.format(5, 0, 0, 0), 0, (5, 0)),
        (REPORT.format(5, 0, 1, 1), 1, (3, 2)),
        (REPORT.format(5, 2, 0, 0), 0, (3, 2)),  # a test that was skipped shows nothing
        (REPORT.format(0, 0, 0, 0), 0, (0, 1)),  # so do no tests
        (REPORT.format(5, 0, 0, 0), 134, (5, 1)),
        (None, 134, (0, 1)),
    ],
)
def test_how_it_counts(report: str | None, status: int, counts: tuple[int, int], build: Path, tmp_path: Path) -> None:
    write = f"/bin/mkdir -p {build}/reports; echo '{report}' > {build}/reports/TEST-junit-jupiter.xml" if report else ""
    home = jdk(tmp_path / "jdk", "17", f"{write}\nexit {status}")
    build.mkdir()
    assert android_tests.run_tests(home, [], {}, []) == counts
