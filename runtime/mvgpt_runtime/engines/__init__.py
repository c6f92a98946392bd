"""Engines run stages. Every backend has one, with the same four methods; hosts see nothing else of a backend."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from .. import contract
from ..contract import Geometry
from ..errors import MvgptError
from ..manifest import Bundle


class Engine(Protocol):
    """Runs a bundle's stages. Not thread-safe: one call at a time."""

    def load(self, stage: str) -> None:
        """Load `stage`, if it is not loaded. Raises MvgptError if its file does not fit bundle or runtime."""

    def unload(self, stage: str) -> None:
        """Free the unit of `stage` (every stage of it, and its KV cache); a later call loads it again."""

    def prewarm(self, stage: str) -> None:
        """Load `stage` and run it once on zeros, so that the next call is as fast as any. Overwrites the last position
        of the KV cache."""

    def run(self, stage: str, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run `stage` on arrays in the contract's order; outputs likewise, owned by the caller."""


def _executorch(bundle: Bundle, threads: int | None) -> Engine:
    from .executorch import ExecuTorchEngine

    return ExecuTorchEngine(bundle, threads)


def _coreml(bundle: Bundle, threads: int | None) -> Engine:
    from .coreml import CoreMLEngine

    return CoreMLEngine(bundle, threads)


def _onnx(bundle: Bundle, threads: int | None) -> Engine:
    from .onnx import OnnxEngine

    return OnnxEngine(bundle, threads)


ENGINES: dict[str, Callable[[Bundle, int | None], Engine]] = {
    "xnnpack": _executorch,
    "coreml": _coreml,
    "coreml-delegate": _coreml,
    "onnx": _onnx,
}


def open_engine(bundle: Bundle, threads: int | None = None) -> Engine:
    """The engine for the bundle's backends. `threads`: size of a backend's pool (None: the backend's choice)."""
    backends = bundle.manifest.backends
    if unknown := [name for name in backends if name not in ENGINES]:
        raise MvgptError(
            "this runtime has no engine for the backend", stage="bundle", expected=list(ENGINES), got=unknown[0]
        )
    return ENGINES[backends[0]](bundle, threads) if len(backends) == 1 else MixedEngine(bundle, threads)


class MixedEngine:
    """Each stage on the engine of its backend, which is made when its first stage is loaded."""

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self._bundle, self._threads = bundle, threads
        self._engines: dict[str, Engine] = {}

    def load(self, stage: str) -> None:
        self._engine(stage).load(stage)

    def unload(self, stage: str) -> None:
        if engine := self._engines.get(self._bundle.manifest.stages[stage].backend):
            engine.unload(stage)

    def prewarm(self, stage: str) -> None:
        self._engine(stage).prewarm(stage)

    def run(self, stage: str, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        return self._engine(stage).run(stage, inputs)

    def _engine(self, stage: str) -> Engine:
        backend = self._bundle.manifest.stages[stage].backend
        if backend not in self._engines:
            self._engines[backend] = ENGINES[backend](self._bundle, self._threads)
        return self._engines[backend]


def check_stamp(bundle: Bundle, file: str, stamp: object) -> None:
    """MvgptError unless what `file` says of itself is what the bundle's manifest says of it."""
    stages = [name for name, info in bundle.manifest.stages.items() if info.file == file]
    expected = contract.stamp(stages, bundle.geometry)
    if stamp != expected:
        raise MvgptError(
            f"{file} was exported for another bundle",
            stage="bundle",
            expected=expected,
            got=stamp,
            remedy="export the whole bundle again; files of different exports do not mix",
        )


def check_inputs(stage: str, inputs: Sequence[np.ndarray], geometry: Geometry) -> None:
    """MvgptError unless number, dtypes and shapes of `inputs` are what the contract says of `stage`, and positions are
    in the KV cache, past whose end some backends would write."""
    tensors = contract.stage(stage).inputs
    if len(inputs) != len(tensors):
        raise MvgptError(
            "wrong number of inputs",
            stage=stage,
            expected=", ".join(t.name for t in tensors),
            got=f"{len(inputs)} arrays",
        )
    for tensor, array in zip(tensors, inputs, strict=True):
        bounds = tensor.shape(geometry)
        fits = array.ndim == len(bounds) and all(
            least <= size <= most for size, (least, most) in zip(array.shape, bounds, strict=True)
        )
        if array.dtype != tensor.dtype or not fits:
            sides = [str(most) if least == most else f"{least}..{most}" for least, most in bounds]
            raise MvgptError(
                f"wrong input {tensor.name!r}",
                stage=stage,
                expected=f"{tensor.dtype} [{', '.join(sides)}]",
                got=f"{array.dtype} {list(array.shape)}",
            )
    if stage == "text_decoder":
        rows, start = inputs[0].shape[1], int(inputs[1][0])
        if start < 0 or start + rows > geometry.max_context:
            raise MvgptError(
                "the positions are not in the KV cache",
                stage=stage,
                expected=f"0 to {geometry.max_context - 1}",
                got=f"{rows} rows from {start}",
            )


def zero_inputs(stage: str, geometry: Geometry) -> list[np.ndarray]:
    """Smallest valid inputs of `stage`, all zero; a text_decoder row at the last position, where it disturbs least."""
    arrays = [np.zeros([least for least, _ in t.shape(geometry)], t.dtype) for t in contract.stage(stage).inputs]
    if stage == "text_decoder":
        arrays[1][:] = geometry.max_context - 1
    return arrays


def return_freed_memory() -> None:
    """glibc keeps what an unloaded stage freed, hundreds of megabytes; other C libraries have no such function."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
