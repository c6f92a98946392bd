"""The fused operators of the video encoder: against float64 loops, and inside programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from mvgpt_export.config import VideoMambaConfig
from mvgpt_export.models.videomamba import Mixer
from mvgpt_export.ops import checks, fused_scan
from mvgpt_export.ops.fused_mixer import FusedMixer
from mvgpt_runtime import build_kernels, kernels
from torch import nn

TOLERANCE = 1e-6  # rms of the error over rms of the result
LENGTHS = [1, 2, 15, 16, 17, 1569]  # around the kernel's tile of 16 steps, and the encoder's
WIDTHS = [24, 13]  # whole vectors of channels, and a remainder
STATE, RANK = 16, 3


@pytest.fixture(scope="module", autouse=True, params=build_kernels.copies())
def library(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compiled when the package was installed; without a compiler this fails and says so. Every test runs on every
    compiled copy of the kernels."""
    if not kernels.available():
        kernels.build()
    fastest = kernels.load().mvgpt_kernels_name().decode()
    if not kernels.use(request.param):
        pytest.skip(f"this processor lacks the instructions of the {request.param} kernels")
    yield
    kernels.use(fastest)


def relative_rms(got: torch.Tensor, expected: torch.Tensor) -> float:
    return float((got.double() - expected).square().mean().sqrt() / expected.square().mean().sqrt())


def conv_inputs(length: int, width: int, taps: int = 4) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(length)
    shapes = [(length, 2 * width), (taps, width), (width,)]
    return [torch.randn(shape, generator=generator) for shape in shapes]


def scan_inputs(length: int, width: int, dt_scale: float = 1.0, dt_shift: float = 0.0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(length)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "xz": normal(length, 2 * width),
        "u": normal(length, width),
        "xdbl": normal(length, RANK + 2 * STATE),
        "dt": normal(length, width) * dt_scale + dt_shift,
        "A2": -torch.exp(normal(STATE, width) + 1),
        "D": normal(width),
        "dt_bias": normal(width) - 4,  # steps of about 0.02, as Mamba is initialised
    }


def scan(inputs: dict[str, torch.Tensor], reverse: bool) -> torch.Tensor:
    return torch.ops.mvgpt.selective_scan(*inputs.values(), reverse)


def scan_in_double(inputs: dict[str, torch.Tensor], reverse: bool) -> torch.Tensor:
    return fused_scan.selective_scan_loop(*(t.double() for t in inputs.values()), reverse)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("length", LENGTHS)
def test_conv_is_its_definition(length: int, width: int, reverse: bool) -> None:
    inputs = conv_inputs(length, width)
    expected = fused_scan.causal_conv1d_silu_loop(*(t.double() for t in inputs), reverse)
    assert relative_rms(torch.ops.mvgpt.causal_conv1d_silu(*inputs, reverse), expected) <= TOLERANCE


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("length", LENGTHS)
def test_scan_is_its_definition(length: int, width: int, reverse: bool) -> None:
    inputs = scan_inputs(length, width)
    assert relative_rms(scan(inputs, reverse), scan_in_double(inputs, reverse)) <= TOLERANCE


@pytest.mark.parametrize("operator", ["conv", "scan"])
def test_reverse_is_a_flip_of_time(operator: str) -> None:
    """Bit for bit: the graph needs no flips."""
    if operator == "conv":
        xz, w, b = conv_inputs(33, 13)
        forward = torch.ops.mvgpt.causal_conv1d_silu(xz.flip(0), w, b, False)
        backward = torch.ops.mvgpt.causal_conv1d_silu(xz, w, b, True)
    else:
        inputs = scan_inputs(33, 13)
        flipped = {name: t.flip(0) if name in ("xz", "u", "xdbl", "dt") else t for name, t in inputs.items()}
        forward, backward = scan(flipped, False), scan(inputs, True)
    assert torch.equal(forward.flip(0), backward)


@pytest.mark.parametrize(
    ("scale", "shift"),
    [(60, 100), (10, -60), (50, 0), (0, 300), (0, -80)],
    ids=["exp overflows", "very small steps", "both signs", "state forgotten", "steps of 1e-35"],
)
def test_extreme_steps(scale: float, shift: float) -> None:
    inputs = scan_inputs(100, 13, scale, shift)
    assert relative_rms(scan(inputs, False), scan_in_double(inputs, False)) <= TOLERANCE


