"""4-bit rounding: the scale of a group by search, and what rounding a column loses made good by the columns after it.

A group may lose less when its largest weight is clipped. Where it is known what a layer's inputs look like, errors that
such inputs hardly see are cheap, and one column's error can be undone by the others' (GPTQ, Frantar et al. 2022, arXiv
2210.17323).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

LOWEST, HIGHEST = -8, 7
# What the largest magnitude of a group may become. 7.5 is plain rounding's; more clips it and rounds the rest finer.
_TOPS = (6.9, 7.5, 8.0, 8.6, 9.4)
_LEAST = 2.0**-23  # of scales; exact in every storage
# Of a weight that are rounded at a time: a few float32 copies of them stay in the cache.
_ELEMENTS, _ROWS = 1 << 18, 4096
# Of the mean square of an input's columns, added to each: a few thousand inputs do not show all that will come.
_DAMPING = 0.1
_BLOCK = 128  # columns whose errors are carried to the others in one matrix product


def round_groups(
    weight: torch.Tensor, group: int, storage: torch.dtype, *, signed: bool, moment: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """weight float [rows, columns] → int8 [rows, columns], scales float32 [rows, columns / group] exact in `storage`.

    Args:
        signed: scales may be negative, so that the value farthest from 0 can become -8, which +8 cannot.
        moment: float32 [columns, columns], mean of x xᵀ over inputs x of the layer; None: all weights count the same.
    """
    factor = None if moment is None else _inverse_factor(moment)
    rows = _ROWS if factor is not None else max(1, _ELEMENTS // weight.shape[1])
    with _one_thread():
        parts = [
            _round_rows(part.float().reshape(len(part), -1, group), storage, signed)
            if factor is None
            else _round_columns(part.float(), factor, group, storage, signed)
            for part in weight.split(rows)
        ]
    return torch.cat([values for values, _ in parts]), torch.cat([scales for _, scales in parts])


@contextmanager
def _one_thread() -> Iterator[None]:
    """For thousands of small operations: waiting for a second thread at each of them takes what it gains, and many
    times that beside another process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _round_rows(x: torch.Tensor, storage: torch.dtype, signed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """x [rows, groups, group]."""
    scales = _search(x, None, storage, signed)
    return _nearest(x, scales).to(torch.int8).flatten(1), scales[..., 0]


def _round_columns(
    weight: torch.Tensor, factor: torch.Tensor, group: int, storage: torch.dtype, signed: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Column after column; what is left to round carries the error of what was. `factor` is _inverse_factor's."""
    left = weight.clone()
    values = torch.empty_like(weight, dtype=torch.int8)
    scales = weight.new_empty(len(weight), weight.shape[1] // group)
    block = max(group, _BLOCK // group * group)
    for first in range(0, weight.shape[1], block):
        columns = slice(first, min(first + block, weight.shape[1]))
        errors = torch.empty_like(left[:, columns])
        for start in range(first, columns.stop, group):  # of the block's groups
            own = slice(start, start + group)
            inner = factor[own, own]
            x = left[:, own].clone()  # contiguous, and small enough for the cache
            scale = _search(x, inner.diagonal().square().reciprocal(), storage, signed)
            scales[:, start // group] = scale[:, 0]
            for j in range(group):
                column = x[:, j : j + 1]
                nearest = _nearest(column, scale)
                values[:, start + j] = nearest[:, 0]
                error = (column - nearest * scale) / inner[j, j]
                errors[:, start - first + j] = error[:, 0]
                x[:, j:] -= error * inner[j, j:]
            done, rest = slice(start - first, own.stop - first), slice(own.stop, columns.stop)
            left[:, rest] -= errors[:, done] @ factor[own, rest]
        left[:, columns.stop :] -= errors @ factor[columns, columns.stop :]
    return values, scales


def _inverse_factor(moment: torch.Tensor) -> torch.Tensor:
    """Upper triangular U with UᵀU the inverse of the damped moment.

    That is the inverse of the moment's own upper factor, which is a Cholesky factor read backwards.
    """
    size = len(moment)
    damped = moment.flip(0, 1)
    # A column that was 0 in every input may be anything; without inputs at all, every column is.
    damped.diagonal().add_((_DAMPING * moment.diagonal().mean()).clamp(min=1e-12))
    upper = torch.linalg.cholesky(damped).flip(0, 1)
    identity = torch.eye(size, dtype=moment.dtype)
    return torch.linalg.solve_triangular(upper, identity, upper=True)


def _search(x: torch.Tensor, importance: torch.Tensor | None, storage: torch.dtype, signed: bool) -> torch.Tensor:
    """x [..., group] → scales [..., 1] of the least squared error, each column's times its `importance` [group]."""
    far = x.abs().amax(-1, keepdim=True)
    if signed:
        far = x.gather(-1, x.abs().argmax(-1, keepdim=True)).neg()

    def loss(scale: torch.Tensor) -> torch.Tensor:
        squares = (x - scale * _nearest(x, scale)).square_()
        return (squares if importance is None else squares.mul_(importance)).sum(-1, keepdim=True)

    best = _scale(far, _TOPS[0], storage)
    least = loss(best)
    for top in _TOPS[1:]:
        scale = _scale(far, top, storage)
        error = loss(scale)
        better = error < least
        best, least = torch.where(better, scale, best), torch.where(better, error, least)
    return best


def _scale(far: torch.Tensor, top: float, storage: torch.dtype) -> torch.Tensor:
    """As stored. XNNPACK refuses 0, and any scale will do for a group of zeros."""
    scale = (far / top).to(storage).float()
    return torch.where(scale.abs() < _LEAST, _LEAST, scale)


def _nearest(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (x / scale).round_().clamp_(LOWEST, HIGHEST)
