"""The stages `token_embedding` and `text_decoder`: the eager Qwen2 rearranged for export, its KV cache inside.

The same weights and the same arithmetic. Between two attentions everything can be one XNNPACK delegate (norms.py has
the norms for it); keys and values are one linear layer. Only keys and values of the last layer are needed of positions
before the last: its queries, output and MLP run for that one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from mvgpt_runtime.contract import Geometry
from mvgpt_runtime.errors import MvgptError
from torch import nn

from .config import Qwen2Config
from .models.norm import RMSNorm
from .models.qwen2 import Block, Qwen2, rotary_table, rotate

Norm = Callable[[RMSNorm], nn.Module]


class Attention(Protocol):
    """What a layer asks of a form: q [1, m ≤ n, heads · head_dim] of the last m positions and kv [1, n, 2 ·
    kv_heads · head_dim] (keys, then values), not rotated → context [1, m, heads · head_dim]; start_pos int64 [1]."""

    def __call__(self, q: torch.Tensor, kv: torch.Tensor, start_pos: torch.Tensor) -> torch.Tensor: ...


class CachedAttention(nn.Module):
    """An `Attention` with keys and values of all positions in the buffers `k` and `v`."""

    k: torch.Tensor
    v: torch.Tensor

    def __init__(self, config: Qwen2Config, max_context: int, dtype: torch.dtype) -> None:
        super().__init__()


class FusedAttention(CachedAttention):
    """Our own operator (ops/fused_attention.py); `tables` are cos and sin for all positions of the cache."""

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, config: Qwen2Config, max_context: int, dtype: torch.dtype) -> None:
        super().__init__(config, max_context, dtype)
        from .ops import fused_attention as op

        if not op.supported(config.head_dim):
            raise MvgptError(
                "the fused attention does not run heads of this size",
                stage="text_decoder",
                expected=f"head_dim a multiple of {op.KEY_TILE}, at most {op.MAX_HEAD_DIM}",
                got=config.head_dim,
                remedy="export with --kernels stock",
            )
        positions = op.cache_positions(max_context)
        tiles = positions // op.KEY_TILE
        self.register_buffer("k", torch.zeros(config.kv_heads, tiles, config.head_dim, op.KEY_TILE, dtype=dtype))
        self.register_buffer("v", torch.zeros(config.kv_heads, positions, config.head_dim, dtype=dtype))
        # Tables, not operators: sin and cos differ in the last digit between platforms' maths libraries.
        cos, sin = rotary_table(config, positions)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, q: torch.Tensor, kv: torch.Tensor, start_pos: torch.Tensor) -> torch.Tensor:
        return torch.ops.mvgpt.grouped_query_attention(q, kv, self.k, self.v, self.cos, self.sin, start_pos)


class StockAttention(CachedAttention):
    """ExecuTorch's `llama::` operators, which every build for language models has."""

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, config: Qwen2Config, max_context: int, dtype: torch.dtype) -> None:
        super().__init__(config, max_context, dtype)
        from executorch.extension.llm.custom_ops import custom_ops  # noqa: F401  registers torch.ops.llama

        assert dtype == torch.float32  # the operators want the cache in the queries' dtype
        self.config, self.last = config, max_context - 1
        shape = (1, max_context, config.kv_heads, config.head_dim)
        self.register_buffer("k", torch.zeros(shape))
        self.register_buffer("v", torch.zeros(shape))
        cos, sin = rotary_table(config, max_context)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, q: torch.Tensor, kv: torch.Tensor, start_pos: torch.Tensor) -> torch.Tensor:
        c = self.config
        start = start_pos[0].item()
        torch._check(start >= 0)
        torch._check(start <= self.last)
        n, m = kv.shape[1], q.shape[1]
        positions = torch.arange(n, dtype=torch.int64) + start
        cos, sin = self.cos.index_select(0, positions), self.sin.index_select(0, positions)
        k, v = kv.reshape(1, n, 2 * c.kv_heads, c.head_dim).split(c.kv_heads, dim=2)
        torch.ops.llama.update_cache(rotate(k, cos, sin), self.k, start)
        torch.ops.llama.update_cache(v.contiguous(), self.v, start)
        q = rotate(q.reshape(1, m, c.heads, c.head_dim), cos[n - m :], sin[n - m :])
        # mask, dropout, is_causal: row i sees positions 0 … its own
        context = torch.ops.llama.custom_sdpa(q, self.k, self.v, start + n - m, None, 0.0, True)
        return context.reshape(1, m, c.heads * c.head_dim)


