"""This machine's limits and how near the stages come: memory's bandwidth, XNNPACK's rate in every arithmetic, times.

In the exporter, because the rates are those of the kernels that bundles run: linear layers of each scheme, lowered.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from mvgpt_runtime.bench.estimate.counts import Counts
from mvgpt_runtime.bench.estimate.devices import HERE, Device
from mvgpt_runtime.bench.estimate.roofline import Call, Estimate, bound, estimate
from mvgpt_runtime.engines.executorch import ExecuTorchEngine, native_log
from mvgpt_runtime.engines.profile import Workload, workloads
from mvgpt_runtime.manifest import Bundle

from .backends import Report

if TYPE_CHECKING:
    from torch import nn

ROUNDS = 6
"""Everything is measured in each round and the best is kept: of a machine that others share, one moment says little."""

BUFFER_BYTES, PASSES = 1 << 30, 4
# Layers of the 0.5B model's language model and image encoder, in products of many rows, where loading weights is
# little; the best is the limit.
SHAPES = ((896, 4864), (768, 3072), (768, 768))
ROWS = 512
RATE_BUDGET_S, TIME_BUDGET_S = 0.3, 0.5  # of a layer, of a stage, each round


def measure_here(bundle: Bundle, threads: int | None, report: Report) -> tuple[Estimate, list[float]]:
    """This machine's limits, what they mean for `profile.workloads`, and the shortest time of each in ms.

    `threads`: None, all cores this process may use. `report` is told what is measured next.

    Raises:
        MvgptError: operators of the bundle cannot be counted or run.
    """
    threads = threads or _cores()
    counts, loads = Counts(bundle), list(workloads(bundle.geometry))
    calls = [_call(load) for load in loads]
    kinds = sorted({"fp32"}.union(*(counts.work(c.stage, c.rows, c.start_pos).macs for c in calls)))
    engine = ExecuTorchEngine(bundle, threads)
    layers = {}
    for kind in kinds:
        report(f"lowering linear layers, {kind}")
        layers[kind] = [Layer(kind, *shape) for shape in SHAPES]
    bandwidth, rates, times = 0.0, dict.fromkeys(kinds, 0.0), [math.inf] * len(loads)
    for turn in range(ROUNDS):
        where = f"round {turn + 1} of {ROUNDS}"
        report(f"{where}: memory and products")
        bandwidth = max(bandwidth, read_bandwidth(threads))
        for kind in kinds:
            rates[kind] = max(rates[kind], *(layer.rate() for layer in layers[kind]))
        for i, load in enumerate(loads):
            report(f"{where}: {load.stage}, {load.name}")
            times[i] = min(times[i], _shortest(partial(engine.run, load.stage, load.inputs), TIME_BUDGET_S) * 1e3)
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


class Layer:
    """A linear layer without bias on XNNPACK, ROWS rows at a time, on the threads of the process-wide pool."""

    def __init__(self, arithmetic: str, columns: int, outputs: int) -> None:
        import torch
        from executorch.extension.pybindings import _C

        layer = torch.nn.Sequential(torch.nn.Linear(columns, outputs, bias=False))
        self._program = linear_program(layer, arithmetic, columns, ROWS)  # the method does not keep it
        with native_log():
            self._method = _C._load_for_executorch_from_buffer(self._program)
        self._inputs = (torch.randn(ROWS, columns),)
        self._macs = ROWS * columns * outputs

    def rate(self) -> float:
        """Multiply-accumulates per second, the best of the runs in RATE_BUDGET_S."""
        return self._macs / _shortest(partial(self._method.forward, self._inputs, clone_outputs=False), RATE_BUDGET_S)


def linear_program(module: nn.Module, arithmetic: str, columns: int, most_rows: int) -> bytes:
    """A program of linear layers on XNNPACK; they are quantized in place. Its input: float32 [1..most_rows, columns].

    `arithmetic`: "fp32", or a scheme of quant.py.
    """
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    from .quant import Recipe, Rule, quantize

    module.eval().requires_grad_(False)
    if arithmetic != "fp32":
        quantize(module, "text_decoder", Recipe((Rule("text_decoder", ".*", arithmetic),)))
    rows = {0: torch.export.Dim("rows", min=1, max=most_rows)}
    exported = torch.export.export(module, (torch.zeros(most_rows, columns),), dynamic_shapes=(rows,), strict=False)
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


def _shortest(run: Callable[[], object], budget_s: float) -> float:
    """Seconds of the shortest run of at least two, and of as many as there is time for."""
    seconds: list[float] = []
    while len(seconds) < 2 or sum(seconds) < budget_s:
        seconds.append(_elapsed(run))
    return min(seconds)


def _elapsed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _cores() -> int:
    """That this process may use; macOS does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
