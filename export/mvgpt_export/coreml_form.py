"""Stages as CoreML wants them: its dtypes, shapes that do not vary, attention that keeps clear of a wrong kernel, and a
KV cache in states, which are float16 there.

A call takes a fixed number of rows, of which the last ones may be padding: `last_row` says which is the last real one.
Padding is written to the cache too, where no real row sees it and the next call's rows replace it; so the states have
room for it behind the last position.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mvgpt_runtime import contract
from mvgpt_runtime.contract import Geometry
from mvgpt_runtime.engines.coreml import CASTS, EIGHT_FRAMES, ONE_ROW
from mvgpt_runtime.errors import MvgptError
from torch import nn

from .models.clip import Attention
from .models.qwen2 import rotary_table, rotate
from .quant import Recipe
from .text_decoder import Layer, TextDecoder

WRONG_FROM = 10
"""coremltools #2650: of attention's products, sizes of the first dimension for which the GPU's kernel is wrong."""
STATE_MULTIPLE = 32
"""coremltools #2631: states fail on the Neural Engine whose dimensions, at least the last, are no multiples of it."""
MASKED = -3e4
"""Added to the scores of keys that a row must not see: within float16, and a softmax gives them nothing. Infinity
would do the same, and NaN wherever a kernel subtracts it from itself."""


def coreml_calls(
    name: str, inputs: tuple[torch.Tensor, ...], geometry: Geometry
) -> dict[str, tuple[torch.Tensor, ...]]:
    """By method, a stage's inputs in CoreML's dtypes; a language stage has methods of `call_rows` rows and of one, the
    image encoder of one frame and of eight."""
    tensors = contract.stage(name).inputs
    cast = tuple(
        torch.from_numpy(x.numpy().astype(CASTS.get(t.dtype, t.dtype))) for t, x in zip(tensors, inputs, strict=True)
    )
    if name == "image_encoder":
        return {name: cast, name + EIGHT_FRAMES: tuple(x.repeat(8, *[1] * (x.ndim - 1)) for x in cast)}
    if name not in contract.LANGUAGE_STAGES:
        return {name: cast}
    last_row = (torch.zeros(1, dtype=torch.int32),) if name == "text_decoder" else ()
    methods = {name: call_rows(geometry), name + ONE_ROW: 1}
    return {method: (cast[0][:, :rows], *cast[1:], *last_row) for method, rows in methods.items()}


class FramesAttention(nn.Module):
    """The image encoder's attention with frames and heads in dimensions of their own; there are at most eight frames.

    Apple's compiler fuses products around a softmax, and its GPU kernel is wrong where the first of their dimensions is
    10 or more (coremltools #2650): twelve heads must not be there.
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.heads, self.head_dim = attention.heads, attention.head_dim
        self.q_proj, self.k_proj = attention.q_proj, attention.k_proj
        self.v_proj, self.out_proj = attention.v_proj, attention.out_proj

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [frames, tokens, width] → the same shape."""

        def heads(y: torch.Tensor) -> torch.Tensor:
            return y.reshape(*y.shape[:2], self.heads, self.head_dim).transpose(1, 2)

        q, k, v = heads(self.q_proj(x) * self.head_dim**-0.5), heads(self.k_proj(x)), heads(self.v_proj(x))
        context = torch.softmax(q @ k.transpose(2, 3), dim=-1) @ v
        return self.out_proj(context.transpose(1, 2).reshape(x.shape))


def call_rows(geometry: Geometry) -> int:
    """Rows of a language stage's call: a frame's, which nearly all of a prompt comes in."""
    return max(2, min(geometry.image_tokens, geometry.prefill_chunk))


def stateful(decoder: TextDecoder, geometry: Geometry, recipe: Recipe) -> nn.Module:
    if decoder.config.kv_heads >= WRONG_FROM:
        raise MvgptError(
            "CoreML's GPU attention is wrong with so many key/value heads",
            stage="text_decoder",
            expected=f"fewer than {WRONG_FROM}",
            got=decoder.config.kv_heads,
            remedy="export with another backend",
        )
    positions = geometry.max_context + call_rows(geometry) - 1
    positions += -positions % STATE_MULTIPLE
    return StatefulDecoder(decoder, positions, exact=not recipe.half_kv_cache).eval()


