"""Step 2, preprocess: every sampled frame becomes two small square pictures, one per encoder; numpy only.

Both resizes are integer arithmetic on uint8 once their weights are known, so that another language repeats them bit for
bit. The weights come from IEEE float64 (and, where said, float32) in the order of operations written here.

Image stream, `resize_clip` (the result of Pillow's `BICUBIC`, then a centre crop):
    out[i] = clamp((sum over j of weight[i][j] * in[j] + 2**21) >> 22), first along rows, then along columns, rounded to
    uint8 in between; `>>` rounds towards minus infinity. (From version 13 on Pillow takes columns first for some tall
    frames, which moves a few pixels by a level or more. Here rows are always first, as when the model was trained.)
Video stream, `resize_video` (the result of OpenCV's `INTER_LINEAR`):
    row[x] = in[left] * (2048 - w) + in[right] * w, and for the two rows around y
    out[y] = (((top[x] >> 4) * (2048 - v) >> 16) + ((bottom[x] >> 4) * v >> 16) + 2) >> 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mvgpt_runtime.errors import MvgptError

UInt8Array = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]

_CUBIC_BITS = 22  # a product with a pixel has 30 bits, and the sum of a row's products still fits 32
_LINEAR_BITS = 11
_BLOCK = 8  # outputs per matrix product: the matrices are banded, so wider blocks multiply more zeros
_SMALL_PRODUCT = 1 << 18  # multiplications: for more, OpenBLAS starts threads, which on busy cores wait far too long


def resize_clip(frame: UInt8Array, size: int) -> UInt8Array:
    """The image encoder's picture: shortest edge to `size` (bicubic, antialiased), then the centre square.

    Args:
        frame: uint8 [H, W, 3], any strides.
        size: pixels, the side of the result.

    Returns:
        uint8 [size, size, 3], contiguous. The long edge is resized to floor(size * long / short) and the crop starts at
        floor((edge - size) / 2); only pixels inside the crop are computed.

    Raises:
        MvgptError: (stage "preprocess") `frame` or `size` is not as described.
    """
    height, width = _check_frame(frame, size)
    short = min(height, width)
    down = _cubic_blocks(height, size * height // short, size, 1)
    across = _cubic_blocks(width, size * width // short, size, 3)
    needed = frame[down[0].start : down[-1].stop].reshape(-1, width * 3)
    rows = _filter(needed[:, across[0].start : across[-1].stop], across)
    columns = _filter(rows.T, down)
    return np.ascontiguousarray(columns.T).reshape(size, size, 3)


def resize_video(frame: UInt8Array, size: int) -> UInt8Array:
    """The video encoder's picture: both edges squashed to `size`, bilinear without antialias, half-pixel centres.

    Args:
        frame: uint8 [H, W, 3], any strides.
        size: pixels, the side of the result.

    Returns:
        uint8 [size, size, 3], contiguous.

    Raises:
        MvgptError: (stage "preprocess") `frame` or `size` is not as described.
    """
    height, width = _check_frame(frame, size)
    top, bottom, down = _linear_taps(height, size)
    left, right, across = _linear_taps(width, size)
    across, down = across[:, None], down[:, None, None]
    one = 1 << _LINEAR_BITS

    def row_pair(y: npt.NDArray[np.intp]) -> npt.NDArray[np.int32]:
        y = y[:, None]
        mixed: npt.NDArray[np.int32] = frame[y, left] * (one - across) + frame[y, right] * across
        return mixed >> 4

    out = ((row_pair(top) * (one - down) >> 16) + (row_pair(bottom) * down >> 16) + 2) >> 2
    return out.astype(np.uint8)


def normalize(pixels: UInt8Array, mask: Float32Array, mean: Sequence[float], std: Sequence[float]) -> Float32Array:
    """((pixels / 255 - mean) / std) * mask, for traces and tests: the exported graphs do this themselves.

    Args:
        pixels: uint8 [n, size, size, 3].
        mask: float32 [n], 1 for a frame and 0 for padding.
        mean, std: per channel, in units of full scale (1.0).

    Returns:
        float32 [n, 3, size, size], contiguous.

    Raises:
        MvgptError: (stage "preprocess") an argument is not as described.
    """
    if not (_is_array(pixels, np.uint8, 4) and pixels.shape[1] == pixels.shape[2] and pixels.shape[3] == 3):
        raise _error("these are not preprocessed frames", "uint8 [n, size, size, 3]", _describe(pixels))
    if not (_is_array(mask, np.float32, 1) and len(mask) == len(pixels)):
        raise _error("the frame mask does not fit the frames", f"float32 [{len(pixels)}]", _describe(mask))
    if len(mean) != 3 or len(std) != 3 or 0 in std:
        raise _error("bad normalisation constants", "three means, three non-zero deviations", f"{mean} and {std}")
    scaled = pixels.astype(np.float32) / np.float32(255)
    scaled = (scaled - np.asarray(mean, np.float32)) / np.asarray(std, np.float32) * mask[:, None, None, None]
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


class _Block(NamedTuple):
    """Some neighbouring outputs of the bicubic filter, all made of inputs start .. stop - 1 of a line of numbers."""

    start: int
    stop: int
    weights: Float64Array  # [stop - start, outputs], whole numbers


@lru_cache(maxsize=16)
def _cubic_blocks(length: int, resized: int, size: int, channels: int) -> tuple[_Block, ...]:
    """The middle `size` of `resized` outputs along an edge of `length` pixels, whose channels are interleaved."""
    scale = length / resized
    stretch = max(scale, 1.0)  # the filter widens when it shrinks a picture: this is the antialias
    crop = (resized - size) // 2
    taps = []
    for i in range(crop, crop + size):
        centre = (i + 0.5) * scale
        start = max(int(centre - 2 * stretch + 0.5), 0)
        stop = min(int(centre + 2 * stretch + 0.5), length)
        weight = _cubic((np.arange(start, stop, dtype=np.float64) - centre + 0.5) * (1 / stretch))
        weight /= np.cumsum(weight)[-1]  # one term after the other: numpy's sum() adds in an order of its own
        taps.append((start, stop, np.trunc(weight * (1 << _CUBIC_BITS) + np.copysign(0.5, weight))))
    blocks = []
    for begin in range(0, size, _BLOCK):
        block = taps[begin : begin + _BLOCK]
        start, stop = block[0][0], block[-1][1]
        weights = np.zeros((stop - start, len(block)))
        for column, (low, high, weight) in enumerate(block):
            weights[low - start : high - start, column] = weight
        # Weights repeated for each channel multiply zeros, and still cost less than a transposed frame.
        wide = np.kron(weights, np.eye(channels)).astype(np.float64)
        blocks.append(_Block(start * channels, stop * channels, wide))
    return tuple(blocks)


def _filter(lines: UInt8Array, blocks: tuple[_Block, ...]) -> UInt8Array:
    """One pass over uint8 [n, inputs that the blocks need] -> uint8 [n, outputs of the blocks].

    Whole numbers in float64: the weights of one output add up to less than 2**23 in size, so every sum is exact.
    """
    offset = blocks[0].start
    step = max(1, _SMALL_PRODUCT // max(block.weights.size for block in blocks))
    out = np.empty((len(lines), sum(block.weights.shape[1] for block in blocks)), np.uint8)
    for y in range(0, len(lines), step):
        strip = lines[y : y + step].astype(np.float64)
        sums = [strip[:, block.start - offset : block.stop - offset] @ block.weights for block in blocks]
        out[y : y + step] = _round_cubic(np.concatenate(sums, axis=1))
    return out


def _cubic(x: Float64Array) -> Float64Array:
    """Keys' kernel with a = -1/2, zero from 2 on."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _round_cubic(sums: Float64Array) -> UInt8Array:
    # Whole numbers held by floats: the scaling is by a power of two and the floor is the shift's.
    sums *= 1 / (1 << _CUBIC_BITS)
    sums += 0.5
    np.floor(sums, out=sums)
    return np.clip(sums, 0, 255, out=sums).astype(np.uint8)


