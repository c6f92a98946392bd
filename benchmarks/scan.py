"""The selective scan of one direction of one layer in every form we have, timed side by side in one run.

    python benchmarks/scan.py [--rounds 15] [--copy baseline|avx512] [--output build/benchmarks/scan.json]

Prints a table, writes the same as JSON, and exits with status 1 when a bar is missed. Needs onnx and onnxruntime
besides the development requirements. Forms take turns and the best round of each counts, because other programs
disturb a shared machine in bursts.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower
from executorch.exir.passes import MemoryPlanningPass
from executorch.extension.pybindings import _C
from mvgpt_export.ops import fused_scan
from mvgpt_export.ops.selective_scan import selective_scan_loop, selective_scan_stock
from mvgpt_runtime import build_kernels, kernels
from onnx import TensorProto, helper
from torch import nn

L, D_INNER, D_STATE, DT_RANK, D_CONV = 1569, 1152, 16, 36, 4  # VideoMamba-M on 8 frames
STOCK_BAR, FLOOR_BAR = 20.0, 1.6
SLOW_ROUNDS = 3  # for forms that take half a second

Run = Callable[[], object]


def tensors() -> dict[str, torch.Tensor]:
    """Inputs as in a trained network's range; A, D and the steps as Mamba initialises them."""
    torch.manual_seed(0)
    steps = torch.exp(torch.rand(D_INNER) * math.log(100) + math.log(0.001))  # 0.001 … 0.1
    return {
        "xz": torch.randn(L, 2 * D_INNER),
        "u": torch.randn(L, D_INNER),
        "xdbl": torch.randn(L, DT_RANK + 2 * D_STATE),
        "dt": torch.randn(L, D_INNER) / 2,
        "A2": (-torch.arange(1.0, D_STATE + 1) / math.log(2)).unsqueeze(1).repeat(1, D_INNER),
        "D": torch.ones(D_INNER),
        "dt_bias": steps + torch.log(-torch.expm1(-steps)),  # the inverse of softplus
    }


class FusedScan(nn.Module):
    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return torch.ops.mvgpt.selective_scan(*inputs, False)


class FusedConv(nn.Module):
    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return torch.ops.mvgpt.causal_conv1d_silu(*inputs, False)


class StockScan(nn.Module):
    """The recurrence in the stock form; step sizes and gate come ready."""

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return selective_scan_stock(*inputs)


class StockOperator(nn.Module):
    """All that the fused operator does, from the same inputs, in the stock form."""

    def forward(
        self,
        xz: torch.Tensor,
        u: torch.Tensor,
        xdbl: torch.Tensor,
        dt: torch.Tensor,
        A2: torch.Tensor,
        D: torch.Tensor,
        dt_bias: torch.Tensor,
    ) -> torch.Tensor:
        _, B, C = xdbl.split([DT_RANK, D_STATE, D_STATE], dim=-1)
        delta = nn.functional.softplus(dt + dt_bias)
        y = selective_scan_stock(u, delta, A2.transpose(0, 1) * math.log(2), B, C, D)
        return y * nn.functional.silu(xz[:, D_INNER:])


