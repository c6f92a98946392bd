"""Compiles the operators in `runtime/kernels` with the machine's C++ compiler, against an executorch package.

Standard library only and no relative imports: the package's build hook runs this file before anything is installed.
The compiler is called directly, because a dozen files need no build system; CMakeLists.txt there is for phones.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

LIBRARY = f"libmvgpt_kernels.{'dylib' if sys.platform == 'darwin' else 'so'}"
# Below the package: where the library is, and in an installed package the sources as well.
FOLDER = "_kernels"
KERNELS = ("selective_scan.cpp", "causal_conv1d_silu.cpp", "attention.cpp", "linear_4bit.cpp", "copy.cpp")
CALLERS = ("kernels.cpp", "api.cpp", "register.cpp")

COMMON_FLAGS = ("-std=c++17", "-fPIC", "-fvisibility=hidden", "-DNDEBUG")
# Not -ffast-math: NaN and infinity have to come through.
KERNEL_FLAGS = ("-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
# The copies of the kernels, by machine: name → flags. CALLERS go without these: kernels.cpp finds out at run time
# whether the processor has what they ask for.
AVX2 = ("-mavx2", "-mfma", "-mf16c")
AVX512 = (*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni")
COPIES: dict[str, dict[str, tuple[str, ...]]] = {"x86_64": {"baseline": AVX2, "avx512": AVX512}}
# How the wheel's own libraries were compiled.
EXECUTORCH_FLAGS = ("-O2", "-DC10_USING_CUSTOM_GENERATED_MACROS", "-DET_EVENT_TRACER_ENABLED", "-DET_USE_THREADPOOL")


class BuildError(Exception):
    """There is no compiler, or it failed; the message is one line for a person."""


def source_folder() -> Path | None:
    """The C++ sources: beside this package in a clone, inside it when installed from a wheel."""
    package = Path(__file__).parent
    folders = (package.parent / "kernels", package / FOLDER / "src")
    return next((folder for folder in folders if (folder / KERNELS[0]).is_file()), None)


def find_compiler() -> list[str] | None:
    """$CXX if it is set, else the first of c++, g++ and clang++ on the path."""
    if named := shlex.split(os.environ.get("CXX", "")):
        return named if shutil.which(named[0]) else None
    return next(([name] for name in ("c++", "g++", "clang++") if shutil.which(name)), None)


def copies() -> dict[str, tuple[str, ...]]:
    """The copies of the kernels that are compiled on this machine, by name, and the flags of each."""
    machine = COPIES.get(platform.machine(), {"baseline": ()})
    return {name: (*COMMON_FLAGS, *KERNEL_FLAGS, *flags, f"-DMVGPT_COPY={name}") for name, flags in machine.items()}


def build(sources: Path, executorch: Path, output: Path) -> None:
    """Compile `sources` against the package folder `executorch` into the library file `output`, atomically.

    Raises:
        BuildError: no compiler, no headers, or a compiler's error.
    """
    if (compiler := find_compiler()) is None:
        raise BuildError("no C++ compiler: install g++ or clang++, or set CXX")
    include = executorch / "include"
    if not (include / "executorch" / "runtime").is_dir():
        raise BuildError(f"{executorch} has no C++ headers")
    headers = (f"-isystem{include}", f"-isystem{include / 'executorch/runtime/core/portable_type/c10'}")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        objects = []
        compiled = [(name, copy, flags) for copy, flags in copies().items() for name in KERNELS]
        compiled += [(name, "", (*COMMON_FLAGS, *EXECUTORCH_FLAGS, *headers)) for name in CALLERS]
        for name, copy, flags in compiled:
            objects.append(str(Path(folder) / f"{name}.{copy}.o"))
            _run([*compiler, *flags, "-c", str(sources / name), "-o", objects[-1]])
        made = Path(folder) / LIBRARY
        _run([*compiler, "-shared", *objects, "-o", str(made), *_link_flags(executorch / "lib")])
        made.replace(output)


def _link_flags(lib: Path) -> list[str]:
    # The pybindings have loaded these two libraries before ours is; the path covers loaders that look again
    # (macOS), for a package installed beside executorch.
    origin = "@loader_path" if sys.platform == "darwin" else "$ORIGIN"
    return [f"-L{lib}", "-lexecutorch", "-lexecutorch_threadpool", f"-Wl,-rpath,{origin}/../../executorch/lib"]


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as e:
        raise BuildError(f"cannot run {command[0]}: {e}") from None
    if done.returncode:
        raise BuildError(f"`{shlex.join(command)}` failed:\n{done.stderr.strip()}")
