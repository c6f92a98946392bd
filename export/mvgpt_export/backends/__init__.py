"""Backends are functions in a literal dict: exported programs in, one file and a report out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch.export import ExportedProgram


@dataclass(frozen=True)
class LoweredMethod:
    """What became of one stage's graph."""

    delegates: int
    undelegated: dict[str, int]  # operator → count


@dataclass(frozen=True)
class LoweredFile:
    methods: dict[str, LoweredMethod]
    planned_bytes: int  # activations and state
    operators: tuple[str, ...]  # kernels that the runtime must have


Lower = Callable[[dict[str, ExportedProgram], str, Path], LoweredFile]
"""(exported program per stage, stamp as JSON, file to write) → report."""


def _xnnpack(programs: dict[str, ExportedProgram], stamp: str, path: Path) -> LoweredFile:
    from . import xnnpack  # imports executorch's compiler, seconds

    return xnnpack.lower(programs, stamp, path)


BACKENDS: dict[str, Lower] = {"xnnpack": _xnnpack}
SUFFIXES = {"xnnpack": ".pte"}
