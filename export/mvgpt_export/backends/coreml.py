"""CoreML packages for Apple devices: one per unit, a function per method, which share weights and states.

Every shape is fixed. Arithmetic is float32 or float16 by the recipe; what keeps it from float16 is in `_precision`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import coremltools as ct
import numpy as np
import torch
from mvgpt_runtime import contract
from mvgpt_runtime.contract import Geometry
from mvgpt_runtime.engines.coreml import CASTS, EIGHT_FRAMES, LAST_ROW, ONE_ROW
from mvgpt_runtime.engines.mil.weights import mapped_weights
from torch.export import ExportedProgram

from ..quant import Recipe
from . import LoweredMethod, LoweredUnit, Report

TARGET = ct.target.iOS18  # the first with states, functions and weights of 4 bits
# What computes on the language model's residual stream: sums, norms, the last layer's choice of a row.
RESIDUAL = ("add", "mul", "reduce_mean", "rsqrt", "gather")
DEBUG_FILE = "executorch_debug_handle_mapping.json"  # coremltools leaves it in packages made of exported programs
# Operators by which Python's & and | are traced, which coremltools has under these names only.
_RENAMED = {
    torch.ops.aten.__and__.Tensor: torch.ops.aten.logical_and.default,
    torch.ops.aten.__or__.Tensor: torch.ops.aten.logical_or.default,
    torch.ops.aten.bitwise_and.Tensor: torch.ops.aten.logical_and.default,
    torch.ops.aten.bitwise_or.Tensor: torch.ops.aten.logical_or.default,
}


def lower(
    programs: dict[str, ExportedProgram], recipe: Recipe, geometry: Geometry, license: str, path: Path, report: Report
) -> LoweredUnit:
    """Write `programs` as the functions of one `.mlpackage`. Integer weights come in torchao's form."""
    planned = 0
    with TemporaryDirectory(dir=path.parent) as scratch, quiet():
        parts = {}
        for method, program in programs.items():
            report(f"convert {method}")
            stage = method.removesuffix(ONE_ROW).removesuffix(EIGHT_FRAMES)
            arguments = program.graph_signature.user_inputs
            model = convert(stage, decompose(program), arguments, recipe, geometry)
            planned = max(planned, state_bytes(model))
            parts[method] = Path(scratch) / f"{method}.mlpackage"
            model.save(str(parts[method]))
        report("write")
        joined = Path(scratch) / "joined.mlpackage"
        if len(parts) == 1:
            joined = next(iter(parts.values()))
        else:
            functions = ct.utils.MultiFunctionDescriptor()
            for method, part in parts.items():
                functions.add_function(str(part), src_function_name="main", target_function_name=method)
            functions.default_function_name = next(iter(parts))
            with mapped_weights():  # else it holds every function's in memory
                ct.utils.save_multifunction(functions, str(joined))
        stages = [method for method in programs if method in contract.STAGE_NAMES]
        model = ct.models.MLModel(str(joined), skip_model_load=True)
        describe(model, stages, geometry, license)
        model.save(str(path))
        (path / DEBUG_FILE).unlink(missing_ok=True)
    return LoweredUnit({stage: LoweredMethod(1, {}) for stage in stages}, planned)


def describe(model: Any, stages: list[str], geometry: Geometry, license: str) -> None:
    model.author = "mvgpt"
    model.license = license
    model.version = str(contract.CONTRACT_VERSION)
    model.short_description = f"Mobile-VideoGPT: {', '.join(stages)}"
    model.user_defined_metadata[contract.METADATA_METHOD] = json.dumps(contract.stamp(stages, geometry))


def convert(stage: str, program: ExportedProgram, arguments: Sequence[str], recipe: Recipe, geometry: Geometry) -> Any:
    """The program of one function as an MLModel with the contract's names, not loaded.

    `arguments`: what the program calls its inputs, in the contract's order.
    """
    mutated = set(program.graph_signature.buffers_to_mutate.values())
    states = [
        ct.StateType(ct.TensorType(shape=tuple(buffer.shape), dtype=np.float16), name=name)
        for name, buffer in program.named_buffers()
        if name in mutated
    ]
    model = ct.convert(
        program,
        convert_to="mlprogram",
        outputs=[
            ct.TensorType(name=t.name, dtype=CASTS.get(t.dtype, np.float32)) for t in contract.stage(stage).outputs
        ],
        states=states or None,
        compute_precision=_precision(stage, recipe, geometry),
        minimum_deployment_target=TARGET,
        skip_model_load=True,
    )
    # They come with the names of the networks' own arguments, which may be other arguments' in the contract.
    spec = model.get_spec()
    wanted = dict(zip(arguments, (*(t.name for t in contract.stage(stage).inputs), LAST_ROW), strict=False))
    for names in ({name: f"{name}_" for name in wanted}, {f"{name}_": other for name, other in wanted.items()}):
        for feature in list(spec.description.input):
            ct.utils.rename_feature(spec, feature.name, names[feature.name], rename_outputs=False)
    return ct.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True)


def decompose(program: ExportedProgram) -> ExportedProgram:
    """To the operators that coremltools converts."""
    _rename(program)
    program = program.run_decompositions({})
    _rename(program)
    return program


def _rename(program: ExportedProgram) -> None:
    for node in program.graph.nodes:
        node.target = _RENAMED.get(node.target, node.target)


def _precision(stage: str, recipe: Recipe, geometry: Geometry) -> Any:
    """float16, but for the frame scorer, where a step of it picks other frames, and for the language model's residual
    stream and norms, where trained weights reach thousands whose squares it does not hold."""
    if recipe.bits("text_decoder") == 32 or stage == "frame_scorer":
        return ct.precision.FLOAT32
    if stage != "text_decoder":
        return ct.precision.FLOAT16

    def in_half(op: Any) -> bool:
        shape = op.outputs[0].shape
        residual = len(shape) == 3 and shape[-1] in (geometry.hidden_size, 1)
        return not (residual and op.op_type in RESIDUAL)

    return ct.transform.FP16ComputePrecision(op_selector=in_half)


def state_bytes(model: Any) -> int:
    """Of the states, which are float16."""
    states = model.get_spec().description.state
    return sum(2 * int(np.prod(list(state.type.stateType.arrayType.shape))) for state in states)


@contextmanager
def quiet() -> Iterator[None]:
    """coremltools draws progress bars of its own and logs which releases of torch it has been tested with."""
    import tqdm

    logger, original = logging.getLogger("coremltools"), tqdm.tqdm.__init__
    level = logger.level

    def silent(self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **{**options, "disable": True})

    set_init: Callable[[Any], None] = lambda init: setattr(tqdm.tqdm, "__init__", init)  # noqa: E731
    logger.setLevel(logging.ERROR)
    set_init(silent)
    try:
        yield
    finally:
        logger.setLevel(level)
        set_init(original)
