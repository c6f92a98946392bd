"""The selective scan of Mamba (Gu & Dao 2023, arXiv 2312.00752, section 3), the recurrence of the video encoder.

    h_t = exp(Δ_t · A) ⊙ h_{t−1} + (Δ_t · u_t) ⊗ B_t,   y_t = h_t · C_t + D ⊙ u_t,   h_0 = 0

Shapes: u, delta [L, d_inner]; A [d_inner, d_state] (negative); B, C [L, d_state]; D [d_inner]; y [L, d_inner].
State and decay are in the inputs' dtype, float32 in every network here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch._higher_order_ops.scan import scan

SelectiveScan = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor
]


def selective_scan_loop(
    u: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor, D: torch.Tensor
) -> torch.Tensor:
    """The definition, one step at a time: what the eager model runs. (Tracing it would unroll L steps.)"""
    state = torch.zeros_like(A)
    rows = []
    for t in range(u.shape[0]):
        step = delta[t].unsqueeze(1)
        state = torch.exp(step * A) * state + (step * u[t].unsqueeze(1)) * B[t]
        rows.append(state @ C[t])
    return torch.stack(rows) + D * u


def selective_scan_stock(
    u: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor, D: torch.Tensor
) -> torch.Tensor:
    """The same through `torch.ops.higher_order.scan`, which an unmodified ExecuTorch runtime executes as a loop."""

    def step(
        state: torch.Tensor, row: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        u_t, delta_t, b_t, c_t = row
        d = delta_t.unsqueeze(1)
        state = torch.exp(d * A) * state + (d * u_t.unsqueeze(1)) * b_t.unsqueeze(0)
        y_t = (state * c_t.unsqueeze(0)).sum(1)
        return state, y_t.clone()  # the runtime writes the carry in place: an output may not alias it

    _, y = scan(step, torch.zeros_like(A), (u, delta, B, C))
    return y + D * u
