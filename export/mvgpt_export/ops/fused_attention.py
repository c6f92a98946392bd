"""The fused operator of the language model as torch sees it: schema, shapes, CPU implementation, reference.

    grouped_query_attention(q, kv, k_cache, v_cache, cos, sin, start_pos) → out

q [1, m, heads · head_dim] and kv [1, n, 2 · kv_heads · head_dim] (keys, then values) are float32 outputs of linear
layers, not rotated. The operator rotates them by the tables cos and sin [max_context, head_dim / 2], writes keys and
values to positions start_pos … start_pos + n - 1 of the caches, and attends from the last m ≤ n of these positions,
each to every position up to its own: out [1, m, heads · head_dim] float32. start_pos is int64 [1].

k_cache [kv_heads, max_context / 16, head_dim, 16] and v_cache [kv_heads, max_context, head_dim] are float32 or float16;
arithmetic is float32. `grouped_query_attention_loop` is the definition, in the dtype of its inputs.
"""

from __future__ import annotations

import ctypes
import functools

import torch
from mvgpt_runtime import kernels

from .checks import expect, require

KEY_TILE = 16  # kKeyTile in attention.h
MAX_HEAD_DIM = 128  # kMaxHeadDim

_SCHEMA = (
    "grouped_query_attention{overload}(Tensor q, Tensor kv, Tensor(a!) k_cache, Tensor(b!) v_cache, Tensor cos, "
    "Tensor sin, Tensor start_pos{out}"
)
_library = torch.library.Library(kernels.NAMESPACE, "FRAGMENT")
_library.define(_SCHEMA.format(overload="", out=") -> Tensor"))
_library.define(_SCHEMA.format(overload=".out", out=", *, Tensor(c!) out) -> Tensor(c!)"))


def cache_positions(max_context: int) -> int:
    """Positions of a cache for max_context: whole tiles."""
    return -(-max_context // KEY_TILE) * KEY_TILE


def supported(head_dim: int) -> bool:
    """Whether the kernel runs heads of this size."""
    return head_dim % KEY_TILE == 0 and KEY_TILE <= head_dim <= MAX_HEAD_DIM


def _check(
    q: torch.Tensor,
    kv: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    start_pos: torch.Tensor,
) -> torch.Tensor:
    """The shape of the output; an error for arguments that do not fit."""
    require(v_cache.dim() == 3, "v_cache is not [kv_heads, max_context, head_dim]")
    require(v_cache.dtype in (torch.float32, torch.float16), f"the cache is {v_cache.dtype}")
    kv_heads, positions, head_dim = v_cache.shape
    require(supported(head_dim), f"head_dim is a multiple of {KEY_TILE} up to {MAX_HEAD_DIM}, not {head_dim}")
    require(positions % KEY_TILE == 0, f"max_context is a multiple of {KEY_TILE}, not {positions}")
    expect("k_cache", k_cache, kv_heads, positions // KEY_TILE, head_dim, KEY_TILE, dtype=v_cache.dtype)
    expect("q", q, 1, None, None)
    expect("kv", kv, 1, None, 2 * kv_heads * head_dim)
    heads, rest = divmod(q.shape[2], head_dim)
    require(heads >= 1 and rest == 0 and heads % kv_heads == 0, f"q has {q.shape[2]} columns for {kv_heads} kv heads")
    expect("cos", cos, positions, head_dim // 2)
    expect("sin", sin, positions, head_dim // 2)
    expect("start_pos", start_pos, 1, dtype=torch.int64)
    return torch.empty_like(q, memory_format=torch.contiguous_format)


@functools.cache
def _native() -> ctypes.CDLL:
    library = kernels.load()
    size, pointer = ctypes.c_int64, ctypes.c_void_p
    library.mvgpt_grouped_query_attention.argtypes = [*[size] * 7, *[pointer] * 7, ctypes.c_int]
    library.mvgpt_grouped_query_attention.restype = None
    return library


def _cpu(
    q: torch.Tensor,
    kv: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    start_pos: torch.Tensor,
) -> torch.Tensor:
    out = _check(q, kv, k_cache, v_cache, cos, sin, start_pos)
    kv_heads, positions, head_dim = v_cache.shape
    queries, rows, start = q.shape[1], kv.shape[1], int(start_pos)
    require(1 <= queries <= rows, f"{queries} queries for {rows} rows")
    require(0 <= start <= positions - rows, f"{rows} rows at {start} pass the end of the cache, {positions}")
    require(k_cache.is_contiguous() and v_cache.is_contiguous(), "the caches are not contiguous")
    tensors = [*(t.contiguous() for t in (q, kv, cos, sin)), k_cache, v_cache, out]
    sizes = rows, queries, q.shape[2] // head_dim, kv_heads, head_dim, positions, start
    half = v_cache.dtype == torch.float16
    _native().mvgpt_grouped_query_attention(*sizes, *(t.data_ptr() for t in tensors), half)
    return out


_library.impl("grouped_query_attention", _check, "Meta")
_library.impl("grouped_query_attention", _cpu, "CPU")
# ExecuTorch looks the .out form up to plan memory; a program never runs it in torch.
_library.impl("grouped_query_attention.out", lambda *arguments, out: out.copy_(_cpu(*arguments)), "CPU")


def grouped_query_attention_loop(
    q: torch.Tensor,
    kv: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    start_pos: torch.Tensor,
) -> torch.Tensor:
    """The definition of grouped_query_attention; writes the caches too."""
    kv_heads, _, head_dim = v_cache.shape
    queries, rows, start = q.shape[1], kv.shape[1], int(start_pos)
    group = q.shape[2] // head_dim // kv_heads

    def rotated(x: torch.Tensor, position: int) -> torch.Tensor:
        first, second = x.split(head_dim // 2)
        c, s = cos[position], sin[position]
        return torch.cat([first * c - second * s, second * c + first * s])

    for row in range(rows):
        keys, values = kv[0, row].reshape(2, kv_heads, head_dim)
        for head in range(kv_heads):
            tile, lane = divmod(start + row, KEY_TILE)
            k_cache[head, tile, :, lane] = rotated(keys[head], start + row)
            v_cache[head, start + row] = values[head]
    out = torch.empty_like(q)
    for query in range(queries):
        position = start + rows - queries + query
        for h, x in enumerate(q[0, query].split(head_dim)):
            keys = k_cache[h // group].transpose(1, 2).reshape(-1, head_dim)[: position + 1].to(q.dtype)
            scores = keys @ rotated(x, position) / head_dim**0.5
            values = v_cache[h // group, : position + 1].to(q.dtype)
            out[0, query, h * head_dim : (h + 1) * head_dim] = scores.softmax(0) @ values
    return out