def program(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Run:
    """`module` as a loaded ExecuTorch program; its threads are those of the pool at this moment."""
    edge = to_edge_transform_and_lower(
        torch.export.export(module, inputs, strict=True),
        partitioner=[XnnpackPartitioner()],
        compile_config=EdgeCompileConfig(_check_ir_validity=False),
    )
    # Inputs are used where they are: copying them into the arena would be timed, and inside a network does not happen.
    config = ExecutorchBackendConfig(memory_planning_pass=MemoryPlanningPass(alloc_graph_input=False))
    content = edge.to_executorch(config).buffer  # not copied by the runtime: the function below keeps it
    loaded = _C._load_for_executorch_from_buffer(content)
    return lambda: (loaded.run_method("forward", inputs, clone_outputs=False), content)[0][0]


def onnx_scan(inputs: tuple[torch.Tensor, ...], threads: int) -> Run:
    """ONNX's Scan operator over u, Δ, B, C; the body is one step."""
    u, delta, A, B, C, D = inputs
    axis = {
        name: helper.make_tensor(name, TensorProto.INT64, [1], [value]) for name, value in (("last", 1), ("first", 0))
    }

    def value(name: str, *shape: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))

    def node(operator: str, arguments: str, result: str) -> Any:
        return helper.make_node(operator, arguments.split(), [result])

    step = helper.make_graph(
        [
            node("Unsqueeze", "delta_t last", "d"),
            node("Mul", "d A", "exponent"),
            node("Exp", "exponent", "decay"),
            node("Mul", "decay h", "kept"),
            node("Mul", "delta_t u_t", "du"),
            node("Unsqueeze", "du last", "du_column"),
            node("Unsqueeze", "B_t first", "B_row"),
            node("Mul", "du_column B_row", "added"),
            node("Add", "kept added", "h_next"),
            node("MatMul", "h_next C_t", "y_t"),
        ],
        "step",
        [value("h", D_INNER, D_STATE), value("u_t", D_INNER), value("delta_t", D_INNER), value("B_t", D_STATE),
         value("C_t", D_STATE)],
        [value("h_next", D_INNER, D_STATE), value("y_t", D_INNER)],
    )  # fmt: skip
    named = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "h0": torch.zeros_like(A)}
    graph = helper.make_graph(
        [
            helper.make_node(
                "Scan", ["h0", "u", "delta", "B", "C"], ["h_last", "scanned"], body=step, num_scan_inputs=4
            ),
            node("Mul", "D u", "skip"),
            node("Add", "scanned skip", "y"),
        ],
        "scan",
        [value(name, *tensor.shape) for name, tensor in named.items()],
        [value("y", L, D_INNER)],
        initializer=list(axis.values()),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    feed = {name: tensor.numpy() for name, tensor in named.items()}
    return lambda: session.run(None, feed)[0]


def native(given: dict[str, torch.Tensor], delta: torch.Tensor, folder: Path) -> tuple[Run, Run]:
    """The kernel by itself and its exponentials alone; both on the calling thread."""
    compiler, sources = build_kernels.find_compiler(), build_kernels.source_folder()
    if compiler is None or sources is None:
        sys.exit("this benchmark needs a C++ compiler and the clone")
    library = kernels.load()
    flags = build_kernels.copies()[library.mvgpt_kernels_name().decode()]
    floor = folder / "exp_floor.so"
    source = Path(__file__).parent / "exp_floor.cpp"
    command = [*compiler, *flags, "-shared", f"-I{sources}", str(source), "-o", str(floor)]
    subprocess.run(command, check=True)
    exponentials = ctypes.CDLL(str(floor)).exponentials
    exponentials.restype = ctypes.c_float
    size, pointer = ctypes.c_int64, ctypes.c_void_p
    exponentials.argtypes = [size, size, size, pointer, pointer]
    kernel = library.mvgpt_selective_scan
    kernel.argtypes = [*[size] * 4, *[pointer] * 7, ctypes.c_int, pointer]
    sizes, out = (L, D_INNER, D_STATE, DT_RANK), torch.empty(L, D_INNER)
    return (
        lambda: kernel(*sizes, *(t.data_ptr() for t in given.values()), False, out.data_ptr()),
        lambda: exponentials(L, D_INNER, D_STATE, delta.data_ptr(), given["A2"].data_ptr()),
    )


def milliseconds(forms: dict[str, Run], rounds: int) -> dict[str, float]:
    best = dict.fromkeys(forms, math.inf)
    for run in forms.values():
        run()  # first calls allocate
    for turn in range(rounds):
        for name, run in forms.items():
            if turn >= SLOW_ROUNDS and best[name] > 100:
                continue
            start = time.perf_counter()
            run()
            best[name] = min(best[name], 1e3 * (time.perf_counter() - start))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--copy", choices=build_kernels.copies(), help="of the kernels; default: the fastest")
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks/scan.json"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # torch.export's own
    if options.copy and not kernels.use(options.copy):
        sys.exit(f"this processor lacks the instructions of the {options.copy} kernels")
    print(f"the {kernels.load().mvgpt_kernels_name().decode()} kernels")
    given = tensors()
    delta = torch.nn.functional.softplus(given["dt"] + given["dt_bias"])
    A = (given["A2"].T * math.log(2)).contiguous()
    B, C = (t.contiguous() for t in given["xdbl"][:, DT_RANK:].split(D_STATE, dim=1))
    plain = (given["u"], delta, A, B, C, given["D"])
    conv = (given["xz"], torch.randn(D_CONV, D_INNER), torch.randn(D_INNER))

    measured: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            _C._unsafe_reset_threadpool(threads)
            forms = {
                "fused, ExecuTorch program": program(FusedScan(), tuple(given.values())),
                "stock, ExecuTorch program": program(StockOperator(), tuple(given.values())),
                "stock, recurrence only": program(StockScan(), plain),
                "torch eager loop": lambda: selective_scan_loop(*plain),
                "ONNX Runtime Scan": onnx_scan(plain, threads),
                "fused conv, ExecuTorch program": program(FusedConv(), conv),
            }
            if threads == 1:
                forms["fused kernel alone"], forms["exponentials alone"] = native(given, delta, Path(folder))
                agree(forms, given)
            measured[threads] = milliseconds(forms, options.rounds)
    report(measured, options.output)


def agree(forms: dict[str, Run], given: dict[str, torch.Tensor]) -> None:
    """All forms compute the same thing: only then may their times be compared. (Whole operators gate by z as well.)"""
    expected = fused_scan.selective_scan_loop(*(t.double() for t in given.values()), False)
    gate = torch.nn.functional.silu(given["xz"][:, D_INNER:].double())
    for name in (
        "fused, ExecuTorch program",
        "stock, ExecuTorch program",
        "stock, recurrence only",
        "torch eager loop",
        "ONNX Runtime Scan",
    ):
        got = torch.as_tensor(np.asarray(forms[name]())).double()
        error = (got if "program" in name else got * gate) - expected
        relative = float(error.square().mean().sqrt() / expected.square().mean().sqrt())
        print(f"{name:32} rms error against float64 {relative:.1e}")
        if relative > 1e-5:
            sys.exit(f"{name} computes something else")


def report(measured: dict[int, dict[str, float]], output: Path) -> None:
    fused, stock = "fused, ExecuTorch program", "stock, ExecuTorch program"
    print(f"\none direction of one layer, L = {L}, d_inner = {D_INNER}, d_state = {D_STATE}; ms, best round")
    print(f"{'':32} {'1 thread':>10} {'2 threads':>10}")
    for name, one in measured[1].items():
        two = f"{measured[2][name]:10.2f}" if name in measured[2] else f"{'–':>10}"
        print(f"{name:32} {one:10.2f} {two}")
    bars = {
        "fused against stock, 1 thread": (measured[1][stock] / measured[1][fused], ">=", STOCK_BAR),
        "fused against stock, 2 threads": (measured[2][stock] / measured[2][fused], ">=", STOCK_BAR),
        "fused against its exponentials": (
            measured[1]["fused kernel alone"] / measured[1]["exponentials alone"], "<=", FLOOR_BAR,
        ),
    }  # fmt: skip
    held = {name: ratio >= bar if sign == ">=" else ratio <= bar for name, (ratio, sign, bar) in bars.items()}
    print()
    for name, (ratio, sign, bar) in bars.items():
        print(f"{name:32} {ratio:10.2f}   bar {sign} {bar}   {'held' if held[name] else 'MISSED'}")
    output.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "machine": f"{platform.machine()}, {platform.processor() or platform.system()}",
        "shape": {"L": L, "d_inner": D_INNER, "d_state": D_STATE, "dt_rank": DT_RANK},
        "milliseconds": {f"{threads} thread(s)": times for threads, times in measured.items()},
        "bars": {name: {"ratio": r, "bar": f"{s} {b}", "held": held[name]} for name, (r, s, b) in bars.items()},
    }
    output.write_text(json.dumps(record, indent=2) + "\n")
    sys.exit(0 if all(held.values()) else 1)


if __name__ == "__main__":
    main()
