"""MIL's operators as the evaluator has them, against what coremltools infers of constants; a package read back."""

from __future__ import annotations

import mmap
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from coremltools.converters.mil.mil import Builder as mb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mvgpt_runtime.engines.mil.operators import OPERATORS
from mvgpt_runtime.engines.mil.program import STATE_OPERATORS, Package, read_package
from mvgpt_runtime.engines.mil.weights import mapped_weights
from mvgpt_runtime.errors import MvgptError

# float16's step is 2⁻¹¹; float32 sums go in another order.
CLOSE = {np.float16: 2e-3, np.float32: 2e-6}

random = np.random.default_rng(0)


def numbers(*shape: int, dtype: type = np.float32) -> np.ndarray:
    return random.standard_normal(shape).astype(dtype)


def whole(*shape: int, low: int = -9, high: int = 9) -> np.ndarray:
    return random.integers(low, high, shape).astype(np.int32)


def inferred(operator: str, arguments: dict[str, Any]) -> list[np.ndarray]:
    """What coremltools itself computes of constant inputs."""
    found: list[np.ndarray] = []

    @mb.program(input_specs=[mb.TensorSpec((1,))], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        outputs = getattr(mb, operator)(**arguments)
        for output in outputs if isinstance(outputs, (tuple, list)) else [outputs]:
            value = output.val if output.val is not None else output.op.materialized_val_inference()
            found.append(np.asarray(value))
        return mb.identity(x=x)

    return found


def evaluated(operator: str, arguments: dict[str, Any]) -> list[np.ndarray]:
    def tensor(value: Any) -> Any:
        if isinstance(value, str):
            return value
        if isinstance(value, list) and isinstance(value[0], np.ndarray):
            return [tensor(v) for v in value]
        array = np.asarray(value)
        return torch.from_numpy(np.array(array.astype(np.int32) if array.dtype == np.int64 else array))

    results = OPERATORS[operator](**{name: tensor(value) for name, value in arguments.items()})
    return [r.numpy() for r in (results if isinstance(results, tuple) else (results,))]


MATRIX, CUBE = numbers(3, 5), numbers(2, 3, 4)
POSITIVE = np.abs(numbers(3, 4)) + 0.1
AGAINST_INFERENCE: list[tuple[str, dict[str, Any]]] = [
    ("cast", {"x": MATRIX * 3, "dtype": "int32"}),
    ("cast", {"x": whole(4), "dtype": "fp32"}),
    ("cast", {"x": whole(4) > 0, "dtype": "fp16"}),
    ("cast", {"x": MATRIX, "dtype": "fp16"}),
    ("reshape", {"x": CUBE, "shape": [4, -1]}),
    ("reshape", {"x": CUBE, "shape": [0, 2, 6]}),
    ("transpose", {"x": CUBE, "perm": [2, 0, 1]}),
    ("transpose", {"x": CUBE, "perm": [0, -1, 1]}),
    ("expand_dims", {"x": MATRIX, "axes": [0, -1]}),
    ("squeeze", {"x": numbers(1, 3, 1), "axes": [0]}),
    ("shape", {"x": CUBE}),
    ("concat", {"values": [MATRIX, numbers(2, 5)], "axis": 0}),
    ("concat", {"values": [MATRIX, numbers(3, 5)], "axis": -1}),
    ("stack", {"values": [MATRIX, numbers(3, 5)], "axis": 1}),
    ("split", {"x": CUBE, "axis": 2, "split_sizes": [1, 3]}),
    ("split", {"x": CUBE, "axis": -1, "num_splits": 2}),
    ("tile", {"x": MATRIX, "reps": [2, 3]}),
    ("fill", {"shape": [2, 3], "value": np.float32(1.5)}),
    ("range_1d", {"start": 2, "end": 11, "step": 3}),
    ("slice_by_index", {"x": CUBE, "begin": [0, 1, 1], "end": [2, 3, 4], "stride": [1, 1, 2]}),
    ("slice_by_index", {"x": CUBE, "begin": [0, -2, 0], "end": [0, 0, 3],
                        "begin_mask": [True, False, False], "end_mask": [True, True, False]}),
    ("slice_by_index", {"x": CUBE, "begin": [1, 2, 3], "end": [0, 0, 0], "stride": [1, -1, -2],
                        "end_mask": [False, True, True], "squeeze_mask": [True, False, False]}),
    ("slice_by_size", {"x": CUBE, "begin": [0, 1, 2], "size": [2, -1, 2]}),
    ("slice_update", {"x": CUBE, "update": numbers(2, 2, 4), "begin": [0, 1, 0], "end": [2, 3, 4]}),
    ("slice_update", {"x": CUBE, "update": numbers(1, 3, 2), "begin": [1, 0, 0], "end": [2, 0, 4],
                      "stride": [1, 1, 2], "end_mask": [False, True, False]}),
    ("gather", {"x": CUBE, "indices": [2, 0, -1], "axis": 1, "validate_indices": False}),
    ("gather", {"x": MATRIX, "indices": whole(2, 3, low=0, high=3), "axis": 0, "validate_indices": False}),
    ("gather", {"x": CUBE, "indices": [[0, 2], [1, 1]], "axis": 1, "batch_dims": 1, "validate_indices": False}),
    ("gather_along_axis", {"x": MATRIX, "indices": whole(3, 2, low=0, high=5), "axis": 1, "validate_indices": False}),
    *((name, {"x": numbers(3, 4), "y": numbers(4)})
      for name in ("add", "sub", "mul", "maximum", "minimum", "real_div", "less", "less_equal", "greater", "equal")),
    *((name, {"x": whole(6), "y": whole(6)}) for name in ("add", "greater_equal", "not_equal", "equal", "minimum")),
    *((name, {"x": whole(9), "y": np.int32(4)}) for name in ("floor_div", "mod")),
    *((name, {"x": numbers(3, 4, dtype=np.float16), "y": numbers(4, dtype=np.float16)})
      for name in ("add", "mul", "real_div")),
    ("pow", {"x": POSITIVE, "y": np.float32(1.7)}),
    *((name, {"x": whole(8) > 0, "y": whole(8) > 0}) for name in ("logical_and", "logical_or")),
    ("logical_not", {"x": whole(8) > 0}),
    *((name, {"x": numbers(3, 4)})
      for name in ("abs", "square", "exp", "sigmoid", "tanh", "relu", "erf")),
    *((name, {"x": POSITIVE}) for name in ("sqrt", "rsqrt", "inverse")),
    ("rsqrt", {"x": POSITIVE, "epsilon": np.float32(0.25)}),
    ("clip", {"x": MATRIX, "alpha": np.float32(-0.5), "beta": np.float32(0.25)}),
    ("select", {"cond": MATRIX > 0, "a": MATRIX, "b": numbers(3, 5)}),
    ("gelu", {"x": CUBE * 3, "mode": "EXACT"}),
    ("gelu", {"x": CUBE * 3, "mode": "TANH_APPROXIMATION"}),
    ("gelu", {"x": CUBE * 3, "mode": "SIGMOID_APPROXIMATION"}),
    ("softmax", {"x": CUBE * 5, "axis": -1}),
    ("softmax", {"x": CUBE, "axis": 1}),
    ("layer_norm", {"x": CUBE, "axes": [-1], "gamma": numbers(4), "beta": numbers(4), "epsilon": np.float32(1e-3)}),
    ("linear", {"x": numbers(2, 3, 5), "weight": numbers(4, 5), "bias": numbers(4)}),
    ("linear", {"x": numbers(3, 5), "weight": numbers(4, 5)}),
    ("linear", {"x": numbers(3, 5, dtype=np.float16), "weight": numbers(4, 5, dtype=np.float16)}),
    ("matmul", {"x": numbers(2, 3, 5), "y": numbers(2, 5, 4)}),
    ("matmul", {"x": numbers(2, 5, 3), "y": numbers(4, 5), "transpose_x": True, "transpose_y": True}),
    *((name, {"x": CUBE, "axes": axes, "keep_dims": keep})
      for name in ("reduce_sum", "reduce_mean", "reduce_max", "reduce_min")
      for axes, keep in (([-1], True), ([0, 2], False))),
    ("topk", {"x": MATRIX, "k": 2, "axis": 1}),
    ("topk", {"x": MATRIX, "k": 2, "axis": 0, "ascending": True}),
    ("constexpr_blockwise_shift_scale", {"data": whole(4, 6).astype(np.int8),
                                         "scale": POSITIVE[:2, :3].astype(np.float16)}),
    ("constexpr_blockwise_shift_scale", {"data": whole(4, 6).astype(np.int8), "scale": np.abs(numbers(4, 1)) + 0.1,
                                         "offset": whole(4, 1).astype(np.int8)}),
    ("identity", {"x": MATRIX}),
]  # fmt: skip


@pytest.mark.parametrize(("operator", "arguments"), AGAINST_INFERENCE, ids=lambda v: v if isinstance(v, str) else "")
def test_as_coremltools_infers(operator: str, arguments: dict[str, Any]) -> None:
    expected, got = inferred(operator, arguments), evaluated(operator, arguments)
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        assert (a.dtype.kind, a.itemsize) == (b.dtype.kind, b.itemsize)
        if a.dtype.kind == "f":
            np.testing.assert_allclose(a, b, rtol=CLOSE[a.dtype.type], atol=CLOSE[a.dtype.type])
        else:
            np.testing.assert_array_equal(a, b)


CONVOLUTIONS: list[dict[str, Any]] = [
    {"strides": [2, 2], "pad_type": "valid"},
    {"pad_type": "custom", "pad": [1, 2, 0, 1], "groups": 2},
    {"pad_type": "same", "strides": [2, 1], "dilations": [1, 2]},
]


@pytest.mark.parametrize("options", CONVOLUTIONS, ids=lambda o: o["pad_type"])
def test_conv_as_a_float64_loop(options: dict[str, Any]) -> None:
    """coremltools infers its shape only."""
    groups = options.get("groups", 1)
    x, weight, bias = numbers(1, 4, 7, 6), numbers(6, 4 // groups, 3, 2), numbers(6)
    (got,) = evaluated("conv", {"x": x, "weight": weight, "bias": bias, **options})

    @mb.program(input_specs=[mb.TensorSpec(x.shape)], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        return mb.conv(x=x, weight=weight, bias=bias, **options)

    shape = program.functions["main"].outputs[0].shape
    assert got.shape == shape
    step, apart = options.get("strides", [1, 1]), options.get("dilations", [1, 1])
    before = [options.get("pad", [0] * 4)[0], options.get("pad", [0] * 4)[2]]
    if options["pad_type"] == "same":
        for i in range(2):
            total = (shape[2 + i] - 1) * step[i] + (weight.shape[2 + i] - 1) * apart[i] + 1 - x.shape[2 + i]
            before[i] = max(0, total) // 2
    for out, row, column in [(0, 0, 0), (5, shape[2] - 1, shape[3] - 1), (3, 1, 2)]:
        total = float(bias[out])
        for c, i, j in np.ndindex(*weight.shape[1:]):
            y, z = row * step[0] - before[0] + i * apart[0], column * step[1] - before[1] + j * apart[1]
            if 0 <= y < x.shape[2] and 0 <= z < x.shape[3]:
                channel = out // (6 // groups) * (4 // groups) + c
                total += float(weight[out, c, i, j]) * float(x[0, channel, y, z])
        assert got[0, out, row, column] == pytest.approx(total, abs=1e-5)


def test_activations_as_torch_in_float64() -> None:
    x = torch.linspace(-6, 6, 101)
    wide = x.double()
    expected = {
        "silu": F.silu(wide),
        "EXACT": F.gelu(wide),
        "TANH_APPROXIMATION": F.gelu(wide, approximate="tanh"),
        "SIGMOID_APPROXIMATION": wide * torch.sigmoid(1.702 * wide),
    }
    for name, value in expected.items():
        got = OPERATORS["silu"](x) if name == "silu" else OPERATORS["gelu"](x, mode=name)
        torch.testing.assert_close(got.double(), value, rtol=1e-5, atol=1e-6)


def test_every_operator_is_tested() -> None:
    assert set(OPERATORS) == {name for name, _ in AGAINST_INFERENCE} | {"conv", "silu"}


def save(program: Any, path: Path) -> Path:
    ct.convert(
        program, convert_to="mlprogram", minimum_deployment_target=ct.target.iOS18, skip_model_load=True,
        compute_precision=ct.precision.FLOAT32, pass_pipeline=ct.PassPipeline.EMPTY,
    ).save(str(path))  # fmt: skip
    return path


def test_a_package_with_states_and_small_integers(tmp_path: Path) -> None:
    """Weights of 4 and 8 bits are read as what was stored; a state goes on from call to call."""
    values, scales = whole(4, 64, low=-8, high=8), np.abs(numbers(4, 2)) + 0.1
    four_bits = values.astype(ct.converters.mil.mil.types.np_int4_dtype)
    bytes_ = whole(4, 64, low=-128, high=128).astype(np.int8)

    @mb.program(
        input_specs=[mb.TensorSpec((1, 64)), mb.StateTensorSpec((1, 4), dtype=ct.converters.mil.mil.types.fp16)],
        opset_version=ct.target.iOS18,
    )
    def program(x: Any, total: Any) -> Any:
        first = mb.constexpr_blockwise_shift_scale(data=four_bits, scale=scales)
        second = mb.constexpr_blockwise_shift_scale(data=bytes_, scale=scales[:, :1])
        y = mb.add(x=mb.linear(x=x, weight=first), y=mb.linear(x=x, weight=second))
        y = mb.add(x=mb.cast(x=mb.read_state(input=total), dtype="fp32"), y=y)
        kept = mb.coreml_update_state(state=total, value=mb.cast(x=y, dtype="fp16"))
        return mb.cast(x=kept, dtype="fp32", name="sum")

    package = Package(save(program, tmp_path / "sum.mlpackage"))
    weight = values * scales.repeat(32, axis=1) + bytes_ * scales[:, :1]
    expected = np.zeros((1, 4), np.float16)
    for _ in range(2):
        x = numbers(1, 64) / 100
        expected = (expected.astype(np.float32) + x @ weight.T).astype(np.float16)
        np.testing.assert_allclose(package.predict("main", {"x": x})["sum"], expected, rtol=2e-3)


def test_an_unknown_operator_is_named(tmp_path: Path) -> None:
    @mb.program(input_specs=[mb.TensorSpec((2, 3))], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        return mb.cumsum(x=x, axis=0)

    assert "cumsum" not in {*OPERATORS, *STATE_OPERATORS}
    with pytest.raises(MvgptError, match=r"cannot evaluate[\s\S]*cumsum"):
        Package(save(program, tmp_path / "other.mlpackage"))


# --- weights, which stay in the file ----------------------------------------------------------------------------------

STORED = {
    "float32": numbers(64, 33),
    "float16": numbers(64, 33, dtype=np.float16),
    "int8": whole(64, 33, low=-128, high=127).astype(np.int8),
    "uint8": whole(64, 33, low=0, high=255).astype(np.uint8),
    "uint16": whole(64, 33, low=0, high=65535).astype(np.uint16),
    "int32": whole(64, 33, low=-(2**31), high=2**31 - 1),
    "int4": whole(63, 33, low=-8, high=7).astype(ct.converters.mil.mil.types.np_int4_dtype),
}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nothing but constants."""

    @mb.program(input_specs=[mb.TensorSpec((1,))], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        outputs = [mb.identity(x=x)]
        for name, value in STORED.items():
            constant = mb.const(val=value, name=name)
            if name in ("float32", "float16", "int32"):
                outputs.append(mb.identity(x=constant))
            elif name == "uint16":
                outputs.append(mb.cast(x=constant, dtype="int32"))
            else:
                scale = np.ones((value.shape[0], 1), np.float32)
                outputs.append(mb.identity(x=mb.constexpr_blockwise_shift_scale(data=constant, scale=scale)))
        return tuple(outputs)

    return save(program, tmp_path_factory.mktemp("stored") / "stored.mlpackage")


def constants(package: Path, *, mapped: bool) -> list[np.ndarray]:
    from coremltools.converters.mil.frontend.milproto.load import load

    spec, weights = read_package(package)
    with mapped_weights() if mapped else nullcontext():
        program = load(spec, spec.specificationVersion, file_weights_dir=str(weights))
    values = [op.outputs[0].val for op in program.functions["main"].operations if op.op_type == "const"]
    return [value for value in values if np.size(value) > 1000]


def test_weights_are_those_that_coremltools_reads(stored: Path) -> None:
    both = constants(stored, mapped=True), constants(stored, mapped=False)
    for (name, value), ours, theirs in zip(STORED.items(), *both, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(theirs, value)
        np.testing.assert_array_equal(ours, value)
        root: Any = ours
        while isinstance(root, np.ndarray) and root.base is not None:
            root = root.base
        assert isinstance(root, mmap.mmap) == (name != "int4")


@given(place=st.integers(0, 2**13), damaged=st.sampled_from(("cut", "flipped")))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_weight_file(stored: Path, tmp_path: Path, place: int, damaged: str) -> None:
    """Is refused as a package, or is one with other numbers."""
    copy = tmp_path / "copy.mlpackage"
    shutil.copytree(stored, copy, dirs_exist_ok=True)
    file = read_package(copy)[1] / "weight.bin"
    data = bytearray(file.read_bytes())
    data = data[:place] if damaged == "cut" else data
    if damaged == "flipped":
        data[place] ^= 255
    file.write_bytes(data)
    why = refusal(copy)
    assert why == "copy.mlpackage cannot be read as a CoreML package" or (damaged == "flipped" and not why)


def refusal(package: Path) -> str:
    try:
        Package(package)
    except MvgptError as e:
        return e.what
    return ""
