"""Recipes as data: what they match; and float16, stored or computed in."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mvgpt_export import bundle as export
from mvgpt_export.config import NAMED_CONFIGS
from mvgpt_export.half import LARGEST, MARGIN, check_range, largest_activation
from mvgpt_export.models.clip import ClipVision
from mvgpt_export.models.patches import PatchEmbedding, PatchLinear
from mvgpt_export.models.video_gpt import VideoGPT
from mvgpt_export.parity.floors import limits
from mvgpt_export.parity.metrics import distance
from mvgpt_export.quant import HALF_TABLE, RECIPES, Recipe, quantize
from mvgpt_export.random_weights import random_model
from mvgpt_export.samples import range_frames
from mvgpt_export.sources import Source
from mvgpt_export.stages import stage_module
from mvgpt_runtime import MvgptError, kernels, video
from mvgpt_runtime.contract import STAGE_NAMES
from mvgpt_runtime.engines import executorch
from mvgpt_runtime.frames import ClipFrames
from tolerances import EAGER
from torch import nn

TINY = NAMED_CONFIGS["tiny"]
(BRANCHES,) = {rule.layers for rule in RECIPES["fp16"].rules if rule.scheme == "16a16w"}


@pytest.fixture(scope="module")
def source() -> Source:
    """Two layers of the image encoder: lowering takes time by the layer."""
    clip, text = dataclasses.replace(TINY.clip, layers=3), dataclasses.replace(TINY.text, layers=1)
    return Source("shallow", "none", random_model(dataclasses.replace(TINY, clip=clip, text=text)), None)


@pytest.mark.parametrize("config", ["tiny", "0.5b"])
def test_every_rule_matches_and_every_linear_layer_is_matched(config: str) -> None:
    """Names only. The rules of a recipe are for all layers that have many weights, and all linear ones have."""
    geometry = NAMED_CONFIGS[config].geometry()
    with torch.device("meta"):
        model = VideoGPT(NAMED_CONFIGS[config])
        modules = {name: stage_module(model, name, geometry, "fused", RECIPES["fp32"]) for name in STAGE_NAMES}
    for stage, module in modules.items():
        linear = {name for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
        parameters = [name for name, _ in module.named_parameters()]
        for recipe in RECIPES.values():
            left = linear.copy()
            for rule in recipe.rules_for(stage):
                if rule.scheme == HALF_TABLE:
                    assert any(re.fullmatch(rule.layers, name) for name in parameters), rule
                    continue
                matched = {name for name in left if re.match(rf"({rule.layers})(\.|$)", name)}
                assert matched, rule
                left -= matched
            assert not left or recipe == RECIPES["fp32"], (stage, left)
    assert not any(recipe.bits("frame_scorer") < 32 for recipe in RECIPES.values())


def test_four_bits_are_calibrated() -> None:
    assert {name for name, recipe in RECIPES.items() if recipe.bits("text_decoder") == 4} == {
        name for name, recipe in RECIPES.items() if recipe.calibrated
    }


def test_patches_as_a_linear_layer() -> None:
    torch.manual_seed(0)
    convolution = PatchEmbedding(24, 8, bias=True)
    pixels = torch.rand(2, 32, 32, 3)
    with torch.no_grad():
        expected, got = convolution(pixels), PatchLinear(convolution)(pixels)
    assert expected.shape == (2, 16, 24)
    assert (got - expected).abs().max() <= EAGER * expected.abs().max()


def run(source: Source, stage: str, recipe: Recipe, path: Path, *inputs: torch.Tensor) -> np.ndarray:
    geometry = source.model.config.geometry()
    export.export_unit(source, [stage], geometry, "xnnpack", recipe, "fused", path)
    kernels.load()
    (out,) = executorch._runtime()._load_program(str(path)).load_method(stage)(list(inputs))
    return out.numpy()  # type: ignore[no-any-return]


def test_half_weights_are_stored_once_and_multiplied_in_float32(source: Source, tmp_path: Path) -> None:
    torch.manual_seed(0)
    projector = source.model.image_projector
    features = torch.randn(1, TINY.clip.patches, TINY.clip.width)
    got = run(source, "image_projector", RECIPES["fp16"], tmp_path / "half.pte", features)
    data = (tmp_path / "half.pte").read_bytes()
    rounded = copy.deepcopy(projector)
    for layer in (layer for layer in rounded.modules() if isinstance(layer, nn.Linear)):
        assert data.count(layer.weight.half().numpy().tobytes()) == 1
        assert layer.weight.numpy().tobytes() not in data
        layer.weight.copy_(layer.weight.half())
    with torch.no_grad():
        expected, unrounded = rounded(features).numpy(), projector(features).numpy()
    # Only the weights were rounded: with arithmetic in float16 the difference would be that of `unrounded`, 3e-4.
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()
    assert np.abs(got - unrounded).max() > 1e-5 * np.abs(expected).max()


def test_arithmetic_in_float16(source: Source, tmp_path: Path) -> None:
    encoder, frames, mask = source.model.image_encoder, range_frames(TINY.clip.image_size)[:1], torch.ones(1)
    before = {name: p.clone() for name, p in encoder.named_parameters()}
    got = run(source, "image_encoder", RECIPES["fp16"], tmp_path / "half.pte", frames, mask)
    with torch.no_grad():
        expected = encoder(frames, mask)
    floor = limits(RECIPES["fp16"], TINY, "image_encoder", "eager", 1.0)["sqnr_db"]
    assert distance(got, expected.numpy())["sqnr_db"] >= floor
    assert np.abs(got - expected.numpy()).max() > 1e-5 * expected.abs().max()  # it is in float16
    assert (tmp_path / "half.pte").stat().st_size < 0.6 * sum(p.nbytes for p in encoder.parameters())
    assert all(torch.equal(p, before[name]) for name, p in encoder.named_parameters())


@pytest.mark.parametrize("stage", ["image_encoder", "video_encoder"])
def test_a_table_in_float16(source: Source, stage: str, tmp_path: Path) -> None:
    (rule,) = [rule for rule in RECIPES["mobile"].rules_for(stage) if rule.scheme == HALF_TABLE]
    count = 1 if stage == "image_encoder" else TINY.video.frames
    generator = torch.Generator().manual_seed(0)
    size = TINY.clip.image_size
    frames = torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)
    inputs = frames, torch.ones(count)
    got = run(source, stage, Recipe((rule,)), tmp_path / "half.pte", *inputs)
    data = (tmp_path / "half.pte").read_bytes()
    rounded = copy.deepcopy(getattr(source.model, stage))
    (table,) = [p for name, p in rounded.named_parameters() if re.fullmatch(rule.layers, name)]
    assert table.half().numpy().tobytes() in data
    assert table.numpy().tobytes() not in data
    table.copy_(table.half())
    with torch.no_grad():
        expected = rounded(*inputs).numpy()
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()
    table.mul_(1e6)
    with pytest.raises(MvgptError, match=r"pos.* is too large for float16"):
        quantize(rounded, stage, Recipe((rule,)))


def attention_scores(encoder: ClipVision) -> None:
    encoder.encoder.layers[0].self_attn.q_proj.weight.mul_(1e6)


def gelu(encoder: ClipVision) -> None:
    encoder.encoder.layers[1].mlp.fc1.weight.mul_(1e5)


def infinity(encoder: ClipVision) -> None:
    encoder.encoder.layers[0].mlp.fc1.bias.fill_(torch.inf)


@pytest.mark.parametrize(
    ("overflow", "where"),
    [
        (attention_scores, r"layers\.0\.self_attn \(aten\.bmm"),
        (gelu, r"layers\.1\.mlp"),
        (infinity, r"layers\.0\.mlp\.fc1"),
    ],
)
def test_activations_that_do_not_fit_float16_are_refused(
    source: Source, overflow: Callable[[ClipVision], None], where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is exported. No module puts out attention scores, they are found all the same."""
    model = copy.deepcopy(source.model)
    overflow(model.image_encoder)
    monkeypatch.setattr(export, "open_source", lambda *arguments, **options: Source("large", "none", model, None))
    monkeypatch.setattr(export, "export_unit", lambda *arguments: pytest.fail("something was exported"))
    with pytest.raises(MvgptError, match=rf"image_encoder: an activation of encoder\.{where}[\s\S]*16376[\s\S]*mobile"):
        export.export_bundle("large", tmp_path / "bundle", recipe="fp16")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("stage", "weight", "where"),
    [
        ("image_projector", "image_projector.mlp.mlp.2.weight", "peg"),
        ("video_projector", "video_projector.mlp.mlp.0.weight", "peg"),
        ("text_decoder", "language_model.layers.0.mlp.down_proj.weight", r"layers\.0\.mlp"),
        ("text_decoder", "language_model.layers.0.self_attn.o_proj.weight", r"layers\.0\.self_attn"),
    ],
)
def test_all_that_coreml_computes_in_float16_is_checked(
    source: Source, stage: str, weight: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = copy.deepcopy(source.model)
    model.get_parameter(weight).mul_(1e7)
    monkeypatch.setattr(export, "open_source", lambda *arguments, **options: Source("large", "none", model, None))
    monkeypatch.setattr(export, "export_unit", lambda *arguments: pytest.fail("something was exported"))
    with pytest.raises(MvgptError, match=rf"{stage}: an activation of {where}") as refused:
        export.export_bundle("large", tmp_path / "bundle", recipe="mobile", backend="coreml")
    assert refused.value.remedy == "export with another recipe: fp32"


def test_the_largest_activation_is_found(source: Source) -> None:
    """By hand: scores of the first layer, scaled until they are what is largest."""
    encoder = copy.deepcopy(source.model.image_encoder)
    attention = encoder.encoder.layers[0].self_attn
    attention.q_proj.weight.mul_(1000)
    attention.k_proj.weight.mul_(10)
    frames = range_frames(TINY.clip.image_size)
    mask = torch.ones(len(frames))
    seen: list[torch.Tensor] = []
    handle = attention.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    peak = largest_activation(encoder, BRANCHES, frames, mask)
    handle.remove()
    with torch.no_grad():
        heads = TINY.clip.width // TINY.clip.heads
        q = (attention.q_proj(seen[0]) * heads**-0.5).unflatten(-1, (TINY.clip.heads, -1)).transpose(1, 2)
        k = attention.k_proj(seen[0]).unflatten(-1, (TINY.clip.heads, -1)).transpose(1, 2)
        scores = (q @ k.transpose(-1, -2)).abs().max()
    assert peak.value == pytest.approx(float(scores), rel=1e-5)
    assert "layers.0.self_attn (aten.bmm" in peak.where


def test_the_margin_covers_real_frames(eager: VideoGPT, sample_clip: Path) -> None:
    """The calibration frames are drawn; what they leave for others must hold of a real clip."""
    size = TINY.clip.image_size
    drawn_frames = range_frames(size)
    drawn = check_range("image_encoder", eager.image_encoder, BRANCHES, [], drawn_frames, torch.ones(len(drawn_frames)))
    clip = ClipFrames.of(video.open_clip(sample_clip).frames(), size, TINY.pipeline.num_frames)
    frames = torch.from_numpy(clip.clip_pixels[: clip.count])
    real = largest_activation(eager.image_encoder, BRANCHES, frames, torch.ones(len(frames)))
    assert 0 < real.value < MARGIN * drawn.value < LARGEST
