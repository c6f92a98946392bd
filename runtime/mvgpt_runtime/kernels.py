"""The project's own ExecuTorch operators: where their compiled library is, and how a process gets them.

`python -m mvgpt_runtime.kernels build` compiles them by hand; installing the package does it when it can.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import sys
from pathlib import Path

from . import build_kernels
from .errors import MvgptError

NAMESPACE = "mvgpt"
# What the library registers; a program that uses one of them cannot run without it.
OPERATORS = (
    "mvgpt::causal_conv1d_silu.out",
    "mvgpt::selective_scan.out",
    "mvgpt::grouped_query_attention.out",
    "mvgpt::linear_4bit.out",
)
REMEDY = "run `python -m mvgpt_runtime.kernels build` (it needs a C++ compiler), or export with --kernels stock"


def library_path() -> Path | None:
    """The compiled library, or None if this installation has none."""
    path = Path(__file__).parent / build_kernels.FOLDER / build_kernels.LIBRARY
    return path if path.is_file() else None


def available() -> tuple[str, ...]:
    """The operators that `load` would provide: all, or none without the library."""
    return OPERATORS if library_path() else ()


def load() -> ctypes.CDLL:
    """Load the library, which registers the operators with ExecuTorch; doing so again has no effect.

    Raises:
        MvgptError: there is no library, or it does not fit the installed executorch or this processor.
    """
    if (path := library_path()) is None:
        raise MvgptError("mvgpt's operators are not compiled", stage="kernels", remedy=REMEDY)
    # The registry is in libexecutorch, which the bindings load, and which links to torch's libraries.
    import torch  # noqa: F401
    from executorch.extension.pybindings import _C  # noqa: F401

    try:
        library = ctypes.CDLL(str(path))
        library.mvgpt_kernels_name.restype = ctypes.c_char_p
        registered = library.mvgpt_kernels_registered()
    except (OSError, AttributeError) as e:
        raise MvgptError(
            "mvgpt's operators do not load", stage="kernels", expected="a library for this executorch", got=e,
            remedy=REMEDY,
        ) from None  # fmt: skip
    if not registered:
        raise MvgptError("mvgpt's operators need a processor with AVX2, FMA and F16C", stage="kernels", remedy=REMEDY)
    return library


def use(copy: str) -> bool:
    """Run this compiled copy of the operators (`build_kernels.copies`) from now on instead of the fastest, in the whole
    process: for tests and measurements. False, and no change, if this processor lacks its instructions."""
    return bool(load().mvgpt_use_kernels(copy.encode()))


def build() -> Path:
    """Compile the library for this environment's executorch and return its path.

    Raises:
        MvgptError: no sources, no executorch, no compiler, or a compiler's error.
    """
    spec = importlib.util.find_spec("executorch")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    sources = build_kernels.source_folder()
    if not folders or sources is None:
        missing = "executorch" if not folders else "the sources of the kernels"
        raise MvgptError(f"{missing} not found", stage="kernels", remedy="install the package again")
    path = Path(__file__).parent / build_kernels.FOLDER / build_kernels.LIBRARY
    try:
        build_kernels.build(sources, Path(folders[0]), path)
    except build_kernels.BuildError as e:
        raise MvgptError("cannot compile mvgpt's operators", stage="kernels", got=e) from None
    return path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m mvgpt_runtime.kernels", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("build", help="compile the operators for this environment's executorch")
    make.add_argument("--if-missing", action="store_true", help="do nothing when they are compiled already")
    commands.add_parser("status", help="say whether the operators are compiled")
    arguments = parser.parse_args()
    path = library_path()
    try:
        if arguments.command == "build" and not (arguments.if_missing and path):
            path = build()
    except MvgptError as e:
        sys.exit(str(e))
    print(path if path else f"not compiled: {REMEDY}")


if __name__ == "__main__":
    main()
