"""The fused operators of the video encoder as torch sees them: schemas, shapes, CPU implementations, references.

    causal_conv1d_silu(xz, w, b, reverse) → u
    selective_scan(xz, u, xdbl, dt, A2, D, dt_bias, reverse) → y

Shapes, all float32: xz [L, 2·d_inner] is in_proj's output (x, then z); w [d_conv, d_inner]; u, y [L, d_inner];
xdbl [L, dt_rank + 2·d_state] is x_proj(u) (dt's input, then B and C); dt [L, d_inner] is dt_proj's output without its
bias; A2 [d_state, d_inner] = −exp(A_log)ᵀ · log2(e); b, D, dt_bias [d_inner]. `reverse` runs a step against time; its
output stays in the order of time. Programs call the C++ kernels in `runtime/kernels`; so do the CPU implementations,
through ctypes. `*_loop` are the definitions, in the dtype of their inputs.
"""

from __future__ import annotations

import ctypes
import functools

import torch
import torch.nn.functional as F
from mvgpt_runtime import kernels

from .checks import expect, require

_CONV = "causal_conv1d_silu(Tensor xz, Tensor w, Tensor b, bool reverse"
_SCAN = "selective_scan(Tensor xz, Tensor u, Tensor xdbl, Tensor dt, Tensor A2, Tensor D, Tensor dt_bias, bool reverse"
MAX_STATE = 256  # the kernel's scratch memory: kMaxState in selective_scan.h

OPERATORS = ("mvgpt::causal_conv1d_silu", "mvgpt::selective_scan")

_library = torch.library.Library(kernels.NAMESPACE, "FRAGMENT")
for _schema in (_CONV, _SCAN):
    _name, _, _arguments = _schema.partition("(")
    _library.define(f"{_schema}) -> Tensor")
    _library.define(f"{_name}.out({_arguments}, *, Tensor(a!) out) -> Tensor(a!)")


def _check_conv(xz: torch.Tensor, w: torch.Tensor, b: torch.Tensor, reverse: bool) -> torch.Tensor:
    """The shape of the output; an error for arguments that do not fit."""
    expect("xz", xz, None, None)
    expect("w", w, None, None)
    require(w.shape[0] >= 1, "w has no taps")
    d_inner = w.shape[1]
    expect("xz", xz, None, 2 * d_inner)
    expect("b", b, d_inner)
    return xz.new_empty([xz.shape[0], d_inner])


def _check_scan(
    xz: torch.Tensor,
    u: torch.Tensor,
    xdbl: torch.Tensor,
    dt: torch.Tensor,
    A2: torch.Tensor,
    D: torch.Tensor,
    dt_bias: torch.Tensor,
    reverse: bool,
) -> torch.Tensor:
    expect("u", u, None, None)
    length, d_inner = u.shape
    expect("A2", A2, None, d_inner)
    d_state = A2.shape[0]
    require(1 <= d_state <= MAX_STATE, f"d_state is 1 to {MAX_STATE}, not {d_state}")
    expect("xdbl", xdbl, length, None)
    require(xdbl.shape[1] >= 2 * d_state, f"xdbl has {xdbl.shape[1]} columns, B and C need {2 * d_state}")
    expect("xz", xz, length, 2 * d_inner)
    expect("dt", dt, length, d_inner)
    expect("D", D, d_inner)
    expect("dt_bias", dt_bias, d_inner)
    return torch.empty_like(u, memory_format=torch.contiguous_format)


@functools.cache
def _native() -> ctypes.CDLL:
    library = kernels.load()
    size, pointer, flag = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int
    library.mvgpt_causal_conv1d_silu.argtypes = [*[size] * 3, *[pointer] * 3, flag, pointer]
    library.mvgpt_selective_scan.argtypes = [*[size] * 4, *[pointer] * 7, flag, pointer]
    library.mvgpt_causal_conv1d_silu.restype = library.mvgpt_selective_scan.restype = None
    return library


def _conv_cpu(xz: torch.Tensor, w: torch.Tensor, b: torch.Tensor, reverse: bool) -> torch.Tensor:
    out = _check_conv(xz, w, b, reverse)
    tensors = [t.contiguous() for t in (xz, w, b)]
    sizes = xz.shape[0], w.shape[1], w.shape[0]
    _native().mvgpt_causal_conv1d_silu(*sizes, *(t.data_ptr() for t in tensors), reverse, out.data_ptr())
    return out


def _scan_cpu(
    xz: torch.Tensor,
    u: torch.Tensor,
    xdbl: torch.Tensor,
    dt: torch.Tensor,
    A2: torch.Tensor,
    D: torch.Tensor,
    dt_bias: torch.Tensor,
    reverse: bool,
) -> torch.Tensor:
    out = _check_scan(xz, u, xdbl, dt, A2, D, dt_bias, reverse)
    tensors = [t.contiguous() for t in (xz, u, xdbl, dt, A2, D, dt_bias)]
    sizes = *u.shape, A2.shape[0], xdbl.shape[1] - 2 * A2.shape[0]
    _native().mvgpt_selective_scan(*sizes, *(t.data_ptr() for t in tensors), reverse, out.data_ptr())
    return out


_library.impl("causal_conv1d_silu", _check_conv, "Meta")
_library.impl("selective_scan", _check_scan, "Meta")
_library.impl("causal_conv1d_silu", _conv_cpu, "CPU")
_library.impl("selective_scan", _scan_cpu, "CPU")
# ExecuTorch looks the .out forms up to plan memory; a program never runs them in torch.
_library.impl("causal_conv1d_silu.out", lambda *arguments, out: out.copy_(_conv_cpu(*arguments)), "CPU")
_library.impl("selective_scan.out", lambda *arguments, out: out.copy_(_scan_cpu(*arguments)), "CPU")


def causal_conv1d_silu_loop(xz: torch.Tensor, w: torch.Tensor, b: torch.Tensor, reverse: bool) -> torch.Tensor:
    """The definition of causal_conv1d_silu."""
    length, (d_conv, d_inner) = xz.shape[0], w.shape
    rows = []
    for t in range(length):
        row = b.clone()
        for k in range(d_conv):
            source = t + (d_conv - 1 - k) * (1 if reverse else -1)
            if 0 <= source < length:
                row += w[k] * xz[source, :d_inner]
        rows.append(F.silu(row))
    return torch.stack(rows)


def selective_scan_loop(
    xz: torch.Tensor,
    u: torch.Tensor,
    xdbl: torch.Tensor,
    dt: torch.Tensor,
    A2: torch.Tensor,
    D: torch.Tensor,
    dt_bias: torch.Tensor,
    reverse: bool,
) -> torch.Tensor:
    """The definition of selective_scan."""
    d_state, d_inner = A2.shape
    B, C = xdbl[:, -2 * d_state : -d_state], xdbl[:, -d_state:]
    x = dt + dt_bias
    delta = x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))  # F.softplus is linear above 20
    state = torch.zeros_like(A2)
    y = torch.zeros_like(u)
    for t in reversed(range(len(u))) if reverse else range(len(u)):
        state = torch.exp2(delta[t] * A2) * state + (delta[t] * u[t]) * B[t].unsqueeze(1)
        y[t] = C[t] @ state + D * u[t]
    return y * F.silu(xz[:, d_inner:])
