"""Recipes: how each stage's weights and activations are stored and computed. Data, with no backend in it.

A stage is quantized by the first rule that matches a linear layer of it; layers without a rule stay float32.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mvgpt_runtime.contract import LANGUAGE_STAGES
from mvgpt_runtime.errors import MvgptError
from torch import nn

from .rounding import round_groups

if TYPE_CHECKING:
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig


@dataclass(frozen=True)
class Rule:
    """Linear layers whose name in the exported stage matches `layers` (whole name) get `scheme`."""

    stage: str
    layers: str
    scheme: str


@dataclass(frozen=True)
class Recipe:
    """`rules` are for linear layers; the language model has two more things to store."""

    rules: tuple[Rule, ...] = ()
    # The token embedding's bits. In 4, the head is the same table where the kernels have such a head; otherwise it is a
    # linear layer like the others, for which every recipe has a rule.
    embedding_bits: int = 32
    embedding_group: int = 32  # weights to a scale, in 4 bits; in 8 bits a row has one
    half_kv_cache: bool = False  # keys and values in float16, where the kernels can; else in float32

    def rules_for(self, stage: str) -> tuple[Rule, ...]:
        return tuple(rule for rule in self.rules if rule.stage == stage)

    def bits(self, stage: str) -> int:
        """The fewest that anything of the stage is stored in; 32 if nothing is quantized."""
        weights = [int(rule.scheme.partition("da")[2][0]) for rule in self.rules_for(stage)]
        return min([*weights, self.embedding_bits if stage in LANGUAGE_STAGES else 32])


# Seven eighths of the weights of the video encoder and, with a fused scan, most of its time; then 30 MB more at 0.1 dB
# (docs/selective-scan.md).
_VIDEO = (
    Rule("video_encoder", r"layers\.\d+\.mixer\.(in|out)_proj", "8da8w"),
    Rule("video_encoder", r"layers\.\d+\.mixer\..*(x|dt)_proj(_b)?", "8da8w"),
)
# A quarter of the bytes; 36 dB on tiny, which every export checks against its floor. Which key frames are picked from
# such features has not been compared with float32's on real clips.
_IMAGE = (Rule("image_encoder", r"encoder\.layers\..*", "8da8w"),)

RECIPES = {
    # The reference: nothing quantized, every other recipe is measured against it.
    "fp32": Recipe(),
    # Dynamic 8-bit activations × 8-bit weights, one scale per output channel, wherever weights are many.
    "int8": Recipe(
        (*_IMAGE, *_VIDEO, Rule("text_decoder", ".*", "8da8w")),
        embedding_bits=8,
        half_kv_cache=True,
    ),
    # For phones: decoding reads every weight of the language model per token, so these are 4-bit.
    "mobile": Recipe(
        (*_IMAGE, *_VIDEO, Rule("text_decoder", ".*", "8da4w-32")),
        embedding_bits=4,
        half_kv_cache=True,
    ),
}


def quantize(module: nn.Module, stage: str, recipe: Recipe) -> int:
    """Quantize the linear layers of an exported stage in place; how many there were."""
    count = 0
    for rule in recipe.rules_for(stage):
        layers = [
            name
            for name, layer in module.named_modules()
            if isinstance(layer, nn.Linear) and re.fullmatch(rule.layers, name) and type(layer.weight) is nn.Parameter
        ]
        if not layers:
            raise MvgptError("a rule of the recipe matches no layer", stage=stage, got=rule.layers)
        for name in layers:
            _quantize_layer(module, name, rule.scheme)
        count += len(layers)
    return count


def _quantize_layer(module: nn.Module, name: str, scheme: str) -> None:
    import torch  # a second to import with torchao, and only needed here
    from torchao.quantization import quantize_

    layer = module.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    weight, group = layer.weight, int(scheme.partition("-")[2] or layer.in_features)
    if weight.shape[1] % group:
        raise MvgptError(
            f"the recipe's groups do not divide the weights of {name}",
            stage="export",
            expected=f"a multiple of {group} columns",
            got=weight.shape[1],
            remedy="export with another recipe: int8 has no groups",
        )
    quantize_(module, _config(scheme), lambda _, at: at == name)
    if "4w-" in scheme:  # torchao's container with values and scales of our own search
        # XNNPACK stores the scales of groups as bfloat16, which must be positive.
        values, scales = round_groups(weight, group, torch.bfloat16, signed=False)
        quantized: Any = layer.weight
        quantized.qdata, quantized.scale = values, scales.to(quantized.scale.dtype)


def _config(scheme: str) -> Int8DynamicActivationIntxWeightConfig:
    """torchao's configuration for a scheme's name: dynamic 8-bit activations × 8- or 4-bit weights, with one scale per
    output channel or, after the dash, per so many weights of one."""
    import torch
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig
    from torchao.quantization.granularity import Granularity, PerAxis, PerGroup

    kind, _, group = scheme.partition("-")
    dtypes: dict[str, torch.dtype] = {"8da8w": torch.int8, "8da4w": torch.int4}  # type: ignore[attr-defined]  # not in the stubs
    granularity: Granularity = PerGroup(int(group)) if group else PerAxis(0)
    return Int8DynamicActivationIntxWeightConfig(weight_dtype=dtypes[kind], weight_granularity=granularity)