@lru_cache(maxsize=16)
def _linear_taps(length: int, size: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.int32]]:
    """For each of `size` outputs along an edge: the two neighbours, and the second one's weight in units of 2**-11."""
    centres = ((np.arange(size) + 0.5) * (1 / (size / length)) - 0.5).astype(np.float32)
    first = np.floor(centres)
    weight = np.rint((centres - first) * np.float32(1 << _LINEAR_BITS))  # halves go to the even neighbour
    before = first.astype(np.intp)
    return before.clip(0, length - 1), (before + 1).clip(0, length - 1), weight.astype(np.int32)


def _check_frame(frame: UInt8Array, size: int) -> tuple[int, int]:
    if not (_is_array(frame, np.uint8, 3) and frame.shape[2] == 3 and frame.size):
        raise _error("this is not a frame", "uint8 [H, W, 3] with at least one pixel", _describe(frame))
    if size < 1:
        raise _error("the side of a preprocessed frame must be positive", ">= 1", size)
    return frame.shape[0], frame.shape[1]


def _is_array(value: object, dtype: type[np.generic], ndim: int) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == dtype and value.ndim == ndim


def _describe(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__


def _error(what: str, expected: object, got: object) -> MvgptError:
    return MvgptError(what, stage="preprocess", expected=expected, got=got)
