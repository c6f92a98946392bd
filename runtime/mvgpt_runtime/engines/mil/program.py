"""A saved CoreML package: its functions, run operator by operator; they share weights and states."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ... import contract
from ...errors import MvgptError
from .. import return_freed_memory
from .operators import DTYPES, OPERATORS
from .weights import mapped_weights

STATE_OPERATORS = ("read_state", "coreml_update_state")
SUMS = ("linear", "conv")  # they compute in float32

Values = dict[str, Any]
Pool = dict[tuple[Any, ...], tuple[torch.Tensor, Values]]


class Package:
    """Loads every function of a `.mlpackage`, with states of zeros.

    Attributes:
        stamp: see the function.

    Raises:
        MvgptError: no such package, or an operator that is not in OPERATORS.
    """

    def __init__(self, path: Path) -> None:
        spec, weights = read_package(path)
        pool = Pool()
        try:
            self.stamp = stamp(spec)
            from coremltools.converters.mil.frontend.milproto.load import load

            with mapped_weights():
                program = load(spec, spec.specificationVersion, file_weights_dir=str(weights))
            self._functions = {name: Function(f, path.name, pool) for name, f in program.functions.items()}
        # coremltools' reader has no class of error of its own; these are what damaged programs make it raise.
        except (ValueError, RuntimeError, KeyError, AssertionError, NotImplementedError, OSError) as e:
            raise unreadable(path, e) from None
        return_freed_memory()
        self._states: dict[str, torch.Tensor] = {}
        for function in self._functions.values():
            for name, (shape, dtype) in function.states.items():
                self._states.setdefault(name, torch.zeros(shape, dtype=dtype))

    def shape(self, function: str, name: str) -> tuple[int, ...]:
        """Of an input."""
        return self._function(function).inputs[name][0]

    def predict(self, function: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name; states go on to the next call, of whichever function."""
        return self._function(function).run(inputs, self._states)

    def _function(self, name: str) -> Function:
        """A package of one function does not say what it is called."""
        return self._functions[name] if len(self._functions) > 1 else next(iter(self._functions.values()))


class Function:
    """One function, as the order of its operators with what each can free afterwards."""

    def __init__(self, function: Any, package: str, pool: Pool) -> None:
        self.inputs: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
        self.states: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
        for name, var in function.inputs.items():
            kind = var.sym_type
            is_state = hasattr(kind, "wrapped_type")
            tensor = kind.wrapped_type() if is_state else kind
            where = self.states if is_state else self.inputs
            where[name] = (tuple(map(int, tensor.get_shape())), _dtype(tensor.get_primitive()))
        self._package = package
        self.outputs = [var.name for var in function.outputs]
        self._constants: Values = {}
        self._steps: list[tuple[Any, list[str]]] = []
        for op in function.operations:
            if op.op_type == "const":
                self._constants[op.outputs[0].name] = _constant(op.outputs[0], pool)
            elif op.op_type not in OPERATORS and op.op_type not in STATE_OPERATORS:
                raise MvgptError(
                    "this runtime cannot evaluate an operator of the CoreML program",
                    stage=package,
                    got=f"{op.op_type} ({op.name})",
                    remedy="run the package on macOS, or add the operator to engines/mil/operators.py",
                )
            elif op.op_type.startswith("constexpr_"):
                self._constants[op.outputs[0].name] = _computed(op, self._arguments(op, self._constants), pool)
            else:
                self._steps.append((op, []))
        self._plan_freeing()

    def run(self, inputs: Mapping[str, np.ndarray], states: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
        values: Values = dict(self._constants)
        for name, (shape, dtype) in self.inputs.items():
            values[name] = torch.from_numpy(np.ascontiguousarray(inputs[name])).to(dtype).reshape(shape)
        with torch.no_grad():
            for op, dead in self._steps:
                if op.op_type == "read_state":
                    results: Any = states[op.input.name]
                elif op.op_type == "coreml_update_state":
                    results = states[op.state.name] = values[op.value.name]
                else:
                    results = self._evaluate(op, values)
                made = results if isinstance(results, tuple) else (results,)
                for var, value in zip(op.outputs, made, strict=True):
                    values[var.name] = value
                for name in dead:
                    del values[name]
        return {name: values[name].numpy().copy() for name in self.outputs}

    def _evaluate(self, op: Any, values: Values) -> Any:
        try:
            return OPERATORS[op.op_type](**self._arguments(op, values))
        except (ValueError, RuntimeError, TypeError, IndexError) as e:
            raise MvgptError(
                "an operator of the CoreML program cannot be evaluated",
                stage=self._package,
                expected=f"{op.op_type} ({op.name})",
                got=e,
            ) from None

    def _arguments(self, op: Any, values: Values) -> Values:
        arguments: Values = {}
        for name, given in op.inputs.items():
            if given is None:
                continue
            if isinstance(given, (tuple, list)):
                arguments[name] = [values[var.name] for var in given]
            else:
                arguments[name] = values[given.name]
        return arguments

    def _plan_freeing(self) -> None:
        kept = {*self._constants, *self.outputs, *self.states}
        for op, dead in reversed(self._steps):
            names = {var.name for var in (*_inputs(op), *op.outputs)} - kept
            dead += sorted(names)
            kept |= names


def read_package(path: Path) -> tuple[Any, Path]:
    """(specification as coremltools' protobuf, folder of the weights). coremltools' own way rewrites Manifest.json."""
    from coremltools.proto import Model_pb2
    from google.protobuf.message import DecodeError

    spec = Model_pb2.Model()
    try:
        manifest = json.loads((path / "Manifest.json").read_text(encoding="utf-8"))
        root = path / "Data" / manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]["path"]
        spec.ParseFromString(root.read_bytes())
    except (OSError, ValueError, KeyError, TypeError, DecodeError) as e:
        raise unreadable(path, e) from None
    return spec, root.parent / "weights"


