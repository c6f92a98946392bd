"""Inputs from integers: what a vector's input is made of, in arithmetic that every language does alike.

docs/golden-vectors.md specifies each kind. Everything is drawn from one `SplitMix64`, the sampler's generator.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..sampler import SplitMix64


def integers(seed: int, shape: Sequence[int], below: int) -> npt.NDArray[np.int64]:
    """int64: the upper 31 bits of a draw, modulo `below`."""
    return (SplitMix64(seed).many(math.prod(shape)) >> np.uint64(33)).astype(np.int64).reshape(shape) % below


def floats(seed: int, shape: Sequence[int], scale: float) -> npt.NDArray[np.float32]:
    """float32 in [-scale, scale), `scale` a power of two: the upper 24 bits of a draw, less 2**23, exactly scaled."""
    draws = (SplitMix64(seed).many(math.prod(shape)) >> np.uint64(40)).astype(np.int64)
    return ((draws - (1 << 23)) * (scale / (1 << 23))).astype(np.float32).reshape(shape)


def frames(seed: int, shape: Sequence[int]) -> npt.NDArray[np.uint8]:
    """uint8 [n, height, width, 3]: a triangle wave per channel that moves from frame to frame, and some noise.

    Waves, since a picture of noise alone shrinks to grey and saturates the frame scorer; noise and clipped crests, so
    that resizes overshoot.
    """
    n, height, width, _ = shape
    random = SplitMix64(seed)
    waves = [[random.next() >> 48 for _ in range(4)] for _ in range(3)]  # across, down, in time, phase: 16 bits each
    noise = random.many(n * height * width).reshape(n, height, width)
    t, y, x = np.ogrid[:n, :height, :width]
    out = np.empty((n, height, width, 3), np.uint8)
    for c, (across, down, in_time, phase) in enumerate(waves):
        turns = (1 + across % 4) * x * 65536 // width + (1 + down % 4) * y * 65536 // height
        turns = turns + (1 + in_time % 2) * t * 65536 // n + phase
        triangle = abs(turns % 65536 - 32768)  # 0 to 32768
        grain = (noise >> np.uint64(8 * c)).astype(np.int64) % 32
        out[..., c] = np.clip((triangle * 320 >> 15) - 48 + grain, 0, 255)
    return out


def values(numbers: Sequence[float], shape: Sequence[int], dtype: str) -> np.ndarray:
    """These numbers, over and over."""
    return np.resize(np.array(numbers, dtype), shape)
