"""4-bit rounding with the scale of least squared error: a group may lose less when its largest weight is clipped."""

from __future__ import annotations

import torch

LOWEST, HIGHEST = -8, 7
# What the largest magnitude of a group may become. 7.5 is plain rounding's; more clips it and rounds the rest finer.
_TOPS = (6.9, 7.5, 8.0, 8.6, 9.4)
_ELEMENTS = 1 << 18  # of a weight that are searched at a time: a few float32 copies of them stay in the cache


def round_groups(
    weight: torch.Tensor, group: int, storage: torch.dtype, *, signed: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """weight float [rows, columns] → int8 [rows, columns], scales float32 [rows, columns / group] exact in `storage`.

    `signed`: scales may be negative, so that the value farthest from 0 can become -8, which +8 cannot.
    """
    rows = max(1, _ELEMENTS // weight.shape[1])
    parts = [_round_rows(part.float().reshape(len(part), -1, group), storage, signed) for part in weight.split(rows)]
    return torch.cat([values for values, _ in parts]), torch.cat([scales for _, scales in parts])


def _round_rows(x: torch.Tensor, storage: torch.dtype, signed: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """x [rows, groups, group]."""
    far = x.abs().amax(-1, keepdim=True)
    if signed:
        far = x.gather(-1, x.abs().argmax(-1, keepdim=True)).neg()
    best = _scale(far, _TOPS[0], storage)
    least = (x - best * _nearest(x, best)).square_().sum(-1, keepdim=True)
    for top in _TOPS[1:]:
        scale = _scale(far, top, storage)
        error = (x - scale * _nearest(x, scale)).square_().sum(-1, keepdim=True)
        better = error < least
        best, least = torch.where(better, scale, best), torch.where(better, error, least)
    return _nearest(x, best).to(torch.int8).flatten(1), best[..., 0]


def _scale(far: torch.Tensor, top: float, storage: torch.dtype) -> torch.Tensor:
    """As stored. XNNPACK refuses 0, and any scale will do for a group of zeros."""
    scale = (far / top).to(storage).float()
    return torch.where(scale.abs() < 1e-7, 1e-7, scale)


def _nearest(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return (x / scale).round_().clamp_(LOWEST, HIGHEST)