def test_small_steps_without_the_shortcut() -> None:
    """D = 0 leaves only what softplus contributes: steps of e^-60 have to be relatively right."""
    inputs = scan_inputs(50, 13, 5, -50) | {"D": torch.zeros(13)}
    assert relative_rms(scan(inputs, False), scan_in_double(inputs, False)) <= 5 * TOLERANCE  # e^x amplifies x's error


def test_denormals() -> None:
    """Denormal inputs, and a state that decays through the denormal range, are right to a few units of 1.4e-45."""
    inputs = scan_inputs(100, 13)
    inputs["u"] *= 1e-40
    torch.testing.assert_close(scan(inputs, False).double(), scan_in_double(inputs, False), rtol=1e-5, atol=1e-42)
    inputs = scan_inputs(400, 13) | {"D": torch.zeros(13), "A2": torch.full([STATE, 13], -20.0)}
    inputs["u"][1:] = 0
    got = scan(inputs, False)
    torch.testing.assert_close(got.double(), scan_in_double(inputs, False), rtol=1e-4, atol=1e-41)
    assert ((got != 0) & (got.abs() < 1e-38)).any()


@pytest.mark.parametrize("name", ["u", "dt", "xdbl", "xz", "A2", "D", "dt_bias"])
def test_scan_keeps_nan(name: str) -> None:
    length, width, t, channel = 40, 13, 17, 11
    inputs = scan_inputs(length, width)
    spoiled = torch.zeros(length, width, dtype=torch.bool)
    if name in ("u", "dt"):
        inputs[name][t, channel], spoiled[t:, channel] = torch.nan, True
    elif name == "xdbl":  # B of one step reaches every channel from then on
        inputs[name][t, RANK + 2], spoiled[t:] = torch.nan, True
    elif name == "xz":
        inputs[name][t, width + channel], spoiled[t, channel] = torch.nan, True
    else:
        inputs[name][..., channel], spoiled[:, channel] = torch.nan, True
    assert torch.equal(scan(inputs, False).isnan(), spoiled)


def test_conv_keeps_nan() -> None:
    xz, w, b = conv_inputs(20, 13)
    xz[7, 11] = torch.nan
    for reverse, times in ((False, slice(7, 11)), (True, slice(4, 8))):
        spoiled = torch.zeros(20, 13, dtype=torch.bool)
        spoiled[times, 11] = True
        assert torch.equal(torch.ops.mvgpt.causal_conv1d_silu(xz, w, b, reverse).isnan(), spoiled)


def test_empty_sequence() -> None:
    assert scan(scan_inputs(0, 13), False).shape == (0, 13)
    assert torch.ops.mvgpt.causal_conv1d_silu(*conv_inputs(0, 13), True).shape == (0, 13)


# Arguments that do not fit; the rest of each call is as in scan_inputs(5, 13).
BAD_SCAN = {
    "u of doubles": {"u": torch.zeros(5, 13, dtype=torch.float64)},
    "xz without z": {"xz": torch.zeros(5, 13)},
    "xz too short": {"xz": torch.zeros(4, 26)},
    "xdbl too narrow for B and C": {"xdbl": torch.zeros(5, 31)},
    "xdbl too short": {"xdbl": torch.zeros(4, 35)},
    "dt too wide": {"dt": torch.zeros(5, 14)},
    "A2 transposed": {"A2": torch.zeros(13, 16)},
    "no state": {"A2": torch.zeros(0, 13)},
    "more state than the kernel holds": {"A2": torch.zeros(257, 13), "xdbl": torch.zeros(5, 600)},
    "D too short": {"D": torch.zeros(12)},
    "dt_bias of rank 2": {"dt_bias": torch.zeros(1, 13)},
}
BAD_CONV = {
    "xz without z": [torch.zeros(5, 13), torch.zeros(4, 13), torch.zeros(13)],
    "w transposed": [torch.zeros(5, 26), torch.zeros(13, 4), torch.zeros(13)],
    "no taps": [torch.zeros(5, 26), torch.zeros(0, 13), torch.zeros(13)],
    "w of rank 3": [torch.zeros(5, 26), torch.zeros(4, 13, 1), torch.zeros(13)],
    "b too short": [torch.zeros(5, 26), torch.zeros(4, 13), torch.zeros(12)],
    "integers": [torch.zeros(5, 26, dtype=torch.int32), torch.zeros(4, 13), torch.zeros(13)],
}


