"""How the fused operators check their arguments, in torch's terms."""

from __future__ import annotations

import torch


def expect(name: str, tensor: torch.Tensor, *sizes: int | None, dtype: torch.dtype = torch.float32) -> None:
    """An error unless `tensor` has these sizes (None: any) and this dtype."""
    fits = tensor.dim() == len(sizes) and all(
        want is None or have == want for have, want in zip(tensor.shape, sizes, strict=True)
    )
    require(
        fits and tensor.dtype == dtype,
        f"{name} is {tensor.dtype} {list(tensor.shape)}, expected {dtype} {list(sizes)}",
    )


def require(condition: bool, message: str) -> None:
    """An error with `message` unless `condition` holds."""
    torch._check(condition, lambda: message)
