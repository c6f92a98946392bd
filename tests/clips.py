"""Draws test videos whose frames tell their own index and which way up they are."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import numpy.typing as npt

_BITS = 14  # the longest clip has 12,345 frames
_DARK, _LIGHT = 30, 220

H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-crf", "12", "-pix_fmt", "yuv420p")


def picture(index: int, width: int, height: int) -> npt.NDArray[np.uint8]:
    """uint8 [height, width, 3]: the index in bars, lowest bit left; above them red and green, below them blue."""
    frame = np.empty((height, width, 3), np.uint8)
    bit = np.arange(width) * _BITS // width
    frame[:] = np.where(index >> bit & 1, _LIGHT, _DARK)[None, :, None]
    edge = max(height // 4, 1)
    frame[:edge, : width // 2] = (_LIGHT, _DARK, _DARK)
    frame[:edge, width // 2 :] = (_DARK, _LIGHT, _DARK)
    frame[-edge:] = (_DARK, _DARK, _LIGHT)
    return frame


def index_of(frame: npt.NDArray[np.uint8]) -> int:
    """The index that a decoded picture carries."""
    height, width = frame.shape[:2]
    grey = frame[height // 2].mean(axis=-1)
    starts = [-(-bit * width // _BITS) for bit in range(_BITS + 1)]
    centres = [(start + stop - 1) // 2 for start, stop in itertools.pairwise(starts)]
    return sum(int(grey[x] > (_DARK + _LIGHT) / 2) << bit for bit, x in enumerate(centres))


def is_upright(frame: npt.NDArray[np.uint8]) -> bool:
    """Whether a decoded picture is neither turned nor mirrored, and its colours are RGB."""
    height, width = frame.shape[:2]
    top, bottom = height // 8, height - 1 - height // 8
    spots = [frame[top, width // 4], frame[top, 3 * width // 4], frame[bottom, width // 2]]
    return [int(np.argmax(spot)) for spot in spots] == [0, 1, 2]


def ffmpeg(*arguments: str | Path, stdin: bytes | None = None) -> None:
    """Run ffmpeg; its complaints become the test's."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def draw(
    path: Path,
    frames: int,
    *,
    width: int = 64,
    height: int = 48,
    fps: float = 30,
    codec: Sequence[str] = H264,
    options: Sequence[str] = (),
) -> Path:
    """Encode pictures 0 .. frames - 1 to `path`, whose ending chooses the container."""
    raw = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-")
    data = b"".join(picture(i, width, height).tobytes() for i in range(frames))
    ffmpeg(*raw, *codec, *options, path, stdin=data)
    return path
