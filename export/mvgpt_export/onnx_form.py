"""Parts of the networks in the form that ONNX Runtime has operators for, ONNX's own and `com.microsoft`'s.

Operators without a counterpart in torch are `torch.onnx.ops.symbolic` calls: they become nodes, and compute nothing.
Outside an export linear layers compute what their nodes will, but for the rounding of activations.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mvgpt_runtime.contract import Geometry
from torch import nn
from torch.onnx.ops import symbolic, symbolic_multi_out

from .config import Qwen2Config
from .models.norm import RMSNorm
from .models.qwen2 import rotary_table
from .quant import Recipe, check_groups, store_in_half
from .rounding import LOWEST, round_groups
from .text_decoder import CachedAttention, TextDecoder


class OnnxRMSNorm(nn.Module):
    """One operator, RMSNormalization."""

    def __init__(self, norm: RMSNorm) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, norm.eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class OnnxAttention(CachedAttention):
    """GroupQueryAttention, which rotates, writes the new rows into the cache, and attends.

    It writes in place where `k` and `v` go in and come out as the same memory: backends/onnx.py makes inputs and
    outputs of the buffers.
    """

    cos: torch.Tensor
    sin: torch.Tensor

    def __init__(self, config: Qwen2Config, max_context: int, dtype: torch.dtype) -> None:
        super().__init__(config, max_context, dtype)
        self.config = config
        shape = (1, config.kv_heads, max_context, config.head_dim)
        self.register_buffer("k", torch.zeros(shape, dtype=dtype))
        self.register_buffer("v", torch.zeros(shape, dtype=dtype))
        cos, sin = rotary_table(config, max_context)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, q: torch.Tensor, kv: torch.Tensor, start_pos: torch.Tensor) -> torch.Tensor:
        c, n, m = self.config, kv.shape[1], q.shape[1]
        k, v = kv.split(c.kv_heads * c.head_dim, dim=-1)
        last = (start_pos + (n - 1)).to(torch.int32)
        total = (start_pos[0] + n).to(torch.int32)
        # The operator wants as many queries as keys; those of the last layer are one position's.
        q = q if m == n else q.expand(1, n, q.shape[2])
        context: torch.Tensor = symbolic_multi_out(
            "com.microsoft::GroupQueryAttention",
            [q, k, v, self.k, self.v, last, total, self.cos, self.sin],
            {"num_heads": c.heads, "kv_num_heads": c.kv_heads, "do_rotary": 1},
            dtypes=[q.dtype, self.k.dtype, self.v.dtype],
            shapes=[q.shape, self.k.shape, self.v.shape],
            version=1,
        )[0]
        return context[:, -m:]


class RowLinear(nn.Module):
    """The head. Of one row without the leading dimension it becomes Gemm, which reads weights as the embedding has
    them, so that those of a tied model are stored once; MatMul would want them transposed."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [1, 1, hidden] → logits [1, 1, vocab]."""
        return self.linear(x[0]).unsqueeze(0)


def with_row_head(decoder: TextDecoder, geometry: Geometry, recipe: Recipe) -> TextDecoder:
    """A form's `decoder`: the head as it is, or as a `RowLinear` where its weights are floats."""
    if isinstance(decoder.lm_head, nn.Linear):
        decoder.lm_head = RowLinear(decoder.lm_head)
    return decoder


def store_for_onnx(module: nn.Module, name: str, scheme: str, moment: torch.Tensor | None) -> None:
    """Put a linear layer of `module` into the form of a recipe's scheme (`quant.Rule`)."""
    layer = module.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    if scheme == "32a16w":
        store_in_half(module, f"{name}.weight")
    elif scheme == "8da8w":
        module.set_submodule(name, ByteLinear(layer))
    else:
        group = check_groups(layer, name, scheme)
        module.set_submodule(name, NibbleLinear(layer.weight, group, moment, layer.bias))


