"""Norms that stay inside XNNPACK's delegates: it has no mean over the last dimension, but a product with a constant.

Outside, a norm runs on one thread while the others wait, and cuts the delegate in two.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .models.norm import RMSNorm


class Mean(nn.Module):
    """[…, width] → […, 1]."""

    row: torch.Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("row", torch.full([1, width], 1 / width), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.row)


class DelegatedRMSNorm(nn.Module):
    def __init__(self, norm: RMSNorm) -> None:
        super().__init__()
        self.weight, self.eps, self.mean = norm.weight, norm.eps, Mean(norm.weight.numel())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(self.mean(x * x) + self.eps) * self.weight


class DelegatedLayerNorm(nn.Module):
    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps, self.mean = norm.weight, norm.bias, norm.eps, Mean(norm.weight.numel())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x - self.mean(x)
        return x * torch.rsqrt(self.mean(x * x) + self.eps) * self.weight + self.bias
