"""Engine on CoreML packages, also inside ExecuTorch programs: Apple's runtime on macOS, else the evaluator in mil/,
which is exact and slow.

Packages have fixed shapes and no integers of 8 or 64 bits; what the contract says otherwise is made good here: frames
go in as float32, ids and positions as int32, and rows in calls of as many as a function takes, the last of them padded.
"""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np

from .. import contract
from ..contract import LANGUAGE_STAGES
from ..errors import MvgptError
from ..manifest import Bundle
from . import check_inputs, check_stamp, return_freed_memory, zero_inputs
from .compute_units import UNITS_VARIABLE, compute_units
from .program import read_payloads

ONE_ROW = "_1"
"""Ends the name of a language stage's function for a single row; the one called as the stage takes many."""
EIGHT_FRAMES = "_8"
"""Ends the name of the image encoder's function for eight frames, for hosts that have them at once. This engine calls
the one for a single frame, as a host of a live video does."""
LAST_ROW = "last_row"
"""Input of the text decoder besides the contract's: int32 [1], the last row that is no padding."""
CASTS = {"uint8": np.float32, "int64": np.int32}
"""By the contract's dtype, what CoreML has instead. All values that occur are exact in it."""


class Model(Protocol):
    """A loaded package, and its states."""

    stamp: Any

    def shape(self, function: str, name: str) -> tuple[int, ...]: ...

    def predict(self, function: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]: ...


