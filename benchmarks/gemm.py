"""XNNPACK's linear layers by themselves: what a scheme of weights, and joining two layers, does for speed.

    python benchmarks/gemm.py

Operations per second in every scheme by rows, the ceiling of prefill; and the microseconds of 4-bit gate and up (or
queries, keys and values) as layers of their own and as one whose output is split. Shapes are the 0.5B model's.
"""

from __future__ import annotations

import logging
import time
import warnings

import torch
import torch.nn.functional as F
from executorch.extension.pybindings import _C
from mvgpt_export.limits import linear_program
from torch import nn

COLUMNS, GATE, QUERIES, KEYS_AND_VALUES, MOST_ROWS = 896, 4864, 896, 256, 512
SCHEMES = ("fp32", "8da8w", "8da4w-32", "8da4w-64", "8da4w-128", "8da4w")


class Layers(nn.Module):
    """Linear layers of the same input, or one for all whose output is split."""

    def __init__(self, sizes: tuple[int, ...], *, joined: bool) -> None:
        super().__init__()
        self.sizes = sizes
        self.layers = nn.ModuleList(nn.Linear(COLUMNS, n, bias=False) for n in ((sum(sizes),) if joined else sizes))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = [layer(x) for layer in self.layers]
        return tuple(outputs if len(outputs) == len(self.sizes) else outputs[0].split(self.sizes, dim=-1))


class GateAndUp(Layers):
    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        gate, up = super().forward(x)
        return F.silu(gate) * up


def seconds(method: object, rows: int) -> float:
    """Of one call: the best of five means."""
    x = torch.randn(rows, COLUMNS)
    method.forward((x,))  # type: ignore[attr-defined]
    means, repeats = [], max(1, 64 // rows)
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(repeats):
            method.forward((x,))  # type: ignore[attr-defined]
        means.append((time.perf_counter() - start) / repeats)
    return min(means)


def main() -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    for scheme in SCHEMES:
        buffer = linear_program(Layers((2 * GATE,), joined=True), scheme, COLUMNS, MOST_ROWS)
        for threads in (1, 2):
            _C._unsafe_reset_threadpool(threads)
            method = _C._load_for_executorch_from_buffer(buffer)
            speeds = {m: 2 * m * COLUMNS * 2 * GATE / seconds(method, m) / 1e9 for m in (1, 32, 144, 512)}
            cells = ", ".join(f"{m} rows {speed:6.1f}" for m, speed in speeds.items())
            print(f"{scheme:10} {threads} thread(s), GOP/s: {cells}", flush=True)

    # In turns, since a shared machine's speed changes; the best of each counts.
    for what, kind, sizes in (
        ("gate and up", GateAndUp, (GATE, GATE)),
        ("q, k, v", Layers, (QUERIES, KEYS_AND_VALUES)),
    ):
        forms = {
            ("joined" if j else "apart"): linear_program(kind(sizes, joined=j), "8da4w-32", COLUMNS, MOST_ROWS)
            for j in (False, True)
        }
        for threads in (1, 2):
            _C._unsafe_reset_threadpool(threads)
            methods = {form: _C._load_for_executorch_from_buffer(buffer) for form, buffer in forms.items()}
            for rows in (1, 144):
                best = dict.fromkeys(forms, float("inf"))
                for _ in range(10):
                    for form, method in methods.items():
                        best[form] = min(best[form], seconds(method, rows))
                cells = ", ".join(f"{form} {second * 1e6:7.1f}" for form, second in best.items())
                print(f"{what:11} {threads} thread(s), {rows:3} rows, µs: {cells}", flush=True)


if __name__ == "__main__":
    main()
