"""XNNPACK's linear layer in every scheme of weights: operations per second by rows, the ceiling of prefill.

    python benchmarks/gemm.py

896 → 9,728, as the 0.5B model's gate and up; best of five on 1 and 2 threads.
"""

from __future__ import annotations

import logging
import time
import warnings

import torch
from executorch.extension.pybindings import _C
from mvgpt_export.limits import linear_program

COLUMNS, OUTPUTS, MOST_ROWS = 896, 9728, 512
SCHEMES = ("fp32", "8da8w", "8da4w-32", "8da4w-64", "8da4w-128", "8da4w")


def main() -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    for scheme in SCHEMES:
        buffer = linear_program(scheme, COLUMNS, OUTPUTS, MOST_ROWS)
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
            print(f"{scheme:10} {threads} thread(s), GOP/s: {', '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
