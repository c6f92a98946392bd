"""Frames to try a model on: drawn ones, and the packaged clip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from mvgpt_runtime import video


def clip_frames(num_frames: int, clip: Path | None = None) -> list[np.ndarray]:
    """At most num_frames frames uint8 [H, W, 3] of a clip (None: the packaged one), sampled as a session does."""
    return list(video.open_clip(clip or video.SAMPLE_CLIP, max_frames=num_frames).frames())


def smooth_frames(n: int, height: int, width: int | None = None) -> torch.Tensor:
    """uint8 [n, height, width (None: height), 3]: smooth, moving, slightly noisy. Independent noise would saturate the
    frame scorer."""
    width = width or height
    t, y, x = np.mgrid[0:n, 0:height, 0:width] / np.array([n, height, width]).reshape(3, 1, 1, 1)
    waves = [np.sin(7 * x + 5 * t + c) * np.cos(6 * y - 4 * t * c) for c in range(3)]
    noise = np.random.default_rng(0).normal(0, 6, (n, height, width, 3))
    return torch.from_numpy(np.clip(127 + 100 * np.stack(waves, -1) + noise, 0, 255).astype(np.uint8))


def range_frames(size: int) -> torch.Tensor:
    """uint8 [7, size, size, 3]: smooth, noisy, black and white ones, to find the largest activations with."""
    noise = torch.randint(256, (1, size, size, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    flat = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, size, size, 3)
    return torch.cat([smooth_frames(4, size), noise, flat])