class Call(nn.Module):
    """A program that is one call."""

    def __init__(self, operator: Callable[..., torch.Tensor], reverse: bool = False) -> None:
        super().__init__()
        self.operator, self.reverse = operator, reverse

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        return self.operator(*tensors, self.reverse)


SCAN, CONV = torch.ops.mvgpt.selective_scan, torch.ops.mvgpt.causal_conv1d_silu
BAD_CALLS = {f"scan, {why}": (SCAN, list((scan_inputs(5, 13) | bad).values())) for why, bad in BAD_SCAN.items()}
BAD_CALLS |= {f"conv, {why}": (CONV, bad) for why, bad in BAD_CONV.items()}
bad_calls = pytest.mark.parametrize(("operator", "arguments"), BAD_CALLS.values(), ids=BAD_CALLS)


@bad_calls
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_bad_arguments_raise(operator: Callable[..., torch.Tensor], arguments: list[torch.Tensor], device: str) -> None:
    with pytest.raises((RuntimeError, ValueError)):
        operator(*(t.to(device) for t in arguments), False)


def lower(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> bytes:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    edge = to_edge_transform_and_lower(
        torch.export.export(module.eval(), inputs, strict=True),
        partitioner=[XnnpackPartitioner()],
        compile_config=EdgeCompileConfig(_check_ir_validity=False),
    )
    return edge.to_executorch().buffer


def run(program: bytes, inputs: tuple[torch.Tensor, ...], threads: int = 2) -> torch.Tensor:
    from executorch.extension.pybindings import _C

    _C._unsafe_reset_threadpool(threads)
    return _C._load_for_executorch_from_buffer(program).forward(inputs)[0]


@bad_calls
def test_a_program_with_bad_arguments_fails(
    operator: Callable[..., torch.Tensor], arguments: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runtime cannot rely on the exporter's checks: without them, its own turn every bad call into an error."""
    for module in (checks, fused_scan):
        monkeypatch.setattr(module, "require", lambda *_: None)
    program = lower(Call(operator), tuple(arguments))
    with pytest.raises(RuntimeError):
        run(program, tuple(arguments))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("width", [13, 150])
def test_threads_do_not_change_a_result(width: int, reverse: bool) -> None:
    for operator, arguments in (
        (SCAN, tuple(scan_inputs(100, width).values())),
        (CONV, tuple(conv_inputs(100, width))),
    ):
        program = lower(Call(operator, reverse), arguments)
        one, two = (run(program, arguments, threads) for threads in (1, 2))
        assert torch.equal(one, two)
        assert torch.equal(one, operator(*arguments, reverse))


@pytest.fixture
def mixer() -> Mixer:
    config = VideoMambaConfig(
        image_size=32, patch_size=16, width=12, depth=1, d_inner=22, d_state=16, dt_rank=3, d_conv=4, frames=2,
        chunks=1, frame_pool=1,
    )  # fmt: skip
    torch.manual_seed(0)
    mixer = Mixer(config).eval()
    for A_log in (mixer.A_log, mixer.A_b_log):
        nn.init.uniform_(A_log, 0, 3)
    for D in (mixer.D, mixer.D_b):
        nn.init.normal_(D)
    return mixer.requires_grad_(False)


def test_a_layer_runs_as_a_program(mixer: Mixer) -> None:
    """Export, lower with XNNPACK's linears, execute: equal to the eager layer in float64, whatever the threads."""
    x = torch.randn(37, 12)
    fused = FusedMixer(mixer)
    program = lower(fused, (x,))
    got = run(program, (x,))
    assert torch.equal(got, run(program, (x,), threads=1))
    expected = mixer.double()(x.double())
    assert relative_rms(got, expected) <= TOLERANCE
    for operator in fused_scan.OPERATORS:
        assert operator.encode() in program
