"""Each eager network against an implementation that is not ours."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from mvgpt_export.config import ClipConfig, Qwen2Config, ScorerConfig, VideoMambaConfig
from mvgpt_export.models.clip import ClipVision
from mvgpt_export.models.frame_scorer import FrameScorer
from mvgpt_export.models.pooling import GridPool
from mvgpt_export.models.qwen2 import KVCache, Qwen2, rotary_table
from mvgpt_export.models.videomamba import Mixer
from mvgpt_export.ops.selective_scan import selective_scan_loop, selective_scan_stock
from mvgpt_runtime.contract import CLIP_MEAN, CLIP_STD
from tolerances import EAGER
from torch import nn


def randomize(module: nn.Module, scale: float = 0.1) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)


def assert_close(got: torch.Tensor, expected: torch.Tensor, tolerance: float = EAGER) -> None:
    assert got.shape == expected.shape
    assert (got.double() - expected.double()).abs().max() <= tolerance * expected.abs().max()


def test_clip_equals_transformers() -> None:
    """hidden_states[-2] without the class token: the last block never runs."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = ClipConfig(image_size=32, patch_size=8, width=48, layers=4, heads=3, mlp_width=96)
    theirs = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=4,
            num_attention_heads=3,
            image_size=32,
            patch_size=8,
            hidden_act="quick_gelu",
            attn_implementation="eager",
        )
    ).eval()
    randomize(theirs)
    ours = ClipVision(config)
    state = {name.removeprefix("vision_model."): p for name, p in theirs.state_dict().items()}
    ours.load_state_dict({name: state[name] for name in ours.state_dict()})

    frames = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    mask = torch.tensor([1.0, 1.0, 0.0])
    pixels = (frames / 255 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD) * mask.reshape(-1, 1, 1, 1)
    with torch.no_grad():
        expected = theirs(pixels.permute(0, 3, 1, 2), output_hidden_states=True).hidden_states[-2][:, 1:]
        assert_close(ours(frames, mask), expected)


@pytest.mark.parametrize("tied", [True, False])
def test_qwen2_equals_transformers(tied: bool) -> None:
    """In one go and in chunks over the cache; 3 query heads per group, head_dim that is not hidden / heads."""
    from transformers import Qwen2Config as TheirConfig
    from transformers import Qwen2ForCausalLM

    config = Qwen2Config(48, 3, 6, 2, 16, 80, 100, norm_eps=1e-6, rope_theta=1e6, tied=tied)
    theirs = Qwen2ForCausalLM(
        TheirConfig(
            hidden_size=48,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=2,
            head_dim=16,
            intermediate_size=80,
            vocab_size=100,
            rms_norm_eps=1e-6,
            rope_theta=1e6,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            tie_word_embeddings=tied,
            max_position_embeddings=64,
        )
    ).eval()
    randomize(theirs, 0.3)
    ours = Qwen2(config)
    state = {name.removeprefix("model."): p for name, p in theirs.state_dict().items()}
    ours.load_state_dict({name: state[name] for name in ours.state_dict()})

    ids = torch.randint(0, 100, (1, 23))
    cos, sin = rotary_table(config, 23)
    with torch.no_grad():
        expected = theirs(ids).logits
        whole = ours(ours.embed_tokens(ids), cos, sin, [KVCache() for _ in ours.layers])
        assert_close(whole, expected[:, -1])
        caches = [KVCache() for _ in ours.layers]
        for first, end in ((0, 9), (9, 10), (10, 23)):
            part = ours(ours.embed_tokens(ids[:, first:end]), cos[first:end], sin[first:end], caches)
            assert_close(part, expected[:, end - 1])


def scan_inputs(length: int, channels: int, states: int) -> list[torch.Tensor]:
    rng = np.random.default_rng(length)

    def draw(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal(shape).astype(np.float32))

    delta = F.softplus(draw(length, channels) - 2)
    return [
        draw(length, channels),
        delta,
        -draw(channels, states).exp(),
        *(draw(length, states) for _ in "BC"),
        draw(channels),
    ]


def float64_scan(
    u: np.ndarray, delta: np.ndarray, A: np.ndarray, B: np.ndarray, C: np.ndarray, D: np.ndarray
) -> np.ndarray:
    """One number at a time."""
    y = np.zeros(u.shape)
    for d in range(u.shape[1]):
        for n in range(A.shape[1]):
            h = 0.0
            for t in range(u.shape[0]):
                h = np.exp(delta[t, d] * A[d, n]) * h + delta[t, d] * u[t, d] * B[t, n]
                y[t, d] += h * C[t, n]
        y[:, d] += D[d] * u[:, d]
    return y