def stamp(spec: Any) -> Any:
    """What a package says of itself (`contract.stamp`), None if it says nothing."""
    return json.loads(spec.description.metadata.userDefined.get(contract.METADATA_METHOD, "null"))


def unreadable(path: Path, reason: object) -> MvgptError:
    return MvgptError(
        f"{path.name} cannot be read as a CoreML package",
        stage="bundle",
        got=str(reason)[:300],
        remedy="copy or export the bundle again",
    )


def _inputs(op: Any) -> Iterator[Any]:
    for given in op.inputs.values():
        if given is not None:
            yield from given if isinstance(given, (tuple, list)) else (given,)


def _dtype(primitive: Any) -> torch.dtype:
    from coremltools.converters.mil.mil import types

    return DTYPES[types.builtin_to_string(primitive)]


def _constant(var: Any, pool: Pool) -> Any:
    value = var.val
    if isinstance(value, (str, np.str_)):
        return str(value)
    array = np.asarray(value)
    if array.dtype.metadata:  # coremltools marks integers of 4 bits so; they lie in 8
        array = array.view(array.dtype.base)
    if array.dtype in (np.uint16, np.uint32, np.int64):
        array = array.astype(np.int32)
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    if tensor.dtype == torch.float16 and _only_for_sums(var):
        return _once(pool, ("float",), {"x": tensor}, tensor.float)
    return tensor


def _computed(op: Any, arguments: Values, pool: Pool) -> torch.Tensor:
    """What an operator makes of constants."""
    widened = _only_for_sums(op.outputs[0])

    def compute() -> torch.Tensor:
        value = OPERATORS[op.op_type](**arguments)
        return value.float() if widened and value.dtype == torch.float16 else value

    return _once(pool, (op.op_type, widened), arguments, compute)


def _only_for_sums(var: Any) -> bool:
    """Nothing else reads it, so it is stored as these want it: widened once instead of at every call."""
    return bool(var.child_ops) and all(op.op_type in SUMS for op in var.child_ops)


def _once(pool: Pool, how: tuple[Any, ...], made_of: Values, make: Callable[[], torch.Tensor]) -> torch.Tensor:
    """`make()`, or what it made of the same memory for another function of the package."""
    key = (*how, *((name, x.data_ptr(), x.dtype, x.shape) for name, x in sorted(made_of.items())))
    if key not in pool:
        pool[key] = (make(), made_of)  # which has to live as long as its addresses are a key
    return pool[key][0]
