"""Recipes: how each stage's weights and activations are stored and computed. Data, with no backend in it.

A stage is quantized by the first rule that matches a linear layer of it; layers without a rule stay float32.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mvgpt_runtime.contract import LANGUAGE_STAGES
from mvgpt_runtime.errors import MvgptError
from torch import nn


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
    # Token embedding and head as 4-bit tables with a float16 scale for so many columns; None: float32, and the head by
    # `rules`. Kernels without such a head take it as a linear layer, so a recipe has a rule for that one too.
    vocabulary_group: int | None = None
    half_kv_cache: bool = False  # keys and values in float16, where the kernels can; else in float32

    def rules_for(self, stage: str) -> tuple[Rule, ...]:
        return tuple(rule for rule in self.rules if rule.stage == stage)

    def quantizes(self, stage: str) -> bool:
        """Whether anything of the stage is stored in fewer than 32 bits."""
        language = stage in LANGUAGE_STAGES and (self.vocabulary_group is not None or self.half_kv_cache)
        return language or bool(self.rules_for(stage))

    def floor_db(self, stage: str) -> float:
        """Least signal-to-noise ratio of the stage's output against the eager model's."""
        four = stage in LANGUAGE_STAGES and self.vocabulary_group is not None
        return SQNR_FLOOR_DB[4 if four or any("4w" in rule.scheme for rule in self.rules_for(stage)) else 8]


# Seven eighths of the weights of the video encoder and, with a fused scan, most of its time; then 30 MB more at 0.1 dB
# (docs/selective-scan.md).
_VIDEO = (
    Rule("video_encoder", r"layers\.\d+\.mixer\.(in|out)_proj", "8da8w"),
    Rule("video_encoder", r"layers\.\d+\.mixer\..*(x|dt)_proj(_b)?", "8da8w"),
)
# Dynamic 8-bit activations × 8-bit weights lose nothing that a frame's features show, at a quarter of the bytes and
# faster than float32.
_IMAGE = (Rule("image_encoder", r"encoder\.layers\..*", "8da8w"),)

RECIPES = {
    # The reference: nothing quantized, every other recipe is measured against it.
    "fp32": Recipe(),
    # Dynamic 8-bit activations × 8-bit weights, one scale per output channel, wherever weights are many.
    "int8": Recipe(
        (*_IMAGE, *_VIDEO, Rule("text_decoder", ".*", "8da8w")),
        half_kv_cache=True,
    ),
    # For phones: decoding reads every weight of the language model per token, so these are 4-bit.
    "mobile": Recipe(
        (*_IMAGE, *_VIDEO, Rule("text_decoder", ".*", "8da4w-32")),
        vocabulary_group=32,
        half_kv_cache=True,
    ),
}

# Largest difference to the eager stage over the output's largest value, where nothing is quantized. Kernels sum in
# another order than torch does; over the deepest stage that stays a decade below this.
CLOSE = 1e-4
# Least signal-to-noise ratio of a quantized stage in dB, by the fewest bits of its weights. In 8 bits the deepest
# stage, 32 layers of random weights, has 26; a lost or swapped direction gives 6 or less, the other encoder's
# normalisation 18 (tests/test_video_encoder_forms.py).
SQNR_FLOOR_DB = {8: 20.0, 4: 8.0}


def quantize(module: nn.Module, stage: str, recipe: Recipe) -> int:
    """Quantize the linear layers of an exported stage in place; how many there were."""
    count = 0
    for rule in recipe.rules_for(stage):
        from torchao.quantization import quantize_  # a second to import, and only needed here

        layers = [
            name
            for name, layer in module.named_modules()
            if isinstance(layer, nn.Linear) and re.fullmatch(rule.layers, name) and type(layer.weight) is nn.Parameter
        ]
        if not layers:
            raise MvgptError("a rule of the recipe matches no layer", stage=stage, got=rule.layers)
        quantize_(module, _scheme(rule.scheme), lambda _, name, layers=layers: name in layers)
        count += len(layers)
    return count


def _scheme(name: str) -> object:
    """torchao's configuration for a scheme's name: dynamic 8-bit activations × 8- or 4-bit weights, with one scale per
    output channel or, after the dash, per so many weights of one; "h" searches the scale (half-quadratic)."""
    import torch
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig
    from torchao.quantization.granularity import Granularity, PerAxis, PerGroup
    from torchao.quantization.quantize_.workflows.intx.intx_choose_qparams_algorithm import IntxChooseQParamsAlgorithm

    kind, _, group = name.removesuffix("h").partition("-")
    dtypes: dict[str, torch.dtype] = {"8da8w": torch.int8, "8da4w": torch.int4}  # type: ignore[attr-defined]  # not in the stubs
    granularity: Granularity = PerGroup(int(group)) if group else PerAxis(0)
    search = IntxChooseQParamsAlgorithm.HQQ_SCALE_ONLY if name.endswith("h") else IntxChooseQParamsAlgorithm.AFFINE
    return Int8DynamicActivationIntxWeightConfig(
        weight_dtype=dtypes[kind], weight_granularity=granularity, intx_choose_qparams_algorithm=search
    )
