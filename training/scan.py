"""VideoMamba's recurrence over a batch, with gradients: `ops/selective_scan.py`'s definition, time first.

In C, compiled when first used: as tensor operations, a batch's states are read from memory and written a dozen times.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

SOURCE = Path(__file__).with_name("scan.c")
_TYPES = {torch.float32: "float", torch.float64: "double"}


@cache
def _library() -> ctypes.CDLL:
    compiler, link = os.environ.get("CC", "cc"), ["-shared", "-fPIC"]
    command = [compiler, "-O3", "-ffast-math", "-fPIC", "-c"]
    if sys.platform == "linux":  # Apple's compiler has neither
        command += ["-march=native", "-fopenmp"]
        link += ["-fopenmp"]
    name = hashlib.sha256(SOURCE.read_bytes() + " ".join(command).encode()).hexdigest()[:16]
    built = SOURCE.parent / "checkpoints" / f"scan-{name}.so"
    if not built.is_file():
        built.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=built.parent) as folder:
            new, compiled = Path(folder) / built.name, Path(folder) / "scan.o"
            subprocess.run([*command, str(SOURCE), "-o", str(compiled)], check=True)
            # A link with -ffast-math would make the library, when loaded, flush subnormal numbers of all of Python.
            subprocess.run([compiler, *link, str(compiled), "-o", str(new), "-lm"], check=True)
            new.replace(built)
    return ctypes.CDLL(str(built))


def _call(name: str, tensors: list[torch.Tensor], sizes: list[int]) -> None:
    function = getattr(_library(), f"{name}_{_TYPES[tensors[0].dtype]}")
    assert all(t.is_contiguous() and t.dtype == tensors[0].dtype for t in tensors)
    function(*(ctypes.c_void_p(t.data_ptr()) for t in tensors), *(ctypes.c_long(size) for size in sizes))


class _Scan(torch.autograd.Function):
    """u, delta [L, G, B, D]; A [G, D, N]; B, C [L, G, B, N] → y [L, G, B, D]; G scans with an A each, no D term."""

    @staticmethod
    def forward(ctx: Any, *inputs: torch.Tensor) -> torch.Tensor:
        u, delta, A, B, C = (t.contiguous() for t in inputs)
        A = A.transpose(1, 2).contiguous()
        length, scans, clips, channels = u.shape
        ctx.sizes = [length, scans * clips, clips, channels, A.shape[1]]
        states = u.new_empty(scans * clips, length, A.shape[1], channels)
        y = torch.empty_like(u)
        _call("scan", [u, delta, A, B, C, states, y], ctx.sizes)
        ctx.save_for_backward(u, delta, A, B, C, states)
        return y

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
        u, delta, A, B, C, states = saved = ctx.saved_tensors
        work = torch.zeros_like(states[:, 0])
        grad_u, grad_B, grad_C = (torch.empty_like(t) for t in (u, B, C))
        grad_delta, grad_A = torch.zeros_like(delta), torch.zeros_like(work)
        results = [grad_u, grad_delta, grad_A, grad_B, grad_C]
        _call("scan_gradient", [*saved, grad.contiguous(), work, *results], ctx.sizes)
        return grad_u, grad_delta, grad_A.unflatten(0, (len(A), -1)).sum(1).transpose(1, 2), grad_B, grad_C


def selective_scan(
    u: torch.Tensor, delta: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor
) -> torch.Tensor:
    return _Scan.apply(u, delta, A, B, C)  # type: ignore[no-untyped-call]
