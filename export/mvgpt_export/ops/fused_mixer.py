"""VideoMamba's mixer on the fused operators: the same weights, laid out once at export for the kernels.

The graph of a direction is convolution, x_proj, dt_proj, scan: no transpose, flip or split is left in it, as the
operators read x, z, B and C where in_proj and x_proj wrote them, and run against time themselves.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from ..models.videomamba import Mixer


class FusedDirection(nn.Module):
    """xz [L, 2·d_inner] → y [L, d_inner], gated; in the order of time for both directions."""

    w: torch.Tensor
    b: torch.Tensor
    A2: torch.Tensor
    D: torch.Tensor
    dt_bias: torch.Tensor

    def __init__(
        self,
        conv: nn.Conv1d,
        x_proj: nn.Linear,
        dt_proj: nn.Linear,
        A_log: torch.Tensor,
        D: torch.Tensor,
        reverse: bool,
    ) -> None:
        super().__init__()
        from . import fused_scan  # noqa: F401  registers torch.ops.mvgpt

        assert conv.bias is not None
        self.reverse = reverse
        self.x_proj = x_proj
        self.dt_proj = nn.Linear(dt_proj.in_features, dt_proj.out_features, bias=False)  # the scan adds the bias
        self.dt_proj.weight = dt_proj.weight
        layouts = {
            "w": conv.weight[:, 0].T,
            "b": conv.bias,
            "A2": (-torch.exp(A_log.double()).T * math.log2(math.e)).float(),  # exp(Δ·A) = exp2(Δ·A2)
            "D": D,
            "dt_bias": dt_proj.bias,
        }
        for name, tensor in layouts.items():
            self.register_buffer(name, tensor.detach().contiguous(), persistent=False)

    def forward(self, xz: torch.Tensor) -> torch.Tensor:
        ops = torch.ops.mvgpt
        u = ops.causal_conv1d_silu(xz, self.w, self.b, self.reverse)
        xdbl = self.x_proj(u)
        dt = self.dt_proj(xdbl[:, : self.dt_proj.in_features])
        return ops.selective_scan(xz, u, xdbl, dt, self.A2, self.D, self.dt_bias, self.reverse)


class FusedMixer(nn.Module):
    """[L, width] → [L, width]: what `Mixer` computes."""

    def __init__(self, m: Mixer) -> None:
        super().__init__()
        self.in_proj, self.out_proj = m.in_proj, m.out_proj
        self.forward_scan = FusedDirection(m.conv1d, m.x_proj, m.dt_proj, m.A_log, m.D, reverse=False)
        self.backward_scan = FusedDirection(m.conv1d_b, m.x_proj_b, m.dt_proj_b, m.A_b_log, m.D_b, reverse=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        xz = self.in_proj(x)
        return self.out_proj(self.forward_scan(xz) + self.backward_scan(xz))
