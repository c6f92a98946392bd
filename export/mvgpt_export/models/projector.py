"""Step 6, ET-Proj: encoder tokens to the language model's width, fewer of them (arXiv 2503.21782)."""

from __future__ import annotations

import torch
from torch import nn

from ..config import ProjectorConfig
from .pooling import GridPool


class Mlp(nn.Module):
    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(config.in_width, config.out_width), nn.GELU(), nn.Linear(config.out_width, config.out_width)
        )


class Peg(nn.Module):
    """Depthwise 3×3 convolution over the pooled grid plus its input: a position encoding made by the content."""

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        self.side = config.out_side
        self.peg = nn.Sequential(nn.Conv2d(config.out_width, config.out_width, 3, padding=1, groups=config.out_width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, tokens, width = x.shape
        grid = x.transpose(1, 2).reshape(n, width, self.side, self.side)
        return x + self.peg(grid).reshape(n, width, tokens).transpose(1, 2)


class Projector(nn.Module):
    """[N, in_side², in_width] → [N, out_side², out_width]."""

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        self.mlp = Mlp(config)
        self.pool = GridPool(config.in_side, config.out_side)
        self.peg = Peg(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, gelu, second = self.mlp.mlp
        # The published order is second linear, then pooling. An average commutes with an affine map, so pooling first
        # gives the same numbers with fewer rows to multiply.
        return self.peg(second(self.pool(gelu(first(x)))))
