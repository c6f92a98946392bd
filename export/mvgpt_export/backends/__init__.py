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
    undelegated: dict[str, int]  # operator outside, as the program calls it → count


@dataclass(frozen=True)
class LoweredFile:
    methods: dict[str, LoweredMethod]
    planned_bytes: int  # activations and state

    @property
    def operators(self) -> tuple[str, ...]:
        """Kernels that the runtime must have."""
        return tuple(sorted({op for method in self.methods.values() for op in method.undelegated}))


Report = Callable[[str], None]
"""Told what is done next: lowering a language model takes minutes."""

Lower = Callable[[dict[str, ExportedProgram], str, Path, Report], LoweredFile]
"""(exported program per stage, stamp as JSON, file to write, report) → what became of it."""


def _xnnpack(programs: dict[str, ExportedProgram], stamp: str, path: Path, report: Report) -> LoweredFile:
    from . import xnnpack  # imports executorch's compiler, seconds

    return xnnpack.lower(programs, stamp, path, report)


BACKENDS: dict[str, Lower] = {"xnnpack": _xnnpack}
SUFFIXES = {"xnnpack": ".pte"}
