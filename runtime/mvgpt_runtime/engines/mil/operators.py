"""MIL's operators in torch: functions by the names, parameters and defaults of Apple's MIL specification.

Sums (products, norms, softmax, means) are computed in float32 and rounded once to the operator's dtype; so does
hardware that accumulates wider than float16. Everything else is computed in the operator's dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

Tensor = torch.Tensor

DTYPES = {
    "fp16": torch.float16,
    "fp32": torch.float32,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "int16": torch.int16,
    "uint16": torch.int32,  # torch computes little in its own; MIL uses these for indices only
    "int32": torch.int32,
    "bool": torch.bool,
}


def _ints(value: Tensor | Sequence[int]) -> list[int]:
    return [int(i) for i in torch.as_tensor(value).reshape(-1)]


def _flags(value: Tensor | None, rank: int) -> list[bool]:
    return [False] * rank if value is None else [bool(flag) for flag in value.reshape(-1)]


def _axes(axes: Tensor | None, x: Tensor) -> list[int]:
    return list(range(x.dim())) if axes is None else [i % x.dim() for i in _ints(axes)]


# --- constants that are stored small ---


def constexpr_blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """data [r, c, …] with scale, offset [r / block, c / block, …] → (data − offset) · scale."""
    for axis, (size, blocks) in enumerate(zip(data.shape, scale.shape, strict=True)):
        if size != blocks:
            scale = scale.repeat_interleave(size // blocks, axis)
            offset = None if offset is None else offset.repeat_interleave(size // blocks, axis)
    values = data.float() if offset is None else data.float() - offset.float()
    return (values * scale.float()).to(scale.dtype)


# --- shapes and places ---


def cast(x: Tensor, dtype: str) -> Tensor:
    return x.to(DTYPES[dtype])  # towards zero for integers


def reshape(x: Tensor, shape: Tensor) -> Tensor:
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(_ints(shape))])


def transpose(x: Tensor, perm: Tensor) -> Tensor:
    return x.permute(_ints(perm))


def expand_dims(x: Tensor, axes: Tensor) -> Tensor:
    rank = x.dim() + len(_ints(axes))
    for axis in sorted(i % rank for i in _ints(axes)):
        x = x.unsqueeze(axis)
    return x


def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(_axes(axes, x))


def shape(x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int32)


def concat(values: Sequence[Tensor], axis: Tensor, interleave: Tensor | bool = False) -> Tensor:
    parts = [v.reshape(1) if v.dim() == 0 else v for v in values]
    if interleave:
        raise ValueError("concat that interleaves")
    return torch.cat(parts, int(axis))


def stack(values: Sequence[Tensor], axis: Tensor) -> Tensor:
    return torch.stack(list(values), int(axis))


def split(
    x: Tensor, axis: Tensor, num_splits: Tensor | None = None, split_sizes: Tensor | None = None
) -> tuple[Tensor, ...]:
    dim = int(axis)
    if split_sizes is not None:
        return x.split(_ints(split_sizes), dim)
    assert num_splits is not None
    return x.split(x.shape[dim] // int(num_splits), dim)


def tile(x: Tensor, reps: Tensor) -> Tensor:
    return x.repeat(_ints(reps))


def fill(shape: Tensor, value: Tensor) -> Tensor:
    return torch.full(_ints(shape), value.item(), dtype=value.dtype)


def range_1d(start: Tensor, end: Tensor, step: Tensor) -> Tensor:
    return torch.arange(start.item(), end.item(), step.item(), dtype=start.dtype)


def _places(
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None,
    begin_mask: Tensor | None,
    end_mask: Tensor | None,
    squeeze_mask: Tensor | None,
) -> list[Tensor | int]:
    """By dimension, what x is to be indexed with: numpy's slices, steps backwards too, and single places."""
    strides = [1] * x.dim() if stride is None else _ints(stride)
    masks = (_flags(mask, x.dim()) for mask in (begin_mask, end_mask, squeeze_mask))
    places: list[Tensor | int] = []
    for size, first, last, step, from_start, to_end, single in zip(
        x.shape, _ints(begin), _ints(end), strides, *masks, strict=True
    ):
        if single:
            places.append(first)
        else:
            s = slice(None if from_start else first, None if to_end else last, step)
            places.append(torch.arange(*s.indices(size)))
    return places