class ByteLinear(nn.Module):
    """DynamicQuantizeMatMul: weights in 8 bits with a scale per output; activations in 8 bits with one per row.

    The operator has one scale for all rows, of which a few may be far larger than the others, so they come to it with
    the same largest magnitude. Bias and that magnitude come after it.
    """

    weight: torch.Tensor
    scales: torch.Tensor

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        values, scales = round_rows(layer.weight)
        self.register_buffer("weight", values.T.contiguous(), persistent=False)
        self.register_buffer("scales", scales, persistent=False)
        self.bias = layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not torch.compiler.is_exporting():  # calibration asks for numbers
            return F.linear(x, self.weight.T * self.scales.unsqueeze(1), self.bias)
        largest = x.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        y = symbolic(
            "com.microsoft::DynamicQuantizeMatMul",
            [x / largest, self.weight, self.scales],
            dtype=torch.float32,
            shape=[*x.shape[:-1], self.weight.shape[1]],
            version=1,
        )
        return y * largest if self.bias is None else y * largest + self.bias


class NibbleLinear(nn.Module):
    """MatMulNBits: weights in 4 bits with a scale per group; activations in 8 bits with one per row and group.

    Args:
        weight: float [outputs, inputs].
        moment: of the inputs (rounding.round_groups).
    """

    table: torch.Tensor
    scales: torch.Tensor

    def __init__(
        self, weight: torch.Tensor, group: int, moment: torch.Tensor | None = None, bias: torch.Tensor | None = None
    ) -> None:
        super().__init__()
        self.group, self.bias = group, bias
        values, scales = round_groups(weight, group, torch.float32, signed=True, moment=moment)
        nibbles = (values - LOWEST).to(torch.uint8)
        self.register_buffer("table", nibbles[:, 0::2] | nibbles[:, 1::2] << 4, persistent=False)
        self.register_buffer("scales", scales, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs, groups = self.scales.shape
        if not torch.compiler.is_exporting():
            nibbles = torch.stack([self.table & 15, self.table >> 4], dim=-1).flatten(1) + float(LOWEST)
            weight = nibbles.reshape(outputs, groups, -1) * self.scales.unsqueeze(-1)
            return F.linear(x, weight.flatten(1), self.bias)
        y = symbolic(
            "com.microsoft::MatMulNBits",
            [x, self.table.reshape(outputs, groups, self.group // 2), self.scales],
            {"K": groups * self.group, "N": outputs, "bits": 4, "block_size": self.group, "accuracy_level": 4},
            dtype=torch.float32,
            shape=[*x.shape[:-1], outputs],
            version=1,
        )
        return y if self.bias is None else y + self.bias


class NibbleEmbedding(nn.Module):
    """GatherBlockQuantized on the table and scales of a `NibbleLinear`; equal tensors are stored once."""

    table: torch.Tensor
    scales: torch.Tensor

    def __init__(self, table: torch.Tensor, scales: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table, persistent=False)
        self.register_buffer("scales", scales, persistent=False)

    @classmethod
    def of(cls, weight: torch.Tensor, group: int) -> NibbleEmbedding:
        linear = NibbleLinear(weight, group)
        return cls(linear.table, linear.scales)

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        width = 2 * self.table.shape[1]
        return symbolic(
            "com.microsoft::GatherBlockQuantized",
            [self.table, token_ids, self.scales],
            {"bits": 4, "block_size": width // self.scales.shape[1], "gather_axis": 0, "quantize_axis": 1},
            dtype=torch.float32,
            shape=[*token_ids.shape, width],
            version=1,
        )


class OnnxByteEmbedding(nn.Module):
    """`nn.Embedding` in 8 bits with a scale for each row."""

    table: torch.Tensor
    scales: torch.Tensor

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        values, scales = round_rows(weight)
        self.register_buffer("table", values, persistent=False)
        self.register_buffer("scales", scales.unsqueeze(1), persistent=False)

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        return F.embedding(token_ids, self.table).float() * F.embedding(token_ids, self.scales)


def round_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """weight [rows, columns] → int8 values, and scales float32 [rows]."""
    scales = weight.abs().amax(1) / 127
    scales = torch.where(scales == 0, 1, scales)
    return (weight / scales.unsqueeze(1)).round_().to(torch.int8), scales