class StatefulDecoder(nn.Module):
    """embeddings [1, rows, hidden], start_pos int32 [1], last_row int32 [1] → logits [1, vocab] of that row.

    Args:
        positions: of the states, at least max_context and the most rows of a call that can be padding.
        exact: keep keys and values as sums of two float16, which has 22 bits of a float32's 24.
    """

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, decoder: TextDecoder, positions: int, *, exact: bool) -> None:
        super().__init__()
        self.config, self.positions, self.exact = decoder.config, positions, exact
        self.layers, self.norm, self.lm_head = decoder.layers, decoder.norm, decoder.lm_head
        for i in range(len(self.layers)):
            for name in ("k", "v", "k_rest", "v_rest") if exact else ("k", "v"):
                shape = (self.config.kv_heads, positions, self.config.head_dim)
                self.register_buffer(f"{name}_{i}", torch.zeros(shape))
        cos, sin = rotary_table(self.config, positions)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    @property
    def states(self) -> dict[str, torch.Tensor]:
        """The KV cache's parts by name, [kv_heads, positions, head_dim] each."""
        return {name: buffer for name, buffer in self.named_buffers() if name.partition("_")[0] in ("k", "v")}

    def forward(self, embeddings: torch.Tensor, start_pos: torch.Tensor, last_row: torch.Tensor) -> torch.Tensor:
        n = embeddings.shape[1]
        start: int = start_pos[0].item()  # type: ignore[assignment]  # int() would make it a constant
        torch._check(start >= 0)
        torch._check(start + n <= self.positions)
        rows = torch.arange(n, dtype=torch.int32) + start_pos
        cos, sin = self.cos.index_select(0, rows), self.sin.index_select(0, rows)
        columns = torch.arange(self.positions, dtype=torch.int32)
        mask = (columns > rows.unsqueeze(1)).float() * MASKED
        x = embeddings
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, Layer)
            y = layer.input_norm(x)
            k, v = self._cache(i, layer.kv_proj(y), start, cos, sin)
            if layer.last:
                x, y = x.index_select(1, last_row), y.index_select(1, last_row)
                cos, sin, mask = (table.index_select(0, last_row) for table in (cos, sin, mask))
            x = x + layer.o_proj(self._attend(layer.q_proj(y), k, v, cos, sin, mask))
            x = x + layer.mlp(layer.post_norm(x))
        return self.lm_head(self.norm(x))[:, 0]

    def _cache(
        self, i: int, kv: torch.Tensor, start: int, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """kv [1, n, 2 · kv_heads · head_dim] of new rows → keys and values [kv_heads, positions, head_dim] of all."""
        c, n = self.config, kv.shape[1]
        k, v = kv.reshape(1, n, 2 * c.kv_heads, c.head_dim).split(c.kv_heads, dim=2)
        return self._store(f"k_{i}", rotate(k, cos, sin), start), self._store(f"v_{i}", v, start)

    def _store(self, name: str, rows: torch.Tensor, start: int) -> torch.Tensor:
        rows = rows[0].transpose(0, 1)
        if not self.exact:
            return self._write(name, rows, start)
        rounded = rows.half().float()
        rest = name.replace("_", "_rest_")
        return self._write(name, rounded, start) + self._write(rest, rows - rounded, start)

    def _write(self, name: str, rows: torch.Tensor, start: int) -> torch.Tensor:
        state = self.get_buffer(name)
        state.copy_(torch.slice_scatter(state, rows, 1, start, start + rows.shape[1]))
        return state

    def _attend(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        mask: torch.Tensor,
    ) -> torch.Tensor:
        """q [1, m, heads · head_dim], not rotated → context of the same shape.

        The query heads of a group become rows of one product with their keys, which are not repeated. It is spelled
        out, not torch's fused operator: CoreML's own of that name has had wrong results on GPU and Neural Engine.
        """
        c, m = self.config, q.shape[1]
        group = c.heads // c.kv_heads
        q = rotate(q.reshape(1, m, c.heads, c.head_dim), cos, sin) * c.head_dim**-0.5
        q = q[0].transpose(0, 1).reshape(c.kv_heads, group * m, c.head_dim)
        scores = torch.bmm(q, k.transpose(1, 2)).reshape(c.kv_heads, group, m, self.positions) + mask
        weights = torch.softmax(scores, dim=-1).reshape(c.kv_heads, group * m, self.positions)
        context = torch.bmm(weights, v).reshape(c.heads, m, c.head_dim).transpose(0, 1)
        return context.reshape(1, m, c.heads * c.head_dim)


def dequantize(values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """values int8 [rows, columns], scales [rows, groups] → float32 [rows, columns], as CoreML can store it."""
    import torchao.quantization.quant_primitives  # noqa: F401  registers it

    block = [1, values.shape[1] // scales.shape[1]]
    zeros = torch.zeros_like(scales, dtype=torch.int8)
    return torch.ops.torchao.dequantize_affine(values, block, scales, zeros, torch.int8, -128, 127)


class ByteTable(nn.Module):
    """The embedding's and head's table in 8 bits, a scale to a row."""

    table: torch.Tensor
    scales: torch.Tensor

    def __init__(self, table: torch.Tensor, scales: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table)
        self.register_buffer("scales", scales)

    def weight(self) -> torch.Tensor:
        return dequantize(self.table, self.scales)


class ByteTableHead(ByteTable):
    """`lm_head` on it."""

    def __init__(self, weight: torch.Tensor, group: int = 0, moment: torch.Tensor | None = None) -> None:
        """A row is one group, and 8 bits need no search: `group` and `moment` are for forms with fewer."""
        scales = (weight.abs().amax(1, keepdim=True) / 127).half().float()
        scales = torch.where(scales == 0, 1, scales)
        super().__init__((weight / scales).round_().clamp_(-127, 127).to(torch.int8), scales)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight())


class ByteTableEmbedding(ByteTable):
    """`nn.Embedding` on it; equal tables of one package are stored once."""

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        return F.embedding(token_ids, self.weight())
