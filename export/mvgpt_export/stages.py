"""One exportable module per stage of the contract, made from the eager model, and example inputs for each.

The eager networks are used as they are; only what a runtime provides in its own way is swapped in: the KV cache and its
attention (stock `llama::` operators) and the form of the selective scan.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from mvgpt_runtime import contract
from mvgpt_runtime import kernels as runtime_kernels
from mvgpt_runtime.contract import Geometry
from torch import nn
from torch.export import Dim

from .config import Qwen2Config
from .models.qwen2 import Qwen2, rotary_table
from .models.video_gpt import VideoGPT
from .models.videomamba import Block as VideoMambaBlock
from .models.videomamba import Mixer
from .ops.selective_scan import selective_scan_stock

Network = TypeVar("Network", bound=nn.Module)


class StaticKVCache(nn.Module):
    """One layer's cache for max_context positions, float32, read and written by ExecuTorch's stock operators."""

    k: torch.Tensor
    v: torch.Tensor

    def __init__(self, config: Qwen2Config, max_context: int) -> None:
        super().__init__()
        shape = (1, max_context, config.kv_heads, config.head_dim)
        self.register_buffer("k", torch.zeros(shape))
        self.register_buffer("v", torch.zeros(shape))

    def attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, start_pos: int) -> torch.Tensor:
        torch.ops.llama.update_cache(k, self.k, start_pos)
        torch.ops.llama.update_cache(v, self.v, start_pos)
        # mask, dropout, is_causal: row i sees positions 0 … start_pos + i
        return torch.ops.llama.custom_sdpa(q, self.k, self.v, start_pos, None, 0.0, True)


class TextDecoder(nn.Module):
    """`text_decoder`: embeddings [1, n, hidden], start_pos [1] → logits [1, vocab]; the KV cache is a buffer."""

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, network: Qwen2, geometry: Geometry) -> None:
        super().__init__()
        _register_llama_operators()
        self.network = network
        self.caches = nn.ModuleList(StaticKVCache(network.config, geometry.max_context) for _ in network.layers)
        # Tables, not operators: sin and cos differ in the last digit between platforms' maths libraries.
        cos, sin = rotary_table(network.config, geometry.max_context)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.last_start = geometry.max_context - 1

    def forward(self, embeddings: torch.Tensor, start_pos: torch.Tensor) -> torch.Tensor:
        start = start_pos[0].item()
        torch._check(start >= 0)
        torch._check(start <= self.last_start)
        n = embeddings.shape[1]
        positions = torch.arange(n, dtype=torch.int64) + start
        cos, sin = self.cos.index_select(0, positions), self.sin.index_select(0, positions)
        attend = [lambda q, k, v, cache=cache: cache.attend(q, k, v, start) for cache in self.caches]
        return self.network(embeddings, cos, sin, attend)


class TokenEmbedding(nn.Module):
    """`token_embedding`: token_ids int64 [1, n] → embeddings float32 [1, n, hidden]."""

    def __init__(self, network: Qwen2) -> None:
        super().__init__()
        self.embed_tokens = network.embed_tokens

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        return self.embed_tokens(token_ids)


def _register_llama_operators() -> None:
    from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401  importing it registers torch.ops.llama


def _stock_mixer(mixer: nn.Module) -> nn.Module:
    assert isinstance(mixer, Mixer)
    mixer.scan = selective_scan_stock
    return mixer


def _fused_mixer(mixer: nn.Module) -> nn.Module:
    from .ops.fused_mixer import FusedMixer  # loads the compiled operators

    assert isinstance(mixer, Mixer)
    return FusedMixer(mixer)


# `--kernels`: operators of our own, or a form that an unmodified ExecuTorch runtime executes.
MIXERS: dict[str, Callable[[nn.Module], nn.Module]] = {"fused": _fused_mixer, "stock": _stock_mixer}


def default_kernels() -> str:
    """The fused form where its operators are compiled."""
    return "fused" if runtime_kernels.available() else "stock"


def stage_module(model: VideoGPT, name: str, geometry: Geometry, kernels: str) -> nn.Module:
    """The module to export for stage `name` with the given form of `MIXERS`.

    Its modules are its own and may be changed; its tensors are the eager model's.
    """
    if name == "text_decoder":
        return TextDecoder(_same_tensors(model.language_model), geometry).eval()
    if name == "token_embedding":
        return TokenEmbedding(_same_tensors(model.language_model)).eval()
    if name == "video_encoder":
        encoder = _same_tensors(model.video_encoder)
        for block in encoder.layers:
            assert isinstance(block, VideoMambaBlock)
            block.mixer = MIXERS[kernels](block.mixer)
        return encoder
    return _same_tensors(getattr(model, name))


def _same_tensors(module: Network) -> Network:
    """A copy of the tree of modules that shares every parameter and buffer."""
    return copy.deepcopy(module, {id(t): t for t in (*module.parameters(), *module.buffers())})


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