class Layer(nn.Module):
    """One block: x [1, n, hidden] → [1, n, hidden], or [1, 1, hidden] of the last position in the last layer."""

    def __init__(self, block: Block, attention: Attention, norm: Norm, *, last: bool) -> None:
        super().__init__()
        old = block.self_attn
        self.input_norm = norm(block.input_layernorm)
        self.post_norm = norm(block.post_attention_layernorm)
        self.q_proj, self.o_proj, self.mlp = old.q_proj, old.o_proj, block.mlp
        self.kv_proj = nn.Linear(old.k_proj.in_features, old.k_proj.out_features + old.v_proj.out_features)
        self.kv_proj.weight = nn.Parameter(torch.cat([old.k_proj.weight, old.v_proj.weight]), requires_grad=False)
        self.kv_proj.bias = nn.Parameter(torch.cat([old.k_proj.bias, old.v_proj.bias]), requires_grad=False)
        self.attention, self.last = attention, last

    def forward(self, x: torch.Tensor, start_pos: torch.Tensor) -> torch.Tensor:
        kv = self.kv_proj(self.input_norm(x))
        if self.last:
            x = x[:, -1:]
        q = self.q_proj(self.input_norm(x))
        x = x + self.o_proj(self.attention(q, kv, start_pos))
        return x + self.mlp(self.post_norm(x))


class TokenEmbedding(nn.Module):
    """token_ids int64 [1, n] → embeddings float32 [1, n, hidden]."""

    def __init__(self, network: Qwen2) -> None:
        super().__init__()
        self.embed_tokens: nn.Module = network.embed_tokens

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        return self.embed_tokens(token_ids)


class TextDecoder(nn.Module):
    """embeddings [1, n, hidden], start_pos int64 [1] → logits [1, vocab] of the last position."""

    def __init__(
        self, network: Qwen2, geometry: Geometry, attention: type[CachedAttention], cache: torch.dtype, norm: Norm
    ) -> None:
        super().__init__()
        self.config = config = network.config
        last = len(network.layers) - 1
        self.layers = nn.ModuleList()
        for i, block in enumerate(network.layers):
            assert isinstance(block, Block)
            self.layers.append(Layer(block, attention(config, geometry.max_context, cache), norm, last=i == last))
        self.norm = norm(network.norm)
        self.lm_head: nn.Module = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.lm_head.weight = (network.embed_tokens if config.tied else network.lm_head).weight

    def forward(self, embeddings: torch.Tensor, start_pos: torch.Tensor) -> torch.Tensor:
        x = embeddings
        for layer in self.layers:
            x = layer(x, start_pos)
        return self.lm_head(self.norm(x))[:, 0]


class TableHead(nn.Module):
    """`lm_head` on a table of 4 bits, by our own operator (ops/linear_4bit.py).

    Args:
        moment: of the head's inputs (rounding.round_groups).
    """

    table: torch.Tensor
    scales: torch.Tensor

    def __init__(self, weight: torch.Tensor, group: int, moment: torch.Tensor | None = None) -> None:
        from .ops import linear_4bit as op

        width = weight.shape[1]
        if not op.supported(width, group):
            raise MvgptError(
                "the fused head does not multiply rows of this width",
                stage="text_decoder",
                expected=f"a multiple of 64 and of {group}, at most {op.MAX_WIDTH}",
                got=width,
                remedy="export with --kernels stock",
            )
        super().__init__()
        _register(self, *op.pack(weight, group, moment))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.mvgpt.linear_4bit(x, self.table, self.scales)


class TableEmbedding(nn.Module):
    """`nn.Embedding` on a table of 4 bits, by ExecuTorch's own operator: the head's table, or one of its own.

    Equal tensors are stored once.
    """

    table: torch.Tensor
    scales: torch.Tensor

    def __init__(self, table: torch.Tensor, scales: torch.Tensor) -> None:
        super().__init__()
        import executorch.exir.passes._quant_patterns_and_replacements  # noqa: F401  registers the operator

        _register(self, table, scales)

    @classmethod
    def of(cls, weight: torch.Tensor, group: int) -> TableEmbedding:
        from .ops.linear_4bit import pack

        return cls(*pack(weight, group))

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        embedding = torch.ops.quantized_decomposed.embedding_4bit.dtype
        return embedding(self.table, self.scales, None, -8, 7, token_ids, dtype=torch.float32)


def _register(module: nn.Module, table: torch.Tensor, scales: torch.Tensor) -> None:
    module.register_buffer("table", table, persistent=False)
    module.register_buffer("scales", scales, persistent=False)


class ByteEmbedding(nn.Module):
    """`nn.Embedding` in 8 bits with a scale for each row."""

    table: torch.Tensor
    scales: torch.Tensor

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        import executorch.exir.passes._quant_patterns_and_replacements  # noqa: F401  registers the operator

        scales = weight.abs().amax(1) / 127
        table = (weight / torch.where(scales == 0, 1, scales).unsqueeze(1)).round_().to(torch.int8)
        self.register_buffer("table", table, persistent=False)
        self.register_buffer("scales", scales, persistent=False)

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        embedding = torch.ops.quantized_decomposed.embedding_byte.dtype
        return embedding(self.table, self.scales, None, -128, 127, token_ids, dtype=torch.float32)


class HalfEmbedding(nn.Module):
    """`nn.Embedding` in float16."""

    table: torch.Tensor

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("table", weight.half(), persistent=False)

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        return F.embedding(token_ids, self.table).float()
