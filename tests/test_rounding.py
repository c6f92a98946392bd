"""4-bit rounding: scales by search, and error compensation against the slow way: an inverse anew for every column."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mvgpt_export.calibration import Calibration
from mvgpt_export.config import NAMED_CONFIGS
from mvgpt_export.models.qwen2 import KVCache, Qwen2, rotary_table
from mvgpt_export.quant import RECIPES, Recipe, Rule, quantize
from mvgpt_export.random_weights import random_model
from mvgpt_export.rounding import _DAMPING, HIGHEST, LOWEST, round_groups
from mvgpt_export.stages import text_decoder
from mvgpt_runtime import MvgptError
from tolerances import EAGER

GROUP = 32


def layer(rows: int, columns: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight, and the moment of inputs whose columns are correlated and of different sizes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4 * columns, columns, generator=generator) @ torch.randn(columns, columns, generator=generator)
    x *= torch.rand(columns, generator=generator) * 3
    return torch.randn(rows, columns, generator=generator), x.T @ x / len(x)


def restored(values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    return (values.reshape(*scales.shape, -1) * scales.unsqueeze(-1)).flatten(1)


def error(weight: torch.Tensor, rounded: tuple[torch.Tensor, torch.Tensor], moment: torch.Tensor) -> float:
    """Mean square of the layer's output error over its inputs, for all rows."""
    lost = restored(*rounded).float() - weight
    return float((lost @ moment * lost).sum())


def one_by_one(weight: torch.Tensor, scales: torch.Tensor, moment: torch.Tensor) -> torch.Tensor:
    """Columns in order, each with the scale given; those after it take the least-squares correction (float64)."""
    left, size = weight.double(), weight.shape[1]
    damped = moment.double() + _DAMPING * moment.diagonal().double().mean() * torch.eye(size)
    values = []
    for j in range(size):
        inverse = torch.linalg.inv(damped[j:, j:])[0]
        scale = scales[:, j // GROUP].double()
        values.append((left[:, j] / scale).round().clamp(LOWEST, HIGHEST))
        left[:, j:] -= torch.outer((left[:, j] - values[-1] * scale) / inverse[0], inverse)
    return torch.stack(values, 1).float()


def test_errors_are_carried_as_by_the_slow_way() -> None:
    """Three blocks, the last one short. A value on the edge between two may fall to either in float32."""
    weight, moment = layer(8, 9 * GROUP)
    values, scales = round_groups(weight, GROUP, torch.float32, signed=False, moment=moment)
    expected = one_by_one(weight, scales, moment)
    assert (values == expected).float().mean() > 0.95
    assert error(weight, (values, scales), moment) == pytest.approx(error(weight, (expected, scales), moment), rel=0.02)


@pytest.mark.parametrize("signed", [False, True])
def test_knowing_the_inputs_lessens_the_output_error(signed: bool) -> None:
    weight, moment = layer(16, 8 * GROUP)
    plain = round_groups(weight, GROUP, torch.bfloat16, signed=signed)
    knowing = round_groups(weight, GROUP, torch.bfloat16, signed=signed, moment=moment)
    assert error(weight, knowing, moment) < 0.6 * error(weight, plain, moment)


def test_columns_that_are_always_zero_and_no_inputs_at_all() -> None:
    weight, moment = layer(4, 2 * GROUP)
    moment[:, 5] = moment[5] = 0
    for one in (moment, torch.zeros_like(moment)):
        values, scales = round_groups(weight, GROUP, torch.bfloat16, signed=False, moment=one)
        assert torch.isfinite(scales).all()
        assert (restored(values, scales) - weight).abs().max() < weight.abs().max()


@given(seed=st.integers(0, 1 << 16), signed=st.booleans(), size=st.sampled_from([1e-6, 1.0, 1e4]), known=st.booleans())
def test_values_and_scales_are_what_kernels_read(seed: int, signed: bool, size: float, known: bool) -> None:
    weight, moment = layer(3, 2 * GROUP, seed)
    weight = (weight * size).clone()
    weight[1] = 0
    values, scales = round_groups(weight, GROUP, torch.bfloat16, signed=signed, moment=moment if known else None)
    assert values.dtype == torch.int8
    assert values.shape == weight.shape
    assert values.min() >= LOWEST
    assert values.max() <= HIGHEST
    assert torch.equal(scales, scales.bfloat16().float())
    assert (scales != 0).all()
    assert signed or (scales > 0).all()


def test_a_layer_that_calibration_leaves_out_is_an_error() -> None:
    layers = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.Linear(64, 8))
    recipe = Recipe((Rule("text_decoder", ".*", "8da4w-32"),))
    with pytest.raises(MvgptError, match=r"not quantized[\s\S]*got: *1"):
        quantize(layers, "text_decoder", recipe, [(["0"], torch.eye(64))])


def seen_by_the_eager_network(network: Qwen2, prompts: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Moments of what goes into its layers, by the decoder's names; keys and values are one layer there."""
    seen: dict[str, list[torch.Tensor]] = {}

    def watch(name: str, module: torch.nn.Module) -> None:
        name = name.replace("self_attn.", "").replace("k_proj", "kv_proj").replace("norm", "lm_head")
        module.register_forward_hook(
            lambda m, inputs, out: seen.setdefault(name, []).append(
                (out if name == "lm_head" else inputs[0]).flatten(0, -2).double()
            )
        )

    network = copy.deepcopy(network)
    for name, module in network.named_modules():
        if name == "norm" or (isinstance(module, torch.nn.Linear) and not name.endswith("v_proj")):
            watch(name, module)
    for prompt in prompts:
        tables = rotary_table(network.config, len(prompt))
        network(prompt.unsqueeze(0), *tables, [KVCache() for _ in network.layers], last=len(prompt))
    return {name: (x := torch.cat(parts)).T @ x / len(x) for name, parts in seen.items()}


def test_every_layer_sees_the_rounded_ones_before_it() -> None:
    config = NAMED_CONFIGS["tiny"]
    model = random_model(config)
    prompts = list(torch.randn(2, 40, config.text.hidden_size, generator=torch.Generator().manual_seed(0)) * 0.1)
    expected = seen_by_the_eager_network(model.language_model, prompts)

    def gaps(recipe: str) -> dict[str, float]:
        decoder = text_decoder(model, config.geometry(), "stock", RECIPES[recipe], prompts)
        found = {name: m for names, m in Calibration(decoder, prompts, lambda what: None) for name in names}
        assert found.keys() == expected.keys()
        return {name: float((m - expected[name]).norm() / expected[name].norm()) for name, m in found.items()}

    assert max(gaps("fp32").values()) < EAGER
    rounded = gaps("mobile")
    assert {name for name, gap in rounded.items() if gap < EAGER} == {"layers.0.q_proj", "layers.0.kv_proj"}
    assert max(rounded.values()) < 0.3
