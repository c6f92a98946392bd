"""ExecuTorch programs for CPUs: XNNPACK delegates what it can, portable kernels run the rest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from executorch.backends.xnnpack import _passes as xnnpack_passes
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.xnnpack_preprocess import XnnpackBackend
from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower
from executorch.exir.backend.backend_details import PreprocessResult
from executorch.exir.backend.compile_spec_schema import CompileSpec
from executorch.exir.passes import MemoryPlanningPass
from mvgpt_runtime import contract
from mvgpt_runtime.contract import Geometry
from mvgpt_runtime.engines.program import read_program
from torch.export import ExportedProgram

from ..quant import Recipe
from . import LoweredMethod, LoweredUnit, Report


def lower(
    programs: dict[str, ExportedProgram], recipe: Recipe, geometry: Geometry, license: str, path: Path, report: Report
) -> LoweredUnit:
    """Write `programs` as the methods of one `.pte` file. They come quantized: the partitioner reads torchao's form."""
    report("decompose")
    with _delegates_reported(report), _idle_passes_skipped(), _half_weights_kept():
        edge = to_edge_transform_and_lower(
            programs,
            partitioner=[XnnpackPartitioner()],
            # ExecuTorch's check of the operator set does not know the llama:: operators
            compile_config=EdgeCompileConfig(_check_ir_validity=False),
            constant_methods={contract.METADATA_METHOD: json.dumps(contract.stamp(list(programs), geometry))},
        )
    report("write")
    program = edge.to_executorch(
        ExecutorchBackendConfig(
            extract_delegate_segments=True,
            # State in an arena of its own: methods of one program may share the other, and must not overwrite it.
            memory_planning_pass=MemoryPlanningPass(share_mutable_buffers=True),
        )
    )
    with path.open("wb") as f:
        program.write_to_file(f)
    plans = program.executorch_program.execution_plan
    methods = {n: LoweredMethod(m.delegates, m.outside) for n, m in read_program(path).items() if n in programs}
    return LoweredUnit(methods, sum(sum(plan.non_const_buffer_sizes) for plan in plans))


@contextmanager
def _delegates_reported(report: Report) -> Iterator[None]:
    """Tells of each subgraph that XNNPACK compiles; ExecuTorch offers no such callback."""
    original, count = XnnpackBackend.preprocess, 0

    def preprocess(edge_program: ExportedProgram, compile_specs: list[CompileSpec]) -> PreprocessResult:
        nonlocal count
        count += 1
        report(f"delegate {count}")
        return original(edge_program, compile_specs)

    XnnpackBackend.preprocess = staticmethod(preprocess)
    try:
        yield
    finally:
        XnnpackBackend.preprocess = staticmethod(original)


# Passes over a delegate's graph, and the operators without one of which a pass finds nothing. It retraces the graph all
# the same, and retracing is most of what lowering takes; executorch 1.5.1 offers no way to leave passes out.
_NORMS = {"aten.native_batch_norm.default", "aten._native_batch_norm_legit_no_training.default"}
_COPIES = {
    "aten._to_copy.default",
    "dim_order_ops._to_dim_order_copy.default",
    "dim_order_ops._clone_dim_order.default",
}
_CHANNELS_LAST = {  # copies are put around them
    *("aten.convolution.default", "aten.upsample_bilinear2d.vec", "aten.mean.dim", "aten.max_pool2d.default"),
    *("aten.amax.default", "aten.max.dim", "aten.avg_pool2d.default", "aten.prelu.default"),
}
SOUGHT: dict[Any, set[str]] = {
    xnnpack_passes.ConvertToUpsampleBilinear2d: {"aten.upsample_bilinear2d.vec"},
    xnnpack_passes.ConvertToSDPAPass: {"aten.mul.Scalar"},
    xnnpack_passes.FuseBatchNormPass: _NORMS,
    xnnpack_passes.DecomposeBatchNorm: _NORMS,
    xnnpack_passes.FuseActivationPass: {"aten.relu.default", "aten.hardtanh.default"},
    xnnpack_passes.DecomposeConcatenate: {"aten.cat.default"},
    xnnpack_passes.InsertPadQDQPass: {"aten.constant_pad_nd.default"},
    xnnpack_passes.Conv1dUnsqueezePass: {"aten.convolution.default"},
    xnnpack_passes.PReLUReshapePass: {"aten._prelu_kernel.default"},
    xnnpack_passes.RemoveRedundantCopyPass: _COPIES | _CHANNELS_LAST,
}


@contextmanager
def _idle_passes_skipped() -> Iterator[None]:
    """The same files (tests/test_lowering.py compares them byte for byte), sooner."""
    original = xnnpack_passes.XNNPACKPassManager.transform

    def transform(self: xnnpack_passes.XNNPACKPassManager) -> ExportedProgram:
        called = {_operator(node.target) for node in self.exported_program.graph.nodes if node.op == "call_function"}
        self.passes = [p for p in self.passes if p not in SOUGHT or called & SOUGHT[p]]
        return original(self)

    xnnpack_passes.XNNPACKPassManager.transform = transform
    try:
        yield
    finally:
        xnnpack_passes.XNNPACKPassManager.transform = original


@contextmanager
def _half_weights_kept() -> Iterator[None]:
    """Weights that were rounded to float16 are stored so, half the bytes, and multiplied in float32.

    XNNPACK has this product of two dtypes (it widens the weights at load), torch has not; so a weight becomes float16
    after the last pass, where nothing traces the graph again. Only one whose values are all exact in float16 does.
    """
    original = xnnpack_passes.XNNPACKPassManager.transform

    def transform(self: xnnpack_passes.XNNPACKPassManager) -> ExportedProgram:
        program = original(self)
        for node in program.graph.nodes:
            if _operator(node.target) != "aten.linear.default":
                continue
            weight = node.args[1]
            name = program.graph_signature.inputs_to_parameters.get(weight.name)
            if name and torch.equal((half := program.state_dict[name].half()).float(), program.state_dict[name]):
                program.state_dict[name] = half
                weight.meta["val"] = weight.meta["val"].half()
        return program

    xnnpack_passes.XNNPACKPassManager.transform = transform
    try:
        yield
    finally:
        xnnpack_passes.XNNPACKPassManager.transform = original


def _operator(target: object) -> str:
    """`aten.mm.default` for an operator, the function's name for anything else."""
    operator = getattr(target, "_op", target)  # edge operators wrap the ATen one
    return str(operator) if isinstance(operator, torch._ops.OpOverload) else str(getattr(target, "__name__", target))
