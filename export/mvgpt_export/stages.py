"""One exportable module per stage of the contract, made from the eager model, and example inputs for each.

The eager networks are used as they are; only what a runtime provides in its own way is swapped in: a form of FORMS.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from mvgpt_runtime import contract
from mvgpt_runtime import kernels as runtime_kernels
from mvgpt_runtime.contract import Geometry
from torch import nn
from torch.export import Dim

from .backends import Report
from .calibration import Calibration
from .coreml_form import ByteTableEmbedding, ByteTableHead, FramesAttention, coreml_calls, stateful
from .models.clip import Attention
from .models.norm import RMSNorm
from .models.patches import PatchEmbedding, PatchLinear
from .models.video_gpt import VideoGPT
from .models.videomamba import Block, Mixer, VideoMamba
from .norms import DelegatedLayerNorm, DelegatedRMSNorm
from .onnx_form import (
    NibbleEmbedding,
    NibbleLinear,
    OnnxAttention,
    OnnxByteEmbedding,
    OnnxRMSNorm,
    store_for_onnx,
    with_row_head,
)
from .ops.selective_scan import selective_scan_stock
from .quant import HALVES, Recipe, Store, quantize, store_for_coreml, store_for_xnnpack
from .text_decoder import (
    ByteEmbedding,
    CachedAttention,
    FusedAttention,
    HalfEmbedding,
    StockAttention,
    TableEmbedding,
    TableHead,
    TextDecoder,
    TokenEmbedding,
)

Network = TypeVar("Network", bound=nn.Module)


# Layers of the eager networks that XNNPACK would not run, or not as well, and the same as it does.
DELEGATED: dict[type[nn.Module], Callable[..., nn.Module]] = {
    PatchEmbedding: PatchLinear,
    nn.LayerNorm: DelegatedLayerNorm,
    RMSNorm: DelegatedRMSNorm,
}


Inputs = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Form:
    """What of the networks a backend wants otherwise than the eager model has it."""

    mixer: Callable[[Mixer], nn.Module]
    attention: type[CachedAttention]
    # Of a table with few bits; without, the head is a linear layer like the others.
    head: Callable[[torch.Tensor, int, torch.Tensor | None], TableHead | NibbleLinear | ByteTableHead] | None = None
    layers: Mapping[type[nn.Module], Callable[..., nn.Module]] = field(default_factory=dict)  # by what they replace
    store: Store = store_for_xnnpack  # of a linear layer
    table: type[TableEmbedding | NibbleEmbedding] = TableEmbedding  # of an embedding in 4 bits
    byte_table: type[ByteEmbedding | OnnxByteEmbedding] = ByteEmbedding
    # Weights are stored in integers or float32; float16 is the backend's.
    weights_only: bool = False
    # Of a stage's example inputs, if it is traced otherwise than once and in the contract's shapes: by method, inputs.
    calls: Callable[[str, Inputs, Geometry], dict[str, Inputs]] | None = None
    # What becomes of the language model, quantized.
    decoder: Callable[[TextDecoder, Geometry, Recipe], nn.Module] | None = None


def _stock_mixer(mixer: Mixer) -> nn.Module:
    mixer.scan = selective_scan_stock
    return mixer


def _fused_mixer(mixer: Mixer) -> nn.Module:
    from .ops.fused_mixer import FusedMixer  # loads the compiled operators

    return FusedMixer(mixer)


# The first two are `--kernels`: operators of our own, or a form that an unmodified ExecuTorch runtime executes.
FORMS = {
    "fused": Form(_fused_mixer, FusedAttention, TableHead, DELEGATED),
    "stock": Form(_stock_mixer, StockAttention, None, DELEGATED),
    "coreml": Form(
        _stock_mixer,
        CachedAttention,
        ByteTableHead,
        {Attention: FramesAttention},
        store=store_for_coreml,
        weights_only=True,
        calls=coreml_calls,
        decoder=stateful,
    ),
    "onnx": Form(
        _stock_mixer,  # its scans become Scan nodes
        OnnxAttention,
        NibbleLinear,
        {PatchEmbedding: PatchLinear, RMSNorm: OnnxRMSNorm},
        store=store_for_onnx,
        table=NibbleEmbedding,
        byte_table=OnnxByteEmbedding,
        decoder=with_row_head,
    ),
}


def default_kernels() -> str:
    """The fused form where its operators are compiled."""
    return "fused" if runtime_kernels.available() else "stock"


def unit_modules(
    model: VideoGPT,
    names: Sequence[str],
    geometry: Geometry,
    form: str,
    recipe: Recipe,
    prompts: Sequence[torch.Tensor] | None,
    report: Report,
) -> dict[str, nn.Module]:
    """The modules of the stages that share a file, in the order of `names`: see `stage_module`.

    The language model's rounding is calibrated on `prompts` (calibration.py), if there are any, and its two stages
    share one table where the recipe and the form have such a one.
    """
    decoder = None
    if "text_decoder" in names:
        decoder = text_decoder(model, geometry, form, recipe, prompts, report)
    modules: dict[str, nn.Module] = {}
    for name in names:
        if name == "text_decoder" and decoder:
            wrap = FORMS[form].decoder
            modules[name] = wrap(decoder, geometry, recipe) if wrap else decoder
        elif name == "token_embedding":
            modules[name] = token_embedding(model, form, recipe, decoder)
        else:
            modules[name] = stage_module(model, name, geometry, form, recipe)
    return modules


def stage_module(model: VideoGPT, name: str, geometry: Geometry, form: str, recipe: Recipe) -> nn.Module:
    """The module to export for stage `name` in a form of FORMS, quantized by `recipe`, not calibrated.

    Its modules are its own; its tensors are the eager model's where they are not quantized.
    """
    if name == "text_decoder":
        return text_decoder(model, geometry, form, recipe, None)
    if name == "token_embedding":
        return token_embedding(model, form, recipe, None)
    module: nn.Module = _same_tensors(getattr(model, name))
    if isinstance(module, VideoMamba):
        for block in module.layers:
            assert isinstance(block, Block)
            assert isinstance(block.mixer, Mixer)
            block.mixer = FORMS[form].mixer(block.mixer)
    for parent in list(module.modules()):
        for child_name, child in parent.named_children():
            for kind, other in FORMS[form].layers.items():
                if isinstance(child, kind):
                    setattr(parent, child_name, other(child))
    parts = FORMS[form]
    quantize(module, name, _rules(parts, recipe), store=parts.store)
    return module.eval()


def text_decoder(
    model: VideoGPT,
    geometry: Geometry,
    form: str,
    recipe: Recipe,
    prompts: Sequence[torch.Tensor] | None,
    report: Report = lambda what: None,
) -> TextDecoder:
    """`stage_module` of that stage; rounding is calibrated on `prompts` (calibration.py), if there are any."""
    parts = FORMS[form]
    cache = torch.float16 if recipe.half_kv_cache and parts.attention is FusedAttention else torch.float32
    norm = parts.layers.get(RMSNorm, lambda norm: norm)
    module = TextDecoder(_same_tensors(model.language_model), geometry, parts.attention, cache, norm)
    weight = module.lm_head.get_parameter("weight")
    table = parts.head if recipe.embedding_bits == 4 else None
    if table:
        module.lm_head = nn.Identity()  # no linear layer, so no rule is for it
    calibration = None if prompts is None else Calibration(module, prompts, report)
    quantize(module, "text_decoder", _rules(parts, recipe), calibration, parts.store)
    if table:
        module.lm_head = table(weight, recipe.embedding_group, calibration.head if calibration else None)
    return module.eval()


def token_embedding(model: VideoGPT, form: str, recipe: Recipe, decoder: TextDecoder | None) -> TokenEmbedding:
    """`stage_module` of that stage, on the head's table of the `text_decoder` with which it shares a file."""
    network = model.language_model
    module, weight = TokenEmbedding(network), network.embed_tokens.weight
    parts = FORMS[form]
    if parts.weights_only:
        if recipe.embedding_bits <= 8:
            shared = decoder.lm_head if decoder and network.config.tied else ByteTableHead(weight)
            assert isinstance(shared, ByteTableHead)
            module.embed_tokens = ByteTableEmbedding(shared.table, shared.scales)
        return module.eval()
    if recipe.embedding_bits == 4:
        head = decoder.lm_head if decoder and network.config.tied and parts.head else None
        if isinstance(head, (TableHead, NibbleLinear)):
            module.embed_tokens = parts.table(head.table, head.scales)
        else:
            module.embed_tokens = parts.table.of(weight, recipe.embedding_group)
    elif recipe.embedding_bits == 8:
        module.embed_tokens = parts.byte_table(weight)
    elif recipe.embedding_bits == 16:
        module.embed_tokens = HalfEmbedding(weight)
    return module.eval()


