"""The video encoder as exported: fused or stock kernels, quantized or not, and runtimes without our operators."""

from __future__ import annotations

import copy
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mvgpt_export import bundle as export
from mvgpt_export.backends import LoweredUnit
from mvgpt_export.config import NAMED_CONFIGS
from mvgpt_export.models.normalize import Normalize
from mvgpt_export.models.videomamba import VideoMamba
from mvgpt_export.ops import fused_scan
from mvgpt_export.parity.floors import FLOORS
from mvgpt_export.parity.metrics import distance
from mvgpt_export.quant import RECIPES, quantize
from mvgpt_export.samples import smooth_frames
from mvgpt_export.sources import Source, open_source
from mvgpt_export.stages import default_kernels, stage_module
from mvgpt_runtime import MvgptError, kernels
from mvgpt_runtime.contract import CLIP_MEAN, CLIP_STD
from mvgpt_runtime.engines import executorch, open_engine
from mvgpt_runtime.manifest import Bundle
from tolerances import FP32_BUNDLE
from torch import nn

GEOMETRY = NAMED_CONFIGS["tiny"].geometry()


@pytest.fixture(scope="module")
def source() -> Source:
    return open_source("random:tiny")


def lower(source: Source, path: Path, recipe: str, form: str) -> LoweredUnit:
    return export.export_unit(source, ["video_encoder"], GEOMETRY, "xnnpack", RECIPES[recipe], form, path)


def error(source: Source, path: Path) -> np.ndarray:
    """The program's output minus the eager encoder's, over the latter's largest value."""
    frames, mask = smooth_frames(8, GEOMETRY.image_size), torch.ones(8)
    mask[5] = 0
    with torch.no_grad():
        expected = source.model.video_encoder(frames, mask)
    kernels.load()
    (got,) = executorch._runtime()._load_program(str(path)).load_method("video_encoder")([frames, mask])
    return ((got - expected) / expected.abs().max()).numpy()  # type: ignore[no-any-return]


def test_stock_form_needs_no_operator_of_ours(source: Source, tmp_path: Path) -> None:
    lowered = lower(source, tmp_path / "stock.pte", "fp32", "stock")
    assert not any(name.startswith(kernels.NAMESPACE) for name in lowered.operators)
    outside = lowered.methods["video_encoder"].undelegated
    assert outside["executorch_prim::et_copy_index.tensor"] == 6  # a loop each: two directions, three layers
    assert np.abs(error(source, tmp_path / "stock.pte")).max() <= FP32_BUNDLE


def test_fused_form_moves_nothing(source: Source, tiny_bundle: Bundle) -> None:
    info = tiny_bundle.manifest.stages["video_encoder"]
    assert {f"{name}.out" for name in fused_scan.OPERATORS} <= set(tiny_bundle.manifest.files[info.file].operators)
    assert info.undelegated["mvgpt::selective_scan.out"] == info.undelegated["mvgpt::causal_conv1d_silu.out"] == 6
    moved = ("flip", "transpose", "permute", "split", "slice", "cat", "unsqueeze")
    assert not [op for op in info.undelegated if any(word in op for word in moved)]
    assert np.abs(error(source, tiny_bundle.path("video_encoder"))).max() <= FP32_BUNDLE


def test_int8_is_smaller_and_close(source: Source, tiny_bundle: Bundle, tmp_path: Path) -> None:
    lower(source, tmp_path / "int8.pte", "int8", "fused")
    assert (tmp_path / "int8.pte").stat().st_size < 0.5 * tiny_bundle.path("video_encoder").stat().st_size
    off = error(source, tmp_path / "int8.pte")
    frames = smooth_frames(8, GEOMETRY.image_size)
    with torch.no_grad():
        reference = source.model.video_encoder(frames, torch.ones(8))
    scale = float((reference / reference.abs().max()).square().mean().sqrt())
    floor = FLOORS[8].at(len(source.model.video_encoder.layers))
    assert floor is not None
    assert floor <= 20 * np.log10(scale / np.sqrt((off**2).mean())) < 60  # it is quantized


def lose_backward(encoder: VideoMamba) -> None:
    for block in encoder.layers:
        for parameter in block.mixer.conv1d_b.parameters():
            parameter.zero_()


def swap_directions(encoder: VideoMamba) -> None:
    for block in encoder.layers:
        m = block.mixer
        m.conv1d, m.conv1d_b, m.A_log, m.A_b_log = m.conv1d_b, m.conv1d, m.A_b_log, m.A_log


def swap_normalisation(encoder: VideoMamba) -> None:
    encoder.normalize = Normalize(CLIP_MEAN, CLIP_STD)


@pytest.mark.parametrize("mistake", [lose_backward, swap_directions, swap_normalisation])
def test_the_floor_of_quantized_stages_catches_mistakes(source: Source, mistake: Callable[[VideoMamba], None]) -> None:
    """A stage that computes something else must not pass for one that was merely rounded."""
    frames, mask = smooth_frames(8, GEOMETRY.image_size), torch.ones(8)
    wrong = copy.deepcopy(source.model.video_encoder)
    with torch.no_grad():
        reference = source.model.video_encoder(frames, mask)
        mistake(wrong)
        got = wrong(frames, mask).numpy()
    floor = FLOORS[8].at(len(wrong.layers))
    assert floor is not None
    assert distance(got, reference.numpy())["sqnr_db"] < floor


@pytest.mark.parametrize("form", ["fused", "stock"])
def test_int8_quantizes_every_linear_layer_and_leaves_the_eager_model_alone(source: Source, form: str) -> None:
    before = {name: p.clone() for name, p in source.model.video_encoder.named_parameters()}
    module = stage_module(source.model, "video_encoder", GEOMETRY, form, RECIPES["fp32"])
    linear = sum(isinstance(layer, nn.Linear) for layer in module.modules())
    assert quantize(module, "video_encoder", RECIPES["int8"]) == linear == 3 * 6 + 1  # the patch embedding
    after = dict(source.model.video_encoder.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_bundle_records_our_operators(tiny_bundle: Bundle) -> None:
    assert tiny_bundle.manifest.kernels == default_kernels() == "fused"
    needed = set(kernels.OPERATORS) - {"mvgpt::linear_4bit.out"}  # its recipe is fp32
    assert tiny_bundle.manifest.own_operators == sorted(needed)


def test_a_runtime_without_our_operators_says_what_to_do(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    real = executorch._runtime()
    others = [name for name in real._get_operator_names() if not name.startswith(kernels.NAMESPACE)]
    bare = types.SimpleNamespace(**{name: getattr(real, name) for name in dir(real) if not name.startswith("__")})
    bare._get_operator_names = lambda: others
    monkeypatch.setattr(executorch, "_runtime", lambda: bare)
    engine = open_engine(tiny_bundle)
    with pytest.raises(MvgptError, match=r"lacks operators that video_encoder\.pte[\s\S]*selective_scan[\s\S]*stock"):
        engine.load("video_encoder")
    engine.load("image_encoder")


def test_exports_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "library_path", lambda: None)
    assert default_kernels() == "stock"
    with pytest.raises(MvgptError, match=r"not compiled[\s\S]*kernels build"):
        export.export_bundle("random:tiny", tmp_path / "bundle", kernels="fused")
    with pytest.raises(MvgptError, match="unknown kernels"):
        export.export_bundle("random:tiny", tmp_path / "bundle", kernels="fast")