@pytest.mark.parametrize("scan", [selective_scan_loop, selective_scan_stock])
@pytest.mark.parametrize("length", [1, 2, 17, 90])
def test_selective_scan_equals_a_float64_loop(scan: object, length: int) -> None:
    assert callable(scan)
    inputs = scan_inputs(length, channels=5, states=4)
    expected = float64_scan(*(t.double().numpy() for t in inputs))
    assert_close(scan(*inputs), torch.from_numpy(expected), 1e-5)


def test_mixer_scans_both_ways_and_adds() -> None:
    """Against the definition, spelled out per direction in float64 numpy."""
    config = VideoMambaConfig(16, 8, 12, 1, 24, 4, 3, 4, frames=8, chunks=2, frame_pool=2)
    mixer = Mixer(config)
    randomize(mixer, 0.4)
    x = torch.randn(11, 12)
    with torch.no_grad():
        got = mixer(x)
    p = {name: t.detach().double().numpy() for name, t in mixer.named_parameters()}

    def silu(a: np.ndarray) -> np.ndarray:
        return a / (1 + np.exp(-a))

    def direction(xz: np.ndarray, b: str) -> np.ndarray:
        x, z = np.split(xz, 2, axis=1)
        padded = np.concatenate([np.zeros((3, 24)), x])
        kernel = p[f"conv1d{b}.weight"][:, 0].T  # [4, d_inner]
        u = silu(sum(padded[i : i + 11] * kernel[i] for i in range(4)) + p[f"conv1d{b}.bias"])
        dt, B, C = np.split(u @ p[f"x_proj{b}.weight"].T, [3, 7], axis=1)
        delta = np.log1p(np.exp(dt @ p[f"dt_proj{b}.weight"].T + p[f"dt_proj{b}.bias"]))
        A = -np.exp(p["A_b_log" if b else "A_log"])
        return float64_scan(u, delta, A, B, C, p["D_b" if b else "D"]) * silu(z)

    xz = x.double().numpy() @ p["in_proj.weight"].T
    both = direction(xz, "") + direction(xz[::-1], "_b")[::-1]
    assert_close(got, torch.from_numpy(both @ p["out_proj.weight"].T))


@pytest.mark.parametrize(("in_side", "out_side"), [(14, 12), (14, 7), (8, 5), (7, 7), (3, 5)])
def test_grid_pool_equals_adaptive_pooling(in_side: int, out_side: int) -> None:
    x = torch.randn(2, in_side**2, 6)
    grid = x.transpose(1, 2).reshape(2, 6, in_side, in_side)
    expected = F.adaptive_avg_pool2d(grid, out_side).flatten(2).transpose(1, 2)
    assert_close(GridPool(in_side, out_side)(x), expected, 1e-6)


def correlated(frames: int, patches: int, channels: int, seed: int) -> torch.Tensor:
    """Independent noise would saturate the softmax: every score the same, and every bug hidden."""
    g = torch.Generator().manual_seed(seed)
    base = torch.randn(1, patches, channels, generator=g)
    return (base + 0.7 * torch.randn(frames, patches, channels, generator=g)) * channels**-0.25


def test_frame_scores_equal_float64() -> None:
    features = correlated(8, 49, 32, seed=1)
    scores = FrameScorer(ScorerConfig(4, True)).scores(features)
    tokens = features.double().reshape(-1, 32)
    expected = torch.softmax(tokens @ tokens.T / 32**0.5, -1).sum(0).reshape(8, 49).sum(1)
    assert expected.max() - expected.min() > 0.5  # not saturated
    assert_close(scores, expected, 1e-6)


@settings(max_examples=200, deadline=None)
@given(
    scores=st.lists(st.integers(0, 5), min_size=1, max_size=10), data=st.data(), largest=st.booleans()
)  # few values: many ties
def test_selection_is_the_sorted_best_with_the_earlier_of_equals(
    scores: list[int], data: st.DataObject, largest: bool
) -> None:
    k = data.draw(st.integers(1, len(scores)))
    best = sorted(range(len(scores)), key=lambda i: (-scores[i] if largest else scores[i], i))[:k]
    got = FrameScorer(ScorerConfig(k, largest)).select(torch.tensor(scores, dtype=torch.float32))
    assert got.tolist() == sorted(best)
