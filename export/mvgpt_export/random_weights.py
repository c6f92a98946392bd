"""Seeded random weights of a geometry: how speed is measured, and the embedded default built, without a download."""

from __future__ import annotations

import math
import zlib

import torch

from .config import ModelConfig
from .models.video_gpt import VideoGPT


def random_model(config: ModelConfig, seed: int = 0) -> VideoGPT:
    """The eager model with random weights whose activations stay in a trained network's range.

    Each parameter has a generator seeded by its own name, so that no change elsewhere in the network moves it.
    """
    with torch.device("meta"):
        model = VideoGPT(config)
    for network in (
        model.image_encoder,
        model.video_encoder,
        model.image_projector,
        model.video_projector,
        model.language_model,
    ):
        state = {name: _draw(name, tuple(p.shape), seed) for name, p in network.named_parameters()}
        network.load_state_dict(state, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def _draw(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
    noise = torch.randn(shape, generator=generator)
    if name.endswith(("A_log", "A_b_log")):  # Mamba's own initialisation: decays 1 … d_state
        return noise.mul_(0.05).add_(torch.arange(1, shape[1] + 1, dtype=torch.float32).log())
    if name.endswith((".D", ".D_b")) or ("norm" in name and name.endswith("weight")):
        return noise.mul_(0.1).add_(1)
    if "dt_proj" in name and name.endswith("bias"):
        return noise.mul_(0.5).sub_(4)  # softplus(−4) ≈ 0.02: time steps as trained ones
    if name.endswith("bias"):
        return noise.mul_(0.05)
    if name == "embed_tokens.weight":  # as small as trained ones, or a tied head would only repeat its input
        return noise.mul_(0.02)
    if len(shape) < 2 or ("embed" in name and "patch" not in name):
        return noise.mul_(0.5)
    return noise.mul_(1 / math.sqrt(math.prod(shape[1:])))
