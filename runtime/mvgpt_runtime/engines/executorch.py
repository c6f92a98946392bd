"""Engine on ExecuTorch: the runtime that the Android and iOS packages embed, through its Python bindings."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakSet

import numpy as np

from .. import contract, kernels
from ..errors import MvgptError
from ..manifest import Bundle
from . import check_inputs, check_stamp, return_freed_memory, zero_inputs

# Kernel libraries inside the executorch package, by operator namespace; loaded when a bundle needs them.
KERNEL_LIBRARIES = {
    "llama": "extension/llm/custom_ops/libcustom_ops_aot_lib.*",
    "quantized_decomposed": "kernels/quantized/libquantized_ops_aot_lib.*",
}


class ExecuTorchEngine:
    """See `Engine`. Programs are memory-mapped; a stage's method is loaded when it is first used."""

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self._runtime, self._bundle = _runtime(), bundle
        if threads is not None:
            _set_threads(threads)
        self._programs: dict[str, Any] = {}  # by file
        # By stage. Methods of a program share an arena, in which one may overwrite what another left; a KV cache is
        # safe, because state is planned into an arena of its own.
        self._methods: dict[str, Any] = {}
        _ENGINES.add(self)

    def load(self, stage: str) -> None:
        if stage not in self._methods:
            self._methods[stage] = self._load(stage)

    def unload(self, stage: str) -> None:
        file = self._bundle.manifest.stages[stage].file
        for name, info in self._bundle.manifest.stages.items():
            if info.file == file:
                self._methods.pop(name, None)
        if self._programs.pop(file, None) is not None:
            return_freed_memory()

    def prewarm(self, stage: str) -> None:
        self.run(stage, zero_inputs(stage, self._bundle.geometry))

    def run(self, stage: str, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        import torch

        check_inputs(stage, inputs, self._bundle.geometry)
        self.load(stage)
        tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in inputs]
        try:
            outputs = self._methods[stage](tensors, clone_outputs=False)
        except RuntimeError as e:
            raise MvgptError("ExecuTorch could not run the stage", stage=stage, got=e) from None
        # Out of the method's memory by numpy: torch's copy of a logits vector wakes its own threads, which then spin
        # for milliseconds on the cores that the next step needs.
        return [tensor.numpy().copy() for tensor in outputs]

    def _load(self, stage: str) -> Any:
        info = self._bundle.manifest.stages[stage]
        operators = self._bundle.manifest.files[info.file].operators
        with native_log() as log:
            for namespace in {name.partition("::")[0] for name in operators}:
                _load_kernels(namespace)
            if missing := sorted(set(operators) - set(self._runtime._get_operator_names())):
                raise MvgptError(
                    f"this runtime lacks operators that {info.file} needs",
                    stage=stage,
                    expected=", ".join(missing),
                    remedy=kernels.REMEDY
                    if missing[0].startswith(kernels.NAMESPACE)
                    else "use a runtime built with them",
                )
            try:
                if (program := self._programs.get(info.file)) is None:
                    program = self._open(self._bundle.file(info.file))
                    stamp = json.loads(program.load_method(contract.METADATA_METHOD)([])[0])
                    check_stamp(self._bundle, info.file, stamp)
                method = program.load_method(info.method)
            except (RuntimeError, ValueError, IndexError, TypeError) as e:
                raise MvgptError(
                    f"ExecuTorch cannot load {info.file}", stage=stage, got=f"{e} {log()}".strip()
                ) from None
        self._programs[info.file] = program
        return method

    def _open(self, path: Path) -> Any:
        return self._runtime._load_program(str(path))


_ENGINES: WeakSet[ExecuTorchEngine] = WeakSet()


def _set_threads(threads: int) -> None:
    """Make the process's thread pool anew. Loaded methods would go on using the one before, which is freed.

    Raises:
        MvgptError: some engine has methods loaded, and the pool has another size.
    """
    runtime = _runtime()
    with native_log():
        current = runtime._threadpool_get_thread_count()
    if threads == current:
        return
    if any(engine._methods for engine in _ENGINES):
        raise MvgptError(
            "the number of threads cannot change while stages are loaded: all sessions share one pool",
            stage="session",
            expected=current,
            got=threads,
            remedy="give every session of the process the same number, or drop the others first",
        )
    with native_log():
        runtime._unsafe_reset_threadpool(threads)


def _runtime() -> Any:
    """ExecuTorch's bindings. The public module around them also imports the export compiler, which takes 2.5 s."""
    import torch  # noqa: F401  the bindings link to its libraries
    from executorch.extension.pybindings import _C

    return _C


def _load_kernels(namespace: str) -> None:
    if namespace == kernels.NAMESPACE and kernels.available():
        kernels.load()
    if (pattern := KERNEL_LIBRARIES.get(namespace)) is None:
        return
    import torch

    spec = importlib.util.find_spec("executorch")
    roots = spec.submodule_search_locations if spec else None
    for path in (p for root in roots or () for p in Path(root).glob(pattern)):
        torch.ops.load_library(str(path))  # loading it again does nothing


@contextmanager
def native_log() -> Iterator[Callable[[], str]]:
    """Keep what native code writes to stderr off the terminal; the value is a function that returns it, condensed.

    ExecuTorch logs dozens of lines about CPU files and operator tables; an error should be one message.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as sink:
        saved = os.dup(2)
        os.dup2(sink.fileno(), 2)

        def text() -> str:
            sink.seek(0)
            lines = sink.read().decode(errors="replace").splitlines()
            return "; ".join(re.sub(r"^\[\S+\] ?", "", line) for line in lines if "issing" in line or "rror" in line)[
                :500
            ]

        try:
            yield text
        finally:
            os.dup2(saved, 2)
            os.close(saved)
