"""ExecuTorch programs that are one CoreML delegate each, for apps whose runtime is ExecuTorch on Apple devices too.

The delegate holds the package that `coreml.py` would write. Each loaded method has states of its own, so a KV cache
cannot be shared by one method for many rows and one for a single row: a language stage has the first only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from executorch.backends.apple.coreml.compiler import CoreMLBackend
from executorch.backends.apple.coreml.partition import CoreMLPartitioner
from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower
from mvgpt_runtime import contract
from mvgpt_runtime.contract import Geometry
from mvgpt_runtime.engines.program import read_program
from mvgpt_runtime.errors import MvgptError
from torch.export import ExportedProgram

from ..quant import Recipe
from . import LoweredMethod, LoweredUnit, Report
from .coreml import TARGET, convert, decompose, describe, quiet, state_bytes


def lower(
    programs: dict[str, ExportedProgram], recipe: Recipe, geometry: Geometry, license: str, path: Path, report: Report
) -> LoweredUnit:
    """Write each of `programs` that is named as a stage as a `.pte` file, which says of itself what packages say.

    Raises:
        MvgptError: a stage that is not one delegate with nothing outside.
    """
    stages = [method for method in programs if method in contract.STAGE_NAMES]
    methods, planned = {}, 0
    for stage in stages:
        report(f"convert {stage}")
        file = path if len(stages) == 1 else path.with_suffix(f".{stage}{path.suffix}")
        with quiet(), _converted_by_us(stage, programs[stage], recipe, geometry, license) as made:
            edge = to_edge_transform_and_lower(
                {stage: decompose(programs[stage])},
                partitioner=[
                    CoreMLPartitioner(
                        compile_specs=CoreMLBackend.generate_compile_specs(minimum_deployment_target=TARGET),
                        lower_full_graph=True,
                    )
                ],
                compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True),
                constant_methods={contract.METADATA_METHOD: json.dumps(contract.stamp([stage], geometry))},
            )
        program = edge.to_executorch(ExecutorchBackendConfig(extract_delegate_segments=True))
        with file.open("wb") as f:
            program.write_to_file(f)
        found = read_program(file)[stage]
        if found.delegates != 1 or found.outside:
            raise MvgptError(
                "the stage is not one CoreML delegate",
                stage=stage,
                expected="1 delegate, no operator outside",
                got=f"{found.delegates} delegates, {found.outside} outside",
                remedy="report it: this is a mistake in mvgpt",
            )
        planned = max(planned, state_bytes(made[0]))
        methods[stage] = LoweredMethod(1, {}, file.name)
    return LoweredUnit(methods, planned)


@contextmanager
def _converted_by_us(
    stage: str, program: ExportedProgram, recipe: Recipe, geometry: Geometry, license: str
) -> Iterator[list[Any]]:
    """ExecuTorch's own conversion knows float16 for everything or nothing, and no names. The value: what was made."""
    original, made = CoreMLBackend._convert_to_mlmodel, []

    def ours(edge_program: ExportedProgram, compile_specs: Any, skip_model_load: bool = True) -> Any:
        # A delegate's inputs may come in another order, under the same names.
        model = convert(stage, edge_program, program.graph_signature.user_inputs, recipe, geometry)
        describe(model, [stage], geometry, license)
        made.append(model)
        return model

    CoreMLBackend._convert_to_mlmodel = staticmethod(ours)
    try:
        with torch.no_grad():
            yield made
    finally:
        CoreMLBackend._convert_to_mlmodel = staticmethod(original)
