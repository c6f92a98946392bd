"""Token embedding and head as one 4-bit table: packing, and the head's operator as torch sees it.

    linear_4bit(x, table, scales) → logits

x [1, m, width] float32 → logits [1, m, vocab] float32; x is rounded to 8 bits per row first. `table` uint8
[vocab, width / 2] and `scales` float16 [vocab, width / group] are as `quantized_decomposed::embedding_4bit` reads them:
even columns in the high half of a byte, each nibble 8 above its value. A program that looks tokens up and multiplies by
the same table stores it once.
"""

from __future__ import annotations

import ctypes
import functools

import torch
from mvgpt_runtime import kernels

from ..rounding import round_groups
from .checks import expect, require

GROUPS = (32, 64, 128)
MAX_WIDTH = 16384  # kMaxWidth4bit in linear_4bit.h

_library = torch.library.Library(kernels.NAMESPACE, "FRAGMENT")
_library.define("linear_4bit(Tensor x, Tensor table, Tensor scales) -> Tensor")
_library.define("linear_4bit.out(Tensor x, Tensor table, Tensor scales, *, Tensor(a!) out) -> Tensor(a!)")


def supported(width: int, group: int) -> bool:
    """Whether the kernel multiplies rows of this width."""
    return group in GROUPS and width % group == 0 and width % 64 == 0 and width <= MAX_WIDTH


def pack(weight: torch.Tensor, group: int, moment: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """weight float [vocab, width] → (table, scales); `moment` as for `round_groups`, of the head's inputs."""
    values, scales = round_groups(weight, group, torch.float16, signed=True, moment=moment)
    nibbles = (values + 8).to(torch.uint8)
    return nibbles[:, 0::2] << 4 | nibbles[:, 1::2], scales.half()


def unpack(table: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """(table, scales) → weight float32 [vocab, width]."""
    nibbles = torch.stack([table >> 4, table & 15], dim=-1).flatten(1).float() - 8
    return (nibbles.reshape(*scales.shape, -1) * scales.float().unsqueeze(-1)).flatten(1)


def _check(x: torch.Tensor, table: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The shape of the output; an error for arguments that do not fit."""
    expect("x", x, 1, None, None)
    width = x.shape[2]
    expect("table", table, None, width // 2, dtype=torch.uint8)
    expect("scales", scales, table.shape[0], None, dtype=torch.float16)
    groups = scales.shape[1]
    require(groups >= 1 and supported(width, width // groups), f"{groups} groups of {width} columns")
    return x.new_empty([1, x.shape[1], table.shape[0]])


@functools.cache
def _native() -> ctypes.CDLL:
    library = kernels.load()
    library.mvgpt_linear_4bit.argtypes = [*[ctypes.c_int64] * 4, *[ctypes.c_void_p] * 4]
    library.mvgpt_linear_4bit.restype = None
    return library


def _cpu(x: torch.Tensor, table: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    out = _check(x, table, scales)
    tensors = [*(t.contiguous() for t in (x, table, scales)), out]
    sizes = x.shape[1], x.shape[2], table.shape[0], x.shape[2] // scales.shape[1]
    _native().mvgpt_linear_4bit(*sizes, *(t.data_ptr() for t in tensors))
    return out


_library.impl("linear_4bit", _check, "Meta")
_library.impl("linear_4bit", _cpu, "CPU")
_library.impl("linear_4bit.out", lambda *arguments, out: out.copy_(_cpu(*arguments)), "CPU")


def linear_4bit_loop(x: torch.Tensor, table: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The definition of linear_4bit, in the dtype of x."""
    step = x.abs().amax(-1, keepdim=True) / 127
    rounded = (x / torch.where(step == 0, 1, step)).round()
    return rounded @ unpack(table, scales).to(x.dtype).T * step
