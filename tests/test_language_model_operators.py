"""The fused operators of the language model: against float64 loops, inside programs, and their refusals."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mvgpt_export.ops import checks, fused_attention, linear_4bit
from mvgpt_runtime import kernels
from test_kernels import library, lower, relative_rms, run  # noqa: F401  the fixture compiles the library
from torch import nn

TOLERANCE = 2e-6  # rms of the error over rms of the result; e^x amplifies the rounding of scores
ATTENTION, LINEAR = torch.ops.mvgpt.grouped_query_attention, torch.ops.mvgpt.linear_4bit


def attention_inputs(
    rows: int,
    queries: int,
    start: int,
    heads: int = 6,
    kv_heads: int = 2,
    head_dim: int = 32,
    positions: int = 64,
    dtype: torch.dtype = torch.float32,
) -> list[torch.Tensor]:
    """Caches filled before `start`, NaN from there on."""
    generator = torch.Generator().manual_seed(rows + start)
    shapes = [
        (1, queries, heads * head_dim),
        (1, rows, 2 * kv_heads * head_dim),
        (kv_heads, positions // 16, head_dim, 16),
        (kv_heads, positions, head_dim),
    ]
    q, kv, k, v = (torch.randn(shape, generator=generator) for shape in shapes)
    k.transpose(2, 3).reshape(kv_heads, positions, head_dim)[:, start:] = torch.nan
    keys = k.transpose(2, 3).flatten(1, 2)
    keys[:, start:], v[:, start:] = torch.nan, torch.nan
    k = keys.unflatten(1, (-1, 16)).transpose(2, 3).contiguous()
    angles = torch.randn(positions, head_dim // 2, generator=generator)
    return [q, kv, k.to(dtype), v.to(dtype), angles.cos(), angles.sin(), torch.tensor([start])]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    "shape",
    [
        {"rows": 1, "queries": 1, "start": 0},
        {"rows": 1, "queries": 1, "start": 63},
        {"rows": 17, "queries": 17, "start": 30},
        {"rows": 17, "queries": 1, "start": 15},
        {"rows": 3, "queries": 3, "start": 600, "positions": 608, "heads": 14, "head_dim": 64},
    ],
    ids=str,
)
def test_attention_is_its_definition(shape: dict[str, int], dtype: torch.dtype) -> None:
    inputs = attention_inputs(**shape, dtype=dtype)  # type: ignore[arg-type]
    inputs_in_double = [t.clone() if i in (2, 3, 6) else t.double() for i, t in enumerate(inputs)]
    if dtype == torch.float32:
        inputs_in_double[2:4] = [t.double() for t in inputs[2:4]]
    expected = fused_attention.grouped_query_attention_loop(*inputs_in_double)
    assert relative_rms(ATTENTION(*inputs), expected) <= TOLERANCE
    stored = slice(0, shape["start"] + shape["rows"])
    keys, same = (k.transpose(2, 3).flatten(1, 2)[:, stored].double() for k in (inputs[2], inputs_in_double[2]))
    torch.testing.assert_close(keys, same, rtol=1e-3 if dtype == torch.float16 else 1e-6, atol=1e-3)
    assert keys.isfinite().all()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=6))
def test_any_chunks_give_the_same_context(chunks: list[int]) -> None:
    """Rows in one call or in several: the cache carries everything over."""
    rows = sum(chunks)
    positions = -(-rows // 16) * 16
    q, kv, k, v, cos, sin, start = attention_inputs(rows, rows, 0, positions=positions)
    whole = ATTENTION(q, kv, k.clone(), v.clone(), cos, sin, start)
    parts = []
    for n, part_q, part_kv in zip(chunks, q.split(chunks, 1), kv.split(chunks, 1), strict=True):
        parts.append(ATTENTION(part_q.contiguous(), part_kv.contiguous(), k, v, cos, sin, start))
        start = start + n
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-5, atol=1e-5)


def test_a_rewind_overwrites() -> None:
    inputs = attention_inputs(5, 5, 20)
    first = ATTENTION(*inputs)
    other = [torch.randn_like(inputs[0]), torch.randn_like(inputs[1]), *inputs[2:]]
    ATTENTION(*other)
    assert torch.equal(ATTENTION(*inputs), first)


class Call(nn.Module):
    """A program that is one call of the attention; its caches are buffers."""

    k: torch.Tensor
    v: torch.Tensor

    def __init__(self, k: torch.Tensor, v: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("k", torch.zeros_like(k))
        self.register_buffer("v", torch.zeros_like(v))

    def forward(
        self, q: torch.Tensor, kv: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, start_pos: torch.Tensor
    ) -> torch.Tensor:
        return ATTENTION(q, kv, self.k, self.v, cos, sin, start_pos)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_attention_in_a_program(dtype: torch.dtype) -> None:
    """Equal bits to the operator in torch, for any number of threads; no copy of the cache in the program."""
    q, kv, k, v, *rest = attention_inputs(9, 4, 0, dtype=dtype)
    program = lower(Call(k, v), (q, kv, *rest))
    results = [run(program, (q, kv, *rest), threads) for threads in (1, 2)]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], ATTENTION(q, kv, k, v, *rest))
    assert b"copy" not in program


def with_bad(index: int, bad: torch.Tensor) -> list[torch.Tensor]:
    inputs = attention_inputs(3, 2, 5)
    inputs[index] = bad
    return inputs


BAD_ATTENTION = {
    "more queries than rows": with_bad(0, torch.zeros(1, 4, 192)),
    "no query": with_bad(0, torch.zeros(1, 0, 192)),
    "heads that the groups do not divide": with_bad(0, torch.zeros(1, 2, 96)),
    "half a head": with_bad(0, torch.zeros(1, 2, 208)),
    "kv without values": with_bad(1, torch.zeros(1, 3, 64)),
    "a batch": with_bad(1, torch.zeros(2, 3, 128)),
    "a cache of another dtype": with_bad(2, torch.zeros(2, 4, 32, 16, dtype=torch.float16)),
    "keys not in tiles": with_bad(2, torch.zeros(2, 8, 32, 8)),
    "a shorter value cache": with_bad(3, torch.zeros(2, 48, 32)),
    "integer values": with_bad(3, torch.zeros(2, 64, 32, dtype=torch.int32)),
    "tables too short": with_bad(4, torch.zeros(63, 16)),
    "tables of another width": with_bad(5, torch.zeros(64, 32)),
    "a start before 0": with_bad(6, torch.tensor([-1])),
    "a start past the end": with_bad(6, torch.tensor([62])),
    "an int32 start": with_bad(6, torch.tensor([5], dtype=torch.int32)),
}


@pytest.mark.parametrize("inputs", BAD_ATTENTION.values(), ids=BAD_ATTENTION)
def test_bad_attention_raises(inputs: list[torch.Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """In torch; and in a program exported without those checks, where the runtime's own have to hold."""
    with pytest.raises((RuntimeError, ValueError)):
        ATTENTION(*inputs)
    q, kv, k, v, *rest = inputs
    for module in (checks, fused_attention):
        monkeypatch.setattr(module, "require", lambda *_: None)
    program = lower(Call(k, v), (q, kv, *rest))
    with pytest.raises(RuntimeError):
        run(program, (q, kv, *rest))


