"""Adaptive average pooling of a token grid as two constant matrix products, M · x · Mᵀ (shared by steps 5 and 6).

`torch.nn.AdaptiveAvgPool2d` lowers to hundreds of slices and means when its windows overlap (14 → 12); the same as
matrices lowers to two products on every backend.
"""

from __future__ import annotations

import torch
from torch import nn


def pooling_matrix(in_side: int, out_side: int) -> torch.Tensor:
    """float32 [out_side, in_side]; row i averages inputs floor(i·in/out) … ceil((i+1)·in/out) − 1."""
    matrix = torch.zeros(out_side, in_side, dtype=torch.float32, device="cpu")
    for i in range(out_side):
        first, end = i * in_side // out_side, -((i + 1) * in_side // -out_side)
        matrix[i, first:end] = 1.0 / (end - first)
    return matrix


class GridPool(nn.Module):
    """[N, in_side², C] → [N, out_side², C], tokens in row-major order; equals AdaptiveAvgPool2d(out_side)."""

    matrix: torch.Tensor

    def __init__(self, in_side: int, out_side: int) -> None:
        super().__init__()
        self.in_side, self.out_side = in_side, out_side
        self.register_buffer("matrix", pooling_matrix(in_side, out_side), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, _, channels = x.shape
        # Both products contract the second-last dimension, so neither needs a transpose.
        rows = self._pool(x.reshape(n, self.in_side, self.in_side * channels))
        cols = self._pool(rows.reshape(n * self.out_side, self.in_side, channels))
        return cols.reshape(n, self.out_side * self.out_side, channels)

    def _pool(self, x: torch.Tensor) -> torch.Tensor:
        return torch.bmm(self.matrix.expand(x.shape[0], -1, -1), x)
