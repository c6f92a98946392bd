"""Step 7, language model: Qwen2 decoder that takes embeddings (Qwen2.5 technical report, 2412.15115).

Parameter names are Hugging Face's `Qwen2ForCausalLM` names without `model.`. Attention over the cache is a value handed
in (`Attend`), so that the eager model, stock operators and fused ones share this file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ..config import Qwen2Config
from .norm import RMSNorm

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(q [1, n, heads, head_dim], k and v [1, n, kv_heads, head_dim], rotated) → causal context [1, n, heads, head_dim]."""


def rotary_table(config: Qwen2Config, positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, float32 [positions, head_dim / 2] each (Su et al. 2021, arXiv 2104.09864; rotate-half layout)."""
    half = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device="cpu")
    inverse_frequency = config.rope_theta ** -(half / config.head_dim)
    angle = torch.arange(positions, dtype=torch.float32, device="cpu").unsqueeze(1) * inverse_frequency
    return angle.cos(), angle.sin()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x [1, n, heads, head_dim]; cos, sin [n, head_dim / 2] of the same positions."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class KVCache:
    """Eager cache of one layer that grows: every call appends at the end and attends to all before it."""

    def __init__(self) -> None:
        self.k: torch.Tensor | None = None
        self.v: torch.Tensor | None = None

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        self.k = k if self.k is None else torch.cat([self.k, k], dim=1)
        self.v = v if self.v is None else torch.cat([self.v, v], dim=1)
        rows, columns = q.shape[1], self.k.shape[1]
        mask = torch.ones(rows, columns, dtype=torch.bool).tril(columns - rows)
        q, k, v = q.transpose(1, 2), self.k.transpose(1, 2), self.v.transpose(1, 2)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True).transpose(1, 2)


class Attention(nn.Module):
    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.heads, config.kv_heads, config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.heads * config.head_dim)
        self.k_proj = nn.Linear(config.hidden_size, config.kv_heads * config.head_dim)
        self.v_proj = nn.Linear(config.hidden_size, config.kv_heads * config.head_dim)
        self.o_proj = nn.Linear(config.heads * config.head_dim, config.hidden_size, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attend: Attend) -> torch.Tensor:
        n = x.shape[1]
        q = rotate(self.q_proj(x).reshape(1, n, self.heads, self.head_dim), cos, sin)
        k = rotate(self.k_proj(x).reshape(1, n, self.kv_heads, self.head_dim), cos, sin)
        v = self.v_proj(x).reshape(1, n, self.kv_heads, self.head_dim)
        return self.o_proj(attend(q, k, v).reshape(1, n, self.heads * self.head_dim))


class Mlp(nn.Module):
    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.mlp_width, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.mlp_width, bias=False)
        self.down_proj = nn.Linear(config.mlp_width, config.hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.norm_eps)
        self.mlp = Mlp(config)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attend: Attend) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, attend)
        return x + self.mlp(self.post_attention_layernorm(x))


class Qwen2(nn.Module):
    """embeddings float32 [1, n, hidden] → logits float32 [last, vocab] of the last positions."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        if not config.tied:
            self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(
        self,
        embeddings: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        attend: Sequence[Attend],
        last: int = 1,
    ) -> torch.Tensor:
        """`cos` and `sin` [n, head_dim / 2] are of the rows' positions; `attend` has one value per layer."""
        x = embeddings
        for layer, layer_attend in zip(self.layers, attend, strict=True):
            x = layer(x, cos, sin, layer_attend)
        head = self.embed_tokens if self.config.tied else self.lm_head
        return F.linear(self.norm(x[0, -last:]), head.weight)
