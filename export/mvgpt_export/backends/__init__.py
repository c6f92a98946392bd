"""Backends lower a unit of stages to files; a target says which backend takes which unit. Both are literal tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from mvgpt_runtime.contract import UNITS, Geometry
from torch.export import ExportedProgram

from ..quant import RECIPES, Recipe


@dataclass(frozen=True)
class LoweredMethod:
    """What became of one stage's graph."""

    delegates: int
    undelegated: dict[str, int]  # operator outside, as the program calls it → count
    file: str | None = None  # its own one; None: the unit's


@dataclass(frozen=True)
class LoweredUnit:
    methods: dict[str, LoweredMethod]
    planned_bytes: int  # state and, where the runtime plans them ahead, activations

    @property
    def operators(self) -> tuple[str, ...]:
        """Kernels that the runtime must have."""
        return tuple(sorted({op for method in self.methods.values() for op in method.undelegated}))


Report = Callable[[str], None]
"""Told what is done next: lowering a language model takes minutes."""

Lower = Callable[[dict[str, ExportedProgram], Recipe, Geometry, str, Path, Report], LoweredUnit]
"""(exported program per stage, recipe, sizes to stamp, the weights' licence, path, report) → what became of it.

It writes the file or folder `path`, or files beside it whose names begin with the unit's and a dot. They name the
licence where their format has a place for it, as the manifest does in any case.
"""


@dataclass(frozen=True)
class Backend:
    """`forms`: of `stages.FORMS`, what stages are exported in; where there are several, --kernels chooses.
    `tools`: the packages that make its files; `extra`: what of mvgpt brings them, if not every installation has them.
    """

    lower: Lower
    suffix: str
    forms: tuple[str, ...]
    tools: tuple[str, ...]
    extra: str | None = None
    recipes: tuple[str, ...] = tuple(RECIPES)
    # Of these, the ones that are computed in float16 whatever their rules say (ranges.py has which layers).
    half: tuple[str, ...] = ()


def _later(module: str) -> Lower:
    """`lower` of a module of this package, whose compiler takes seconds to import."""

    def lower(*arguments: Any) -> LoweredUnit:
        lowered: LoweredUnit = import_module(f".{module}", __package__).lower(*arguments)
        return lowered

    return lower


_COREML = Backend(
    _later("coreml"),
    ".mlpackage",
    ("coreml",),
    ("coremltools", "torchao"),
    extra="coreml",
    recipes=("fp32", "fp16", "mobile"),
    half=("fp16", "mobile"),
)

BACKENDS = {
    "xnnpack": Backend(_later("xnnpack"), ".pte", ("fused", "stock"), ("executorch", "torchao")),
    "coreml": _COREML,
    "coreml-delegate": replace(
        _COREML, lower=_later("coreml_delegate"), suffix=".pte", tools=("executorch", *_COREML.tools)
    ),
    "onnx": Backend(_later("onnx"), ".onnx", ("onnx",), ("onnx", "onnxscript", "onnxruntime"), extra="onnx"),
}


@dataclass(frozen=True)
class Target:
    """What `--backend` names."""

    backends: dict[str, str]  # by unit
    kernels: str | None = None  # the only form that it takes, where its backends have several

    def recipes(self) -> list[str]:
        """Those that all its backends have."""
        return [name for name in RECIPES if all(name in BACKENDS[b].recipes for b in self.backends.values())]


# CoreML has no loop that the video encoder's scan could be; spelled out, it is thousands of operators.
_APPLE = {**dict.fromkeys(UNITS, "coreml"), "video_encoder": "xnnpack"}

TARGETS = {
    "xnnpack": Target(dict.fromkeys(UNITS, "xnnpack")),
    # An app builds the operators in, so that an export without them is a mistake.
    "android": Target(dict.fromkeys(UNITS, "xnnpack"), kernels="fused"),
    "coreml": Target(_APPLE),
    "ios": Target(_APPLE, kernels="fused"),
    "coreml-delegate": Target({**dict.fromkeys(UNITS, "coreml-delegate"), "video_encoder": "xnnpack"}),
    "onnx": Target(dict.fromkeys(UNITS, "onnx")),
}
