"""XNNPACK's linear layer in every scheme of weights: operations per second by rows, the ceiling of prefill.

    python benchmarks/gemm.py

896 → 9,728, as the 0.5B model's gate and up; best of five on 1 and 2 threads.
"""

from __future__ import annotations

import logging
import time
import warnings

import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower
from executorch.extension.pybindings import _C
from mvgpt_export.quant import Recipe, Rule, quantize

COLUMNS, OUTPUTS, MOST_ROWS = 896, 9728, 512
SCHEMES = (None, "8da8w", "8da4w-32", "8da4w-64", "8da4w-128", "8da4w")


def program(scheme: str | None) -> bytes:
    layer = torch.nn.Sequential(torch.nn.Linear(COLUMNS, OUTPUTS, bias=False)).eval().requires_grad_(False)
    if scheme:
        quantize(layer, "text_decoder", Recipe((Rule("text_decoder", ".*", scheme),)))
    rows = {0: torch.export.Dim("rows", min=1, max=MOST_ROWS)}
    exported = torch.export.export(layer, (torch.zeros(MOST_ROWS, COLUMNS),), dynamic_shapes=(rows,), strict=False)
    edge = to_edge_transform_and_lower(
        exported, partitioner=[XnnpackPartitioner()], compile_config=EdgeCompileConfig(_check_ir_validity=False)
    )
    return edge.to_executorch().buffer


def main() -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    for scheme in SCHEMES:
        buffer = program(scheme)
        for threads in (1, 2):
            _C._unsafe_reset_threadpool(threads)
            method = _C._load_for_executorch_from_buffer(buffer)
            cells = []
            for rows in (1, 32, 144, 512):
                x = torch.randn(rows, COLUMNS)
                method.forward((x,))
                seconds = []
                for _ in range(5):
                    repeats = max(1, 64 // rows)
                    start = time.perf_counter()
                    for _ in range(repeats):
                        method.forward((x,))
                    seconds.append((time.perf_counter() - start) / repeats)
                cells.append(f"{rows} rows {2 * rows * COLUMNS * OUTPUTS / min(seconds) / 1e9:6.1f}")
            print(f"{scheme or 'float32':10} {threads} thread(s), GOP/s: {', '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
