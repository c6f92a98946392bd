"""This machine's limits and how near the stages come: memory's bandwidth, XNNPACK's rate in every arithmetic, times.

In the exporter, because the rates are those of the kernels that bundles run: linear layers of each scheme, lowered.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from statistics import median

import numpy as np
from mvgpt_runtime.bench.estimate.counts import Counts
from mvgpt_runtime.bench.estimate.devices import HERE, Device
from mvgpt_runtime.bench.estimate.roofline import Call, Estimate, bound, estimate
from mvgpt_runtime.engines.executorch import ExecuTorchEngine, native_log
from mvgpt_runtime.engines.profile import Workload, workloads
from mvgpt_runtime.manifest import Bundle

from .backends import Report

BUFFER_BYTES, PASSES = 1 << 30, 10
# Layers of the 0.5B model's language model and image encoder, in products of many rows, where loading weights is
# little; the best is the limit.
SHAPES = ((896, 4864), (768, 3072), (1024, 1024))
ROWS, RATE_BUDGET_S = 512, 0.7
TIME_BUDGET_S, LEAST_RUNS = 2.0, 5


def measure_here(bundle: Bundle, threads: int | None, report: Report) -> tuple[Estimate, list[float]]:
    """This machine's limits, what they mean for `profile.workloads`, and the median time of each in ms.

    `threads`: None, all cores this process may use. `report` is told what is measured next.

    Raises:
        MvgptError: operators of the bundle cannot be counted or run.
    """
    threads = threads or _cores()
    counts, geometry = Counts(bundle), bundle.geometry
    loads = list(workloads(geometry))
    calls = [_call(load) for load in loads]
    kinds = sorted({"fp32"}.union(*(counts.work(c.stage, c.rows, c.start_pos).macs for c in calls)))
    report("measuring memory")
    bandwidth = read_bandwidth(threads)
    rates = {}
    for kind in kinds:
        report(f"measuring {kind}")
        rates[kind] = gemm_rate(kind, threads)
    times = []
    for load in loads:
        report(f"running {load.stage}, {load.name}")
        times.append(_time(bundle, load, threads))
    bandwidth = max(bandwidth, read_bandwidth(threads))  # of a machine that others share, too
    device = Device(HERE, bandwidth, rates, threads, "measured: numpy sums of 1 GiB; XNNPACK's linear layers")
    bounds = [bound(counts, device, [call], load.name) for call, load in zip(calls, loads, strict=True)]
    return replace(estimate(bundle, device), stages=tuple(bounds)), times


def read_bandwidth(threads: int) -> float:
    """Bytes per second that sums of integers read, the best of PASSES over BUFFER_BYTES."""
    buffer = np.ones(BUFFER_BYTES // 8, np.uint64)  # written, so that it has pages of its own
    parts = np.array_split(buffer, threads)
    with ThreadPoolExecutor(threads) as pool:
        seconds = [_elapsed(lambda: list(pool.map(np.add.reduce, parts))) for _ in range(PASSES)]
    return BUFFER_BYTES / min(seconds)


def gemm_rate(arithmetic: str, threads: int) -> float:
    """Multiply-accumulates per second of XNNPACK's linear layer in `arithmetic`, the best of SHAPES and many runs."""
    import torch
    from executorch.extension.pybindings import _C

    best = 0.0
    for columns, outputs in SHAPES:
        program = linear_program(arithmetic, columns, outputs, ROWS)
        with native_log():
            _C._unsafe_reset_threadpool(threads)
            method = _C._load_for_executorch_from_buffer(program)  # which does not keep the buffer
        x = torch.randn(ROWS, columns)
        method.forward((x,))
        spent = 0.0
        while spent < RATE_BUDGET_S:
            seconds = _elapsed(lambda: method.forward((x,)))  # noqa: B023  called at once
            spent += seconds
            best = max(best, ROWS * columns * outputs / seconds)
    return best


def linear_program(arithmetic: str, columns: int, outputs: int, most_rows: int) -> bytes:
    """A program of one linear layer, float32 [1..most_rows, columns] → float32 [rows, outputs], on XNNPACK.

    `arithmetic`: "fp32", or a scheme of quant.py.
    """
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    from .quant import Recipe, Rule, quantize

    layer = torch.nn.Sequential(torch.nn.Linear(columns, outputs, bias=False)).eval().requires_grad_(False)
    if arithmetic != "fp32":
        quantize(layer, "text_decoder", Recipe((Rule("text_decoder", "0", arithmetic),)))
    rows = {0: torch.export.Dim("rows", min=1, max=most_rows)}
    exported = torch.export.export(layer, (torch.zeros(most_rows, columns),), dynamic_shapes=(rows,), strict=False)
    edge = to_edge_transform_and_lower(
        exported, partitioner=[XnnpackPartitioner()], compile_config=EdgeCompileConfig(_check_ir_validity=False)
    )
    return bytes(edge.to_executorch().buffer)


def _call(load: Workload) -> Call:
    """What `load` is to the counts."""
    if load.stage == "text_decoder":
        rows, start_pos = load.inputs
        return Call(load.stage, rows.shape[1], int(start_pos[0]))
    return Call(load.stage, load.inputs[0].shape[1]) if load.stage == "token_embedding" else Call(load.stage)


def _time(bundle: Bundle, load: Workload, threads: int) -> float:
    """Median ms of `Engine.run`, warm. Every stage has an engine of its own, which is gone afterwards."""
    engine = ExecuTorchEngine(bundle, threads)
    engine.run(load.stage, load.inputs)
    seconds: list[float] = []
    while len(seconds) < LEAST_RUNS or sum(seconds) < TIME_BUDGET_S:
        seconds.append(_elapsed(lambda: engine.run(load.stage, load.inputs)))
    return median(seconds) * 1e3


def _elapsed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _cores() -> int:
    """That this process may use; macOS does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