def _pick(x: Tensor, places: list[Tensor | int]) -> Tensor:
    for axis, place in reversed(list(enumerate(places))):
        x = x.select(axis, place) if isinstance(place, int) else x.index_select(axis, place)
    return x


def slice_by_index(
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    return _pick(x, _places(x, begin, end, stride, begin_mask, end_mask, squeeze_mask))


def slice_by_size(x: Tensor, begin: Tensor, size: Tensor) -> Tensor:
    for axis, (first, count) in enumerate(zip(_ints(begin), _ints(size), strict=True)):
        x = x.narrow(axis, first, x.shape[axis] - first if count == -1 else count)
    return x


def slice_update(
    x: Tensor,
    update: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    places = _places(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    picked = _pick(torch.arange(x.numel()).reshape(x.shape), places)
    return x.reshape(-1).index_copy(0, picked.reshape(-1), update.expand(picked.shape).reshape(-1)).reshape(x.shape)


def _indices(indices: Tensor, size: int) -> Tensor:
    """MIL's count from the end if negative."""
    indices = indices.long()
    return torch.where(indices < 0, indices + size, indices)


def gather(
    x: Tensor, indices: Tensor, axis: Tensor | int = 0, batch_dims: Tensor | int = 0, validate_indices: Any = False
) -> Tensor:
    dim, batch = int(axis) % x.dim(), int(batch_dims)
    indices = _indices(indices, x.shape[dim])
    if not batch:
        picked = x.index_select(dim, indices.reshape(-1))
        return picked.reshape(*x.shape[:dim], *indices.shape, *x.shape[dim + 1 :])
    parts = [gather(a, b, dim - 1, batch - 1) for a, b in zip(x, indices, strict=True)]
    return torch.stack(parts)


def gather_along_axis(x: Tensor, indices: Tensor, axis: Tensor | int = 0, validate_indices: Any = False) -> Tensor:
    dim = int(axis) % x.dim()
    return x.gather(dim, _indices(indices, x.shape[dim]))


# --- arithmetic ---


def real_div(x: Tensor, y: Tensor) -> Tensor:
    return x / y if x.is_floating_point() else torch.div(x, y, rounding_mode="trunc")


def floor_div(x: Tensor, y: Tensor) -> Tensor:
    return torch.div(x, y, rounding_mode="floor")


def rsqrt(x: Tensor, epsilon: Tensor | float = 1e-12) -> Tensor:
    return (x.float() + float(epsilon)).rsqrt().to(x.dtype)


def inverse(x: Tensor, epsilon: Tensor | float = 1e-4) -> Tensor:
    return (1 / (x.float() + float(epsilon))).to(x.dtype)


def clip(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    return x.clamp(alpha.item(), beta.item())


def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    if mode == "SIGMOID_APPROXIMATION":
        return (x.float() * torch.sigmoid(1.702 * x.float())).to(x.dtype)
    return F.gelu(x.float(), approximate="none" if mode == "EXACT" else "tanh").to(x.dtype)


def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(cond, a, b)


def _wide(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: function(x.float()).to(x.dtype)


# --- sums ---


def softmax(x: Tensor, axis: Tensor | int = -1) -> Tensor:
    return torch.softmax(x.float(), int(axis)).to(x.dtype)


def layer_norm(
    x: Tensor,
    axes: Tensor | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | float = 1e-5,
) -> Tensor:
    dims = _axes(axes, x)
    if dims != list(range(x.dim() - len(dims), x.dim())):
        raise ValueError(f"layer_norm over other axes than the last ones: {dims}")
    weight, bias = (None if w is None else w.float() for w in (gamma, beta))
    return F.layer_norm(x.float(), x.shape[-len(dims) :], weight, bias, float(epsilon)).to(x.dtype)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.linear(x.float(), weight.float(), None if bias is None else bias.float()).to(x.dtype)


def matmul(x: Tensor, y: Tensor, transpose_x: Tensor | bool = False, transpose_y: Tensor | bool = False) -> Tensor:
    a, b = x.float(), y.float()
    a = a.transpose(-1, -2) if transpose_x and a.dim() > 1 else a
    b = b.transpose(-1, -2) if transpose_y and b.dim() > 1 else b
    return (a @ b).to(x.dtype)


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Tensor | None = None,
    pad_type: str = "valid",
    pad: Tensor | None = None,
    dilations: Tensor | None = None,
    groups: Tensor | int = 1,
) -> Tensor:
    """x [n, channels, …], weight [channels out, channels in / groups, …]; one or two dimensions."""
    spatial = x.dim() - 2
    step = [1] * spatial if strides is None else _ints(strides)
    apart = [1] * spatial if dilations is None else _ints(dilations)
    x_, around = x.float(), [0] * (2 * spatial)
    if pad_type == "custom" and pad is not None:
        around = _ints(pad)
    elif pad_type in ("same", "same_lower"):
        for i, size in enumerate(x.shape[2:]):
            total = max(0, (-(-size // step[i]) - 1) * step[i] + (weight.shape[2 + i] - 1) * apart[i] + 1 - size)
            half = total // 2
            around[2 * i : 2 * i + 2] = (half, total - half) if pad_type == "same" else (total - half, half)
    pairs = [around[2 * i : 2 * i + 2] for i in reversed(range(spatial))]  # torch's begin at the last dimension
    x_ = F.pad(x_, [size for pair in pairs for size in pair])
    function = F.conv1d if spatial == 1 else F.conv2d
    weights = (weight.float(), None if bias is None else bias.float())
    return function(x_, *weights, step, 0, apart, int(groups)).to(x.dtype)


def _reduce(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reduce(x: Tensor, axes: Tensor | None = None, keep_dims: Tensor | bool = False) -> Tensor:
        wide = x.float() if x.is_floating_point() else x
        return function(wide, _axes(axes, x), bool(keep_dims)).to(x.dtype)

    return reduce


def topk(
    x: Tensor,
    k: Tensor | int = 1,
    axis: Tensor | int = -1,
    ascending: Tensor | bool = False,
    sort: Any = True,
    return_indices: Any = True,
    output_indices_dtype: str = "int32",
) -> tuple[Tensor, ...]:
    """Sorted whether asked for or not: without, MIL leaves the order open."""
    values, places = x.sort(dim=int(axis), descending=not ascending, stable=True)
    dim = int(axis)
    values, places = values.narrow(dim, 0, int(k)), places.narrow(dim, 0, int(k))
    return (values, places.to(DTYPES[output_indices_dtype])) if return_indices else (values,)


OPERATORS: dict[str, Callable[..., Any]] = {
    **{f.__name__: f for f in (
        constexpr_blockwise_shift_scale, cast, reshape, transpose, expand_dims, squeeze, shape, concat, stack, split,
        tile, fill, range_1d, slice_by_index, slice_by_size, slice_update, gather, gather_along_axis, real_div,
        floor_div, rsqrt, inverse, clip, gelu, select, softmax, layer_norm, linear, matmul, conv, topk,
    )},
    "identity": lambda x: x,
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "maximum": lambda x, y: torch.maximum(x, y),
    "minimum": lambda x, y: torch.minimum(x, y),
    "pow": lambda x, y: torch.pow(x.float(), y.float()).to(x.dtype),
    "mod": lambda x, y: torch.remainder(x, y),
    "abs": lambda x: x.abs(),
    "square": lambda x: x * x,
    "sqrt": _wide(torch.sqrt),
    "exp": _wide(torch.exp),
    "sigmoid": _wide(torch.sigmoid),
    "silu": _wide(F.silu),
    "tanh": _wide(torch.tanh),
    "relu": lambda x: x.relu(),
    "erf": _wide(torch.erf),
    "less": lambda x, y: x < y,
    "less_equal": lambda x, y: x <= y,
    "greater": lambda x, y: x > y,
    "greater_equal": lambda x, y: x >= y,
    "equal": lambda x, y: x == y,
    "not_equal": lambda x, y: x != y,
    "logical_and": lambda x, y: x & y,
    "logical_or": lambda x, y: x | y,
    "logical_not": lambda x: ~x,
    "reduce_sum": _reduce(torch.sum),
    "reduce_mean": _reduce(torch.mean),
    "reduce_max": _reduce(torch.amax),
    "reduce_min": _reduce(torch.amin),
}  # fmt: skip
