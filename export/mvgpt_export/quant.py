"""Recipes: how each stage's weights and activations are stored and computed. Data, with no backend in it.

A linear layer of a stage is stored by the first rule that matches it; layers without a rule stay float32.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mvgpt_runtime.contract import LANGUAGE_STAGES
from mvgpt_runtime.errors import MvgptError
from torch import nn
from torch.nn.utils import parametrize

from .half import Half
from .rounding import round_groups

if TYPE_CHECKING:
    import torch
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig, IntxWeightOnlyConfig


Moments = Iterable[tuple[list[str], "torch.Tensor"]]
Store = Callable[[nn.Module, str, str, "torch.Tensor | None"], None]
"""(module, name of a linear layer in it, scheme, moment of the layer's inputs): puts the layer into another form."""

HALF_ARITHMETIC, HALF_TABLE, HALF_WEIGHTS = HALVES = "16a16w", "16w", "32a16w"
WEIGHT_BITS = {HALF_ARITHMETIC: 16, HALF_TABLE: 16, HALF_WEIGHTS: 16, "8da8w": 8, "8da4w": 4}
"""By scheme, without its groups."""
WITH_LINEAR_LAYERS = ("image_encoder", "video_encoder", "image_projector", "video_projector", "text_decoder")


@dataclass(frozen=True)
class Rule:
    """Layers whose name in the exported stage matches `layers` (whole name) get `scheme`.

    Schemes for linear layers: "32a16w", weights in float16 and arithmetic in float32; "8da8w" and "8da4w", dynamic
    8-bit activations × 8- or 4-bit weights with one scale per output channel or, after a dash, per so many weights of
    one. For any module of one input "16a16w": all of it in float16, which its activations must fit (half.py). For any
    other parameter "16w": stored in float16 and widened by an operator, so that arithmetic is float32.
    """

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
    calibrated: bool = False  # the language model's 4-bit rounding knows its layers' inputs: better, and takes longer

    def rules_for(self, stage: str) -> tuple[Rule, ...]:
        return tuple(rule for rule in self.rules if rule.stage == stage)

    def bits(self, stage: str) -> int:
        """The fewest bits that a number of the stage is stored in."""
        bits = [WEIGHT_BITS[rule.scheme.partition("-")[0]] for rule in self.rules_for(stage)]
        if stage in LANGUAGE_STAGES:
            bits += [self.embedding_bits, 16 if self.half_kv_cache else 32]
        return min(bits, default=32)


# Seven eighths of the weights of the video encoder and, with a fused scan, most of its time; then 30 MB more at 0.1 dB
# (docs/selective-scan.md). Patch embeddings, here and below: 8 bits would cost half a dB and save half a megabyte each.
_VIDEO = (
    Rule("video_encoder", r"layers\.\d+\.mixer\.(in|out)_proj", "8da8w"),
    Rule("video_encoder", r"layers\.\d+\.mixer\..*(x|dt)_proj(_b)?", "8da8w"),
    Rule("video_encoder", r"patch_embed\.proj", "32a16w"),
    Rule("video_encoder", "pos_embed", HALF_TABLE),
)
_IMAGE = (
    Rule("image_encoder", r"encoder\.layers\..*", "8da8w"),
    Rule("image_encoder", r"embeddings\.patch_embedding", "32a16w"),
    Rule("image_encoder", r"embeddings\.position_embedding\.weight", HALF_TABLE),
)
_PROJECTORS = (
    Rule("image_projector", r"mlp\.mlp\.\d", "8da8w"),
    Rule("video_projector", r"mlp\.mlp\.\d", "8da8w"),
)

RECIPES = {
    # The reference: nothing quantized, every other recipe is measured against it.
    "fp32": Recipe(),
    # Half the bytes, nearly float32's numbers. Phones multiply float16 twice as fast as float32 (x86 more slowly); the
    # image encoder is where that counts, and where one delegate can hold all of a branch. Elsewhere arithmetic stays
    # float32, which nothing overflows: Qwen2.5's residual stream would.
    "fp16": Recipe(
        (
            Rule("image_encoder", r"encoder\.layers\.\d+\.(self_attn|mlp)", "16a16w"),
            *(Rule(stage, ".*", "32a16w") for stage in WITH_LINEAR_LAYERS),
        ),
        embedding_bits=16,
        half_kv_cache=True,
    ),
    # Dynamic 8-bit activations × 8-bit weights, one scale per output channel, wherever weights are many.
    "int8": Recipe(
        (*_IMAGE, *_VIDEO, *_PROJECTORS, Rule("text_decoder", ".*", "8da8w")),
        embedding_bits=8,
        half_kv_cache=True,
    ),
    # For phones: decoding reads every weight of the language model per token, so these are 4-bit, but for keys and
    # values: a hundredth of the bytes, and in 4 bits they alone cost a tenth of the perplexity (docs/recipes.md).
    "mobile": Recipe(
        (
            *_IMAGE,
            *_VIDEO,
            *_PROJECTORS,
            Rule("text_decoder", r"layers\.\d+\.kv_proj", "8da8w"),
            Rule("text_decoder", ".*", "8da4w-32"),
        ),
        embedding_bits=4,
        half_kv_cache=True,
        calibrated=True,
    ),
}


def quantize(
    module: nn.Module, stage: str, recipe: Recipe, moments: Moments | None = None, store: Store | None = None
) -> int:
    """Quantize the linear layers of an exported stage in place; how many there were.

    `store` does it to one layer (None: `store_for_xnnpack`).
    `moments` gives the layers in the order of computation with their inputs' moments (`calibration.Calibration`),
    which 4-bit rounding uses; each layer is quantized before the next is asked for.

    Raises:
        MvgptError: a rule that matches no layer or does not fit one, or a layer that `moments` does not give.
    """
    linear = {name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
    rules: dict[str, Rule] = {}
    for rule in recipe.rules_for(stage):
        if rule.scheme == HALF_TABLE:
            _store_in_half(module, rule)
            continue
        if rule.scheme == HALF_ARITHMETIC:
            parts = [name for name, _ in module.named_modules() if re.fullmatch(rule.layers, name)]
            layers = {name for name in linear if f"{name}.".startswith(tuple(f"{part}." for part in parts))}
            for part in parts:
                module.set_submodule(part, Half(module.get_submodule(part)))
        else:
            layers = {name for name in linear if re.fullmatch(rule.layers, name)}
        if not layers - rules.keys():
            raise MvgptError("a rule of the recipe matches no layer", stage=stage, got=rule.layers)
        rules |= dict.fromkeys(layers - rules.keys(), rule)
    schemes = {name: rule.scheme for name, rule in rules.items() if rule.scheme != HALF_ARITHMETIC}
    for names, moment in [(list(schemes), None)] if moments is None else moments:
        for name in names:
            if name in schemes:
                (store or store_for_xnnpack)(module, name, schemes.pop(name), moment)
    if schemes:
        raise MvgptError("layers without calibration were not quantized", stage=stage, got=", ".join(schemes))
    return len(rules)


class _Widened(nn.Module):
    """A parameter in float16 as whoever uses it sees it."""

    def forward(self, stored: torch.Tensor) -> torch.Tensor:
        return stored.float()

    def right_inverse(self, value: torch.Tensor) -> tuple[torch.Tensor]:
        return (value.half(),)  # alone, torch would want its dtype to be the parameter's


def _store_in_half(module: nn.Module, rule: Rule) -> None:
    names = [name for name, _ in module.named_parameters() if re.fullmatch(rule.layers, name)]
    if not names:
        raise MvgptError("a rule of the recipe matches no parameter", stage=rule.stage, got=rule.layers)
    for name in names:
        store_in_half(module, name)


def store_in_half(module: nn.Module, name: str) -> None:
    """Of a parameter; an operator widens it."""
    _finite_half(module.get_parameter(name), name)
    owner, _, key = name.rpartition(".")
    parametrize.register_parametrization(module.get_submodule(owner), key, _Widened())


def _finite_half(weight: torch.Tensor, name: str) -> torch.Tensor:
    half = weight.half()
    if not half.isfinite().all():
        raise MvgptError(f"a weight of {name} is too large for float16", stage="export", remedy="recipe fp32")
    return half


def check_groups(layer: nn.Linear, name: str, scheme: str) -> int:
    """Weights to a scale, all of a row if the scheme names no group; MvgptError if they do not divide it."""
    group = int(scheme.partition("-")[2] or layer.in_features)
    if layer.in_features % group:
        raise MvgptError(
            f"the recipe's groups do not divide the weights of {name}",
            stage="export",
            expected=f"a multiple of {group} columns",
            got=layer.in_features,
            remedy="export with another recipe: int8 has no groups",
        )
    return group


def store_for_xnnpack(module: nn.Module, name: str, scheme: str, moment: torch.Tensor | None) -> None:
    """In torchao's form, which executorch's partitioner recognises."""
    import torch  # a second to import with torchao, and only needed here
    from torchao.quantization import Int8DynamicActivationIntxWeightConfig

    layer = module.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    if scheme == HALF_WEIGHTS:
        layer.weight = nn.Parameter(_finite_half(layer.weight, name).float(), requires_grad=False)
        return
    # XNNPACK stores the scales of groups as bfloat16, which must be positive.
    _store_integers(module, name, scheme, moment, Int8DynamicActivationIntxWeightConfig, torch.bfloat16)


def store_for_coreml(module: nn.Module, name: str, scheme: str, moment: torch.Tensor | None) -> None:
    """Weights alone, in torchao's form, which coremltools converts."""
    import torch
    from torchao.quantization import IntxWeightOnlyConfig

    _store_integers(module, name, scheme, moment, IntxWeightOnlyConfig, torch.float16)


def _store_integers(
    module: nn.Module,
    name: str,
    scheme: str,
    moment: torch.Tensor | None,
    config: type[Int8DynamicActivationIntxWeightConfig | IntxWeightOnlyConfig],
    storage: torch.dtype,
) -> None:
    """`config` is torchao's, `storage` what scales of groups must be exact in."""
    import torch
    from torchao.quantization import quantize_
    from torchao.quantization.granularity import Granularity, PerAxis, PerGroup

    layer = module.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    weight, group = layer.weight, check_groups(layer, name, scheme)
    kind, _, grouped = scheme.partition("-")
    dtypes: dict[str, torch.dtype] = {"8da8w": torch.int8, "8da4w": torch.int4}  # type: ignore[attr-defined]  # not in the stubs
    granularity: Granularity = PerGroup(group) if grouped else PerAxis(0)
    quantize_(module, config(dtypes[kind], granularity), lambda _, at: at == name)
    if "4w-" in scheme:  # torchao's container with values and scales of our own
        values, scales = round_groups(weight, group, storage, signed=False, moment=moment)
        quantized: Any = layer.weight
        quantized.qdata, quantized.scale = values, scales.to(quantized.scale.dtype)
