"""Engines run stages. Every backend is one, with the same four methods; hosts see nothing else of a backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from .. import contract
from ..contract import Geometry
from ..errors import MvgptError
from ..manifest import Bundle


class Engine(Protocol):
    """Runs a bundle's stages on one backend. Not thread-safe: one call at a time."""

    def load(self, stage: str) -> None:
        """Load the file of `stage`, if it is not loaded. Raises MvgptError if it does not fit bundle or runtime."""

    def unload(self, stage: str) -> None:
        """Free the file of `stage` (and of every stage in it, and a KV cache in it); a later call loads it again."""

    def prewarm(self, stage: str) -> None:
        """Load `stage` and run it once on zeros, so that the next call is as fast as any. Overwrites the last position
        of the KV cache."""

    def run(self, stage: str, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Run `stage` on arrays in the contract's order; outputs likewise, owned by the caller."""


def open_engine(bundle: Bundle, threads: int | None = None) -> Engine:
    """The engine for the bundle's backend. `threads`: size of the process-wide pool (None: the backend's choice)."""
    from .executorch import ExecuTorchEngine

    engines = {"xnnpack": ExecuTorchEngine}
    backend = bundle.manifest.backend
    if backend not in engines:
        raise MvgptError(
            "this runtime has no engine for the backend", stage="bundle", expected=list(engines), got=backend
        )
    return engines[backend](bundle, threads)


def check_inputs(stage: str, inputs: Sequence[np.ndarray], geometry: Geometry) -> None:
    """MvgptError unless number, dtypes and shapes of `inputs` are what the contract says of `stage`."""
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


def zero_inputs(stage: str, geometry: Geometry) -> list[np.ndarray]:
    """Smallest valid inputs of `stage`, all zero; a text_decoder row at the last position, where it disturbs least."""
    arrays = [np.zeros([least for least, _ in t.shape(geometry)], t.dtype) for t in contract.stage(stage).inputs]
    if stage == "text_decoder":
        arrays[1][:] = geometry.max_context - 1
    return arrays
