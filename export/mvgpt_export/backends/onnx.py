"""ONNX models for ONNX Runtime: a graph per stage, and beside them the weights of a unit, each tensor once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import onnx_ir as ir
import torch
from mvgpt_runtime import contract
from mvgpt_runtime.contract import Geometry
from mvgpt_runtime.engines.onnx import PAST, PRESENT
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch.export import ExportedProgram

from ..quant import Recipe
from . import LoweredMethod, LoweredUnit, Report

OPSET = 23  # the first with RMSNormalization
DATA_SUFFIX = ".data"
APART = 1024  # bytes; smaller tensors stay in the graph
ALIGNMENT = 4096  # a page: runtimes map the file


def lower(
    programs: dict[str, ExportedProgram], recipe: Recipe, geometry: Geometry, license: str, path: Path, report: Report
) -> LoweredUnit:
    """Write a model per stage. The stages come quantized (onnx_form.py)."""
    files = {name: path.name if len(programs) == 1 else f"{path.stem}.{name}{path.suffix}" for name in programs}
    models, state = {}, 0
    for name, program in programs.items():
        report(f"convert {name}")
        models[name] = model = _convert(program)
        stage = contract.stage(name)
        _rename(model.graph.inputs, stage.inputs)
        _rename(model.graph.outputs, stage.outputs)
        state += _expose_cache(model.graph)
        model.metadata_props[contract.METADATA_METHOD] = json.dumps(contract.stamp([name], geometry))
        model.metadata_props["license"] = license
    report("write")
    _store_apart(models.values(), path.with_name(path.name + DATA_SUFFIX))
    for name, model in models.items():
        ir.save(model, path.with_name(files[name]))
    return LoweredUnit({name: LoweredMethod(1, {}, file) for name, file in files.items()}, state)


def _convert(program: ExportedProgram) -> ir.Model:
    converted = torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False)
    assert converted is not None
    model: ir.Model = converted.model
    ClearMetadataAndDocStringPass()(model)  # every node's has the paths of this machine's sources
    return model


def _rename(values: Iterable[ir.Value], tensors: Iterable[contract.Tensor]) -> None:
    for value, tensor in zip(values, tensors, strict=True):
        value.name = tensor.name


def _expose_cache(graph: ir.Graph) -> int:
    """Make inputs and outputs of the attentions' caches, which ONNX has no state for; their bytes.

    A runtime that is given the same memory for both writes the new rows in place.
    """
    size, attentions = 0, [node for node in graph if node.op_type == "GroupQueryAttention"]
    for layer, node in enumerate(attentions):
        for part, at in (("key", 3), ("value", 4)):
            past, present = node.inputs[at], node.outputs[at - 2]
            assert past is not None
            assert past.name is not None
            assert past.const_value is not None
            size += past.const_value.nbytes
            del graph.initializers[past.name]
            past.const_value, past.name = None, f"{PAST}{layer}.{part}"
            present.name, present.type, present.shape = f"{PRESENT}{layer}.{part}", past.type, past.shape
            graph.inputs.append(past)
            graph.outputs.append(present)
    return size


def _store_apart(models: Iterable[ir.Model], path: Path) -> None:
    """Move the models' larger tensors into one file, equal bytes once."""
    values = [v for model in models for v in model.graph.initializers.values() if _size(v) >= APART]
    first: dict[str, ir.TensorProtocol] = {}
    keys = []
    for value in values:
        assert value.const_value is not None
        keys.append(hashlib.sha256(value.const_value.tobytes()).hexdigest())
        first.setdefault(keys[-1], value.const_value)
    if not first:
        return
    stored = ir.external_data.convert_tensors_to_external(
        list(first.values()), path.parent, path.name, alignment=ALIGNMENT
    )
    places = dict(zip(first, stored, strict=True))
    for value, key in zip(values, keys, strict=True):
        tensor, place = value.const_value, places[key]
        assert tensor is not None
        assert value.name is not None
        value.const_value = ir.ExternalTensor(
            path.name,
            place.offset,
            place.length,
            tensor.dtype,
            shape=tensor.shape,  # type: ignore[arg-type]
            name=value.name,
            base_dir=path.parent,
        )


def _size(value: ir.Value) -> int:
    return value.const_value.nbytes if value.const_value is not None else 0
