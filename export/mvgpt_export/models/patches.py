"""First layer of both encoders: a frame's squares, each times one matrix (Dosovitskiy et al. 2020, 2010.11929)."""

from __future__ import annotations

import torch
from torch import nn


class PatchEmbedding(nn.Conv2d):
    """pixels [N, S, S, 3] → [N, (S / patch)², width], patches in row-major order; a convolution, as in checkpoints."""

    def __init__(self, width: int, patch: int, *, bias: bool) -> None:
        super().__init__(3, width, patch, patch, bias=bias)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return super().forward(pixels.permute(0, 3, 1, 2)).flatten(2).transpose(1, 2)


class PatchLinear(nn.Linear):
    """The same as a linear layer, like any other to a recipe; pixels stay in the order of frames."""

    def __init__(self, convolution: PatchEmbedding) -> None:
        weight = convolution.weight
        bias: nn.Parameter | None = convolution.bias  # type: ignore[assignment]  # a tensor to the stubs
        super().__init__(weight[0].numel(), len(weight), bias=bias is not None, device="meta")
        self.patch = convolution.kernel_size[0]
        self.weight = nn.Parameter(weight.permute(0, 2, 3, 1).flatten(1), requires_grad=False)
        if bias is not None:
            self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        n, size = pixels.shape[:2]
        grid = size // self.patch
        patches = pixels.reshape(n * grid, self.patch, grid, -1).transpose(1, 2)
        return super().forward(patches.reshape(n, grid * grid, -1))
