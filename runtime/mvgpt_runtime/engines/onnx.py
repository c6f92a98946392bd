"""Engine on ONNX Runtime, on the CPU."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from .. import contract
from ..errors import MvgptError
from ..manifest import Bundle
from . import check_inputs, check_stamp, return_freed_memory, zero_inputs

REMEDY = "pip install 'mvgpt[onnx]'"
# Of a decoder: keys and values of all positions, in and out by these names, Hugging Face's; layer and part follow.
PAST, PRESENT = "past_key_values.", "present."
OPTIONS = {
    # Each session has threads of its own, which would wait for its next call on the cores that another's need.
    "session.force_spinning_stop": "1",
    # Without VNNI, products of unsigned and signed bytes overflow on x86.
    "session.x64quantprecision": "1",
}


@dataclass(frozen=True)
class Model:
    """A session and, of a decoder, its cache: the same memory as input and as output, so that new rows are all that is
    written to it."""

    session: Any  # onnxruntime.InferenceSession
    binding: Any | None  # onnxruntime.IOBinding with the cache


class OnnxEngine:
    """See `Engine`. Graphs' weights are memory-mapped by ONNX Runtime, and those of products copied into its layout."""

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self._runtime, self._bundle, self._threads = _runtime(), bundle, threads
        self._models: dict[str, Model] = {}  # by stage

    def load(self, stage: str) -> None:
        if stage not in self._models:
            self._models[stage] = self._load(stage)

    def unload(self, stage: str) -> None:
        unit = contract.stage(stage).unit
        loaded = [name for name in self._models if contract.stage(name).unit == unit]
        for name in loaded:
            del self._models[name]
        if loaded:
            return_freed_memory()

    def prewarm(self, stage: str) -> None:
        self.run(stage, zero_inputs(stage, self._bundle.geometry))

    def run(self, stage: str, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        check_inputs(stage, inputs, self._bundle.geometry)
        self.load(stage)
        model, described = self._models[stage], contract.stage(stage)
        feeds = {t.name: np.ascontiguousarray(a) for t, a in zip(described.inputs, inputs, strict=True)}
        names = [t.name for t in described.outputs]
        try:
            if model.binding is None:
                return list(model.session.run(names, feeds))
            for name, array in feeds.items():
                model.binding.bind_cpu_input(name, array)
            for name in names:
                model.binding.bind_output(name)
            model.session.run_with_iobinding(model.binding)
            return [value.numpy() for value in model.binding.get_outputs()[: len(names)]]
        except self._errors() as e:
            raise MvgptError("ONNX Runtime could not run the stage", stage=stage, got=e) from None

    def _load(self, stage: str) -> Model:
        file = self._bundle.manifest.stages[stage].file
        path = self._bundle.file(file)
        options = self._runtime.SessionOptions()
        options.log_severity_level = 4  # errors are raised
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        for name, value in OPTIONS.items():
            options.add_session_config_entry(name, value)
        try:
            session = self._runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            stamp = json.loads(session.get_modelmeta().custom_metadata_map.get(contract.METADATA_METHOD, "null"))
        except self._errors() as e:
            raise MvgptError(f"ONNX Runtime cannot load {file}", stage=stage, got=e) from None
        check_stamp(self._bundle, file, stamp)
        cache = [i for i in session.get_inputs() if i.name.startswith(PAST)]
        return Model(session, self._binding(session, stage, cache) if cache else None)

    def _binding(self, session: Any, stage: str, cache: Sequence[Any]) -> Any:
        binding = session.io_binding()
        for output in contract.stage(stage).outputs:  # its values come in the order in which they were bound
            binding.bind_output(output.name)
        for tensor in cache:
            memory = self._runtime.OrtValue.ortvalue_from_numpy(np.zeros(tensor.shape, np.float32))
            binding.bind_ortvalue_input(tensor.name, memory)
            binding.bind_ortvalue_output(tensor.name.replace(PAST, PRESENT), memory)
        return binding

    def _errors(self) -> tuple[type[Exception], ...]:
        """What ONNX Runtime raises, classes with no base of their own, and what a stamp that is no JSON does."""
        state = self._runtime.capi.onnxruntime_pybind11_state
        own = [c for c in vars(state).values() if isinstance(c, type) and issubclass(c, Exception)]
        return (*own, RuntimeError, ValueError)


def read_operators(path: Path) -> dict[str, int]:
    """The operators of a model's graph by name, with counts; a Scan's body is part of its Scan."""
    try:
        import onnx
    except ModuleNotFoundError:
        raise _missing("onnx", "inspect") from None
    graph = onnx.load(str(path), load_external_data=False).graph
    return dict(sorted(Counter(f"{node.domain}::{node.op_type}".removeprefix("::") for node in graph.node).items()))


def _runtime() -> ModuleType:
    try:
        import onnxruntime
    except ModuleNotFoundError:
        raise _missing("onnxruntime", "bundle") from None
    return onnxruntime


def _missing(package: str, stage: str) -> MvgptError:
    return MvgptError("a package for ONNX bundles is not installed", stage=stage, expected=package, remedy=REMEDY)