class CoreMLEngine:
    """See `Engine`. `threads` has no meaning: CoreML chooses, and so does torch."""

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self._bundle, self._units = bundle, compute_units()
        self._models: dict[str, Model] = {}  # by package

    def load(self, stage: str) -> None:
        file = self._bundle.manifest.stages[stage].file
        if file not in self._models:
            model = _open(self._bundle.file(file), self._units)
            check_stamp(self._bundle, file, model.stamp)
            self._models[file] = model

    def unload(self, stage: str) -> None:
        unit = contract.stage(stage).unit
        if loaded := [file for file in self._models if contract.unit(file) == unit]:
            for file in loaded:
                del self._models[file]
            return_freed_memory()

    def prewarm(self, stage: str) -> None:
        inputs = zero_inputs(stage, self._bundle.geometry)
        self.run(stage, inputs)
        if stage in LANGUAGE_STAGES and self._bundle.manifest.stages[stage].backend == "coreml":
            list(self._by_rows(stage, _cast(stage, inputs), few=False))  # that was the function for one row

    def run(self, stage: str, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        check_inputs(stage, inputs, self._bundle.geometry)
        self.load(stage)
        given = _cast(stage, inputs)
        if stage not in LANGUAGE_STAGES:
            return self._predict(stage, "", given)
        parts = list(self._by_rows(stage, given))
        return parts[-1] if stage == "text_decoder" else [np.concatenate([part[0] for part in parts], axis=1)]

    def _by_rows(self, stage: str, given: dict[str, np.ndarray], *, few: bool = True) -> Iterator[list[np.ndarray]]:
        """The stage's outputs [1, rows, …] for as many rows at a time as a function takes; `few`: or for one."""
        info = self._bundle.manifest.stages[stage]
        name = contract.stage(stage).inputs[0].name
        rows = given[name]
        most = self._models[info.file].shape(info.method, name)[1]
        for first in range(0, rows.shape[1], most):
            part = rows[:, first : first + most]
            count = part.shape[1]
            call = {name: part}
            if stage == "text_decoder":
                call["start_pos"] = given["start_pos"] + np.int32(first)
                call[LAST_ROW] = np.array([count - 1], np.int32)
            one = few and count == 1 and self._bundle.manifest.stages[stage].backend == "coreml"
            if not one:
                call[name] = np.concatenate([part, np.zeros((1, most - count, *part.shape[2:]), part.dtype)], axis=1)
            outputs = self._predict(stage, ONE_ROW if one else "", call)
            yield outputs if stage == "text_decoder" else [outputs[0][:, :count]]

    def _predict(self, stage: str, suffix: str, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        info = self._bundle.manifest.stages[stage]
        outputs = self._models[info.file].predict(info.method + suffix, inputs)
        return [np.asarray(outputs[t.name]).astype(t.dtype) for t in contract.stage(stage).outputs]


def _cast(stage: str, inputs: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """By name, as CoreML has them."""
    tensors = contract.stage(stage).inputs
    return {t.name: array.astype(CASTS.get(t.dtype, array.dtype)) for t, array in zip(tensors, inputs, strict=True)}


def _open(path: Path, units: str) -> Model:
    try:
        _import_quietly()
        if path.suffix == ".pte":
            return Delegate(path, units)
        if sys.platform == "darwin":
            return AppleModel(path, units)
        from .mil.program import Package

        return Package(path)
    except ImportError as e:
        raise MvgptError(
            "coremltools is not installed", stage="bundle", got=e, remedy="pip install 'mvgpt[coreml]'"
        ) from None


class Delegate:
    """The package inside a `.pte` file that is one CoreML delegate."""

    def __init__(self, path: Path, units: str) -> None:
        self._folder = TemporaryDirectory()
        self._model = _open(unpack(path, Path(self._folder.name)), units)
        self.stamp = self._model.stamp
        self.shape, self.predict = self._model.shape, self._model.predict


def unpack(path: Path, folder: Path) -> Path:
    """The package in the only delegate of the program `path`, written below `folder`; MvgptError if there is none."""
    from executorch.backends.apple.coreml import executorchcoreml

    payloads = read_payloads(path, "CoreMLBackend")
    if len(payloads) != 1 or not executorchcoreml.unflatten_directory_contents(payloads[0], str(folder)):
        raise MvgptError(
            f"{path.name} is not one CoreML delegate", stage="bundle", expected="1", got=f"{len(payloads)} delegates",
            remedy="copy or export the bundle again",
        )  # fmt: skip
    return next(folder.rglob("*.mlpackage"))


def _import_quietly() -> None:
    """coremltools warns about the parts that it has on macOS only, and about releases of torch."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        import coremltools  # noqa: F401
    finally:
        logging.disable(disabled)


class AppleModel:
    """A package in Apple's runtime. Written against coremltools' documentation; it never ran on a Mac.

    Args:
        units: of COMPUTE_UNITS.
    """

    def __init__(self, path: Path, units: str) -> None:
        from .mil.program import read_package, stamp

        spec, _ = read_package(path)
        self.stamp = stamp(spec)
        self._described = {f.name: f for f in spec.description.functions} or {"main": spec.description}
        self._folder = TemporaryDirectory()  # coremltools writes to a package that it opens
        self._path = Path(self._folder.name) / path.name
        shutil.copytree(path, self._path)
        self._units = units
        self._models: dict[str, Any] = {}  # by function
        self._state: Any = None

    def shape(self, function: str, name: str) -> tuple[int, ...]:
        inputs = self._described[self._name(function)].input
        return next(tuple(i.type.multiArrayType.shape) for i in inputs if i.name == name)

    def predict(self, function: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        # coremltools raises bare Exceptions, and the call after a failed compilation is what tells of it.
        try:
            return self._predict(self._name(function), inputs)
        except Exception as e:  # noqa: BLE001
            reason = next((m._framework_error for m in self._models.values() if m._framework_error), e)
            raise MvgptError(
                f"CoreML could not run {function}",
                stage="bundle",
                got=reason,
                remedy=f"{UNITS_VARIABLE}=cpu_only shows whether a device's kernel is at fault",
            ) from None

    def _predict(self, name: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if name not in self._models:
            from coremltools import ComputeUnit
            from coremltools.models import MLModel

            self._models[name] = MLModel(
                str(self._path),
                compute_units=ComputeUnit[self._units.upper()],
                function_name=None if name == "main" else name,
            )
        if not self._described[name].state:
            return dict(self._models[name].predict(dict(inputs)))
        if self._state is None:  # one for all functions, which declare the same states
            self._state = self._models[name].make_state()
        return dict(self._models[name].predict(dict(inputs), state=self._state))

    def _name(self, function: str) -> str:
        return function if function in self._described else "main"
