"""Compiling the kernels: into a library of several copies, under sanitizers, for another processor."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from mvgpt_runtime import build_kernels, kernels
from mvgpt_runtime.errors import MvgptError

SOURCES = Path(__file__).parent.parent / "runtime" / "kernels"


@pytest.fixture
def copy_in_use() -> Iterator[str]:
    """The copy that runs by default, this processor's fastest; afterwards it runs again."""
    if not kernels.available():
        kernels.build()
    name = kernels.load().mvgpt_kernels_name().decode()
    yield name
    kernels.use(name)


def test_copies_share_no_code(tmp_path: Path) -> None:
    """A linker keeps one of several weak definitions for the whole library: an inline function compiled for AVX-512
    could be the one that an older processor runs."""
    compiler = build_kernels.find_compiler()
    assert compiler is not None
    for copy, flags in build_kernels.copies().items():
        for name in build_kernels.KERNELS:
            output = tmp_path / f"{name}.o"
            subprocess.run([*compiler, *flags, "-O0", "-c", str(SOURCES / name), "-o", str(output)], check=True)
            defined = subprocess.check_output(["nm", "-C", "--defined-only", str(output)], text=True).splitlines()
            shared = [line for line in defined if line.split()[1] in "TDBRVWu" and f"mvgpt::{copy}::" not in line]
            assert not shared, shared


def test_copies_by_name(copy_in_use: str) -> None:
    assert copy_in_use in build_kernels.copies()
    assert kernels.use("baseline")
    assert not kernels.use("no-such-copy")
    assert kernels.load().mvgpt_kernels_name() == b"baseline"


def test_build_and_its_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = build_kernels.source_folder()
    assert sources == SOURCES
    with pytest.raises(build_kernels.BuildError, match="no C\\+\\+ headers"):
        build_kernels.build(SOURCES, tmp_path, tmp_path / "made" / build_kernels.LIBRARY)
    (tmp_path / "include/executorch/runtime").mkdir(parents=True)
    with pytest.raises(build_kernels.BuildError, match="failed"):  # register.cpp finds no headers
        build_kernels.build(SOURCES, tmp_path, tmp_path / "made" / build_kernels.LIBRARY)
    assert not any((tmp_path / "made").iterdir())
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(MvgptError, match="no C\\+\\+ compiler"):
        kernels.build()


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_kernels, "LIBRARY", "nothing.so")
    assert kernels.available() == ()
    with pytest.raises(MvgptError, match="kernels build"):
        kernels.load()


def compile_test(compiler: list[str], flags: list[str], program: Path) -> None:
    files = [str(SOURCES / name) for name in ("test_kernels.cpp", "test_language_model.cpp", *build_kernels.KERNELS)]
    subprocess.run([*compiler, "-std=c++17", "-Wall", "-Wextra", *flags, *files, "-o", str(program)], check=True)


def check_output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


SANITIZERS = ["-g1", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-pthread"]


@pytest.mark.parametrize("lanes", [1, 4, 8, 16])
def test_kernels_under_sanitizers(tmp_path: Path, lanes: int, copy_in_use: str) -> None:
    """Every size of vector: scalar, NEON's and SSE's, AVX2's, AVX-512's; with the instructions where this machine has
    them, else what the compiler makes of it."""
    compiler = build_kernels.find_compiler()
    assert compiler is not None
    flags = [*SANITIZERS, f"-DMVGPT_VECTOR_BYTES={4 * lanes}", "-Wno-psabi"]
    if platform.machine() == "x86_64" and lanes >= 8:
        flags += build_kernels.AVX512 if lanes == 16 and copy_in_use == "avx512" else build_kernels.AVX2
    compile_test(compiler, flags, tmp_path / "test_kernels")
    output = check_output([str(tmp_path / "test_kernels")])
    assert output.startswith(f"{lanes} lanes")
    assert output.endswith("all checks passed\n")


@pytest.mark.slow
def test_kernels_on_arm(tmp_path: Path) -> None:
    """NEON, cross-compiled and emulated."""
    compiler, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
    assert compiler, "no cross-compiler: apt-get install g++-aarch64-linux-gnu"
    assert emulator, "no emulator: apt-get install qemu-user"
    flags = [*build_kernels.KERNEL_FLAGS, "-static", "-pthread"]
    compile_test([compiler], flags, tmp_path / "test_kernels")
    output = check_output([emulator, str(tmp_path / "test_kernels")])
    assert output.startswith("4 lanes")
    assert output.endswith("all checks passed\n")
