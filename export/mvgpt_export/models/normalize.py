"""First thing in both encoders' graphs: uint8 frames to normalised floats, padding frames to zero."""

from __future__ import annotations

import torch
from torch import nn


class Normalize(nn.Module):
    """frames uint8 [N, S, S, 3], frame_mask float32 [N] → ((x / 255 − mean) / std) · mask, float32 [N, S, S, 3]."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, mean: tuple[float, float, float], std: tuple[float, float, float]) -> None:
        super().__init__()
        wide_mean = torch.tensor(mean, dtype=torch.float64, device="cpu")
        wide_std = torch.tensor(std, dtype=torch.float64, device="cpu")
        self.register_buffer("scale", (1 / (255 * wide_std)).float(), persistent=False)
        self.register_buffer("shift", (-wide_mean / wide_std).float(), persistent=False)

    def forward(self, frames: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        x = frames.to(torch.float32) * self.scale + self.shift
        return x * frame_mask.reshape(-1, 1, 1, 1)