@pytest.mark.parametrize("group", linear_4bit.GROUPS)
def test_linear_4bit_is_its_definition(group: int) -> None:
    generator = torch.Generator().manual_seed(group)
    table, scales = linear_4bit.pack(torch.randn(300, 256, generator=generator), group)
    x = torch.randn(1, 2, 256, generator=generator)
    expected = linear_4bit.linear_4bit_loop(x.double(), table, scales)
    assert relative_rms(LINEAR(x, table, scales), expected) <= TOLERANCE
    program = lower(Table(table, scales), (x,))
    results = [run(program, (x,), threads) for threads in (1, 2)]
    assert torch.equal(results[0], LINEAR(x, table, scales))
    assert torch.equal(results[0], results[1])


class Table(nn.Module):
    table: torch.Tensor
    scales: torch.Tensor

    def __init__(self, table: torch.Tensor, scales: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table)
        self.register_buffer("scales", scales)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return LINEAR(x, self.table, self.scales)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(linear_4bit.GROUPS), st.sampled_from([1e-30, 1e-3, 1.0, 1e3]))
def test_packing_rounds_to_the_nearest_step(seed: int, group: int, size: float) -> None:
    """The error is at most the step's half, and the step no larger than one that reaches the farthest value needs."""
    weight = torch.randn(4, 256, generator=torch.Generator().manual_seed(seed)) * size
    table, scales = linear_4bit.pack(weight, group)
    error = (linear_4bit.unpack(table, scales) - weight).reshape(4, -1, group)
    largest = weight.reshape(4, -1, group).abs().amax(-1)
    if size > 1e-6:  # float16 scales end at 6e-8
        assert (error.square().mean(-1).sqrt() <= largest / 12).all()
    else:
        assert (error.abs() <= largest.unsqueeze(-1)).all()


BAD_LINEAR: dict[str, tuple[torch.Tensor, ...]] = {
    "an odd width": (torch.zeros(1, 1, 96), torch.zeros(3, 48, dtype=torch.uint8), torch.zeros(3, 3).half()),
    "groups of 16": (torch.zeros(1, 1, 64), torch.zeros(3, 32, dtype=torch.uint8), torch.zeros(3, 4).half()),
    "another width": (torch.zeros(1, 1, 128), torch.zeros(3, 32, dtype=torch.uint8), torch.zeros(3, 4).half()),
    "scales of fewer rows": (torch.zeros(1, 1, 64), torch.zeros(3, 32, dtype=torch.uint8), torch.zeros(2, 2).half()),
    "float scales": (torch.zeros(1, 1, 64), torch.zeros(3, 32, dtype=torch.uint8), torch.zeros(3, 2)),
    "a signed table": (torch.zeros(1, 1, 64), torch.zeros(3, 32, dtype=torch.int8), torch.zeros(3, 2).half()),
    "a batch": (torch.zeros(2, 1, 64), torch.zeros(3, 32, dtype=torch.uint8), torch.zeros(3, 2).half()),
}


@pytest.mark.parametrize("inputs", BAD_LINEAR.values(), ids=BAD_LINEAR)
def test_bad_linear_raises(inputs: tuple[torch.Tensor, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    operator: Callable[..., torch.Tensor] = LINEAR
    with pytest.raises((RuntimeError, ValueError)):
        operator(*inputs)
    for module in (checks, linear_4bit):
        monkeypatch.setattr(module, "require", lambda *_: None)
    x, table, scales = inputs
    program = lower(Table(table, scales), (x,))
    with pytest.raises(RuntimeError):
        run(program, (x,))


def test_every_operator_is_registered() -> None:
    from executorch.extension.pybindings import _C

    assert set(kernels.OPERATORS) <= set(_C._get_operator_names())
