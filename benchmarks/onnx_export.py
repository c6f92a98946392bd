"""Stages as ONNX, for ONNX Runtime: float32, and 8-bit by its own dynamic quantization."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from mvgpt_export.models.video_gpt import VideoGPT
from mvgpt_export.models.videomamba import Block, VideoMamba
from mvgpt_export.stages import FORMS, example_inputs
from mvgpt_runtime.contract import Geometry


def onnx_file(model: VideoGPT, geometry: Geometry, stages: tuple[str, ...], path: Path) -> None:
    """Stages, each the next one's input, as one graph; all outputs. The eager networks, whose norms ONNX Runtime has
    operators for, with the stock form of the scan, which becomes Scan nodes."""
    network = Chain([copy.deepcopy(getattr(model, stage)) for stage in stages]).eval()
    for module in list(network.modules()):
        if isinstance(module, VideoMamba):
            for block in module.layers:
                assert isinstance(block, Block)
                block.mixer = FORMS["stock"].mixer(block.mixer)
    inputs = example_inputs(stages[0], geometry)
    with torch.no_grad():
        program = torch.onnx.export(
            torch.export.export(network, inputs, strict=False), inputs, dynamo=True, verbose=False
        )
    assert program is not None
    program.save(path, external_data=True)


def quantize(path: Path, output: Path) -> None:
    """Dynamic 8-bit activations × 8-bit weights; a scale per channel, as ours have (per tensor costs 2 dB)."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(path, output, weight_type=QuantType.QInt8, per_channel=True)


def file_bytes(path: Path) -> int:
    """Of a graph with its weights."""
    return sum(p.stat().st_size for p in path.parent.glob(f"{path.name}*"))


class Chain(torch.nn.Module):
    def __init__(self, stages: list[torch.nn.Module]) -> None:
        super().__init__()
        self.stages = torch.nn.ModuleList(stages)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs: list[torch.Tensor] = []
        for stage in self.stages:
            outputs.append(stage(*(outputs[-1:] or inputs)))
        return tuple(outputs)