def _rules(parts: Form, recipe: Recipe) -> Recipe:
    """Of the recipe, the rules that are carried out here."""
    if not parts.weights_only:
        return recipe
    return replace(recipe, rules=tuple(rule for rule in recipe.rules if rule.scheme not in HALVES))


def _same_tensors(module: Network) -> Network:
    """A copy of the tree of modules that shares every parameter and buffer."""
    return copy.deepcopy(module, {id(t): t for t in (*module.parameters(), *module.buffers())})


def calls(name: str, geometry: Geometry, form: str) -> dict[str, tuple[Inputs, tuple[dict[int, Dim], ...] | None]]:
    """What stage `name` is traced with in a form: by method, example inputs and their dynamic shapes."""
    inputs = example_inputs(name, geometry)
    if fixed := FORMS[form].calls:
        return {method: (given, None) for method, given in fixed(name, inputs, geometry).items()}
    return {name: (inputs, dynamic_shapes(name, geometry))}


def example_inputs(name: str, geometry: Geometry) -> tuple[torch.Tensor, ...]:
    """Zeros of the contract's shapes, dynamic dimensions at their largest."""
    inputs = contract.stage(name).inputs
    return tuple(torch.zeros([most for _, most in t.shape(geometry)], dtype=getattr(torch, t.dtype)) for t in inputs)


def dynamic_shapes(name: str, geometry: Geometry) -> tuple[dict[int, Dim], ...]:
    """For torch.export: the contract's `1..LIMIT` dimensions, one symbol per limit name."""
    symbols: dict[str, Dim] = {}
    shapes = []
    for tensor in contract.stage(name).inputs:
        dims: dict[int, Dim] = {}
        for axis, dim in enumerate(tensor.dims):
            if isinstance(dim, str) and dim.startswith("1.."):
                least, most = tensor.shape(geometry)[axis]
                dims[axis] = symbols.setdefault(dim, Dim(f"n_{dim[3:]}", min=least, max=most))
        shapes.append(dims)
    return tuple(shapes)
