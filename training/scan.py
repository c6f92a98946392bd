"""VideoMamba's recurrence over a batch, with gradients: `ops/selective_scan.py`'s definition, time first.

Everything but the recurrence itself is done for all steps at once; a step is one multiply-add over directions, clips,
channels and states. Autograd would keep three arrays per step; here two of all steps are kept.
"""

from __future__ import annotations

from typing import Any

import torch


class _Scan(torch.autograd.Function):
    """u, delta [L, G, B, D]; A [G, D, N]; B, C [L, G, B, N] → y [L, G, B, D]; G scans with an A each, no D term."""

    @staticmethod
    def forward(
        ctx: Any, u: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor
    ) -> torch.Tensor:
        decay = torch.exp(delta.unsqueeze(-1) * A.unsqueeze(1))
        states = (delta * u).unsqueeze(-1) * B.unsqueeze(-2)
        for t in range(1, len(states)):
            states[t].addcmul_(decay[t], states[t - 1])
        ctx.save_for_backward(u, delta, A, B, C, decay, states)
        return torch.matmul(states, C.unsqueeze(-1)).squeeze(-1)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        u, delta, A, B, C, decay, states = ctx.saved_tensors
        g = grad.unsqueeze(-1) * C.unsqueeze(-2)  # towards the states
        for t in range(len(g) - 2, -1, -1):
            g[t].addcmul_(decay[t + 1], g[t + 1])
        grad_C = torch.matmul(grad.unsqueeze(-2), states).squeeze(-2)
        grad_B = torch.matmul((delta * u).unsqueeze(-2), g).squeeze(-2)
        grad_input = torch.matmul(g, B.unsqueeze(-1)).squeeze(-1)
        g[1:] *= states[:-1]
        g[0] = 0
        g *= decay  # now towards the exponents
        grad_delta = grad_input * u + (g * A.unsqueeze(1)).sum(-1)
        g *= delta.unsqueeze(-1)
        grad_A = g.sum((0, 2))
        return grad_input * delta, grad_delta, grad_A, grad_B, grad_C


def selective_scan(
    u: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor
) -> torch.Tensor:
    return _Scan.apply(u, delta, A, B, C)  # type: ignore[no-untyped-call]
