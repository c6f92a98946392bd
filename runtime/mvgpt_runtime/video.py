"""Step 1, video: a file becomes at most `max_frames` upright RGB frames.

Frames are handed out one by one, because sixteen frames of 4K are 400 MB: the caller resizes each before the next is
decoded. Decoding starts at the key frame before a wanted frame, but only where the decoder surely arrives there: see
`_Decoder`.
"""

from __future__ import annotations

import math
import os
import re
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mvgpt_runtime import container
from mvgpt_runtime.errors import MvgptError

UInt8Array = npt.NDArray[np.uint8]

_HALF_MS = 0.0005  # timestamps are compared with this slack: they went through float32, frames are further apart
_REMEDY = "convert the video: ffmpeg -i INPUT -c:v libx264 -pix_fmt yuv420p OUTPUT.mp4"


def sample_indices(
    num_frames: int, fps: float, start_s: float | None = None, end_s: float | None = None, max_frames: int = 16
) -> list[int]:
    """Which frames of a clip the model sees.

    Every round(fps)-th frame of [start_s, end_s], which is one per second (halves round to even; at least 1). If these
    are more than `max_frames`, that many of them, evenly spread: i * ((count - 1) / (max_frames - 1)) in float64, rounded
    down, and the last one. If they are fewer, as many frames as there are, up to `max_frames`, at the largest equal
    distance.

    Args:
        num_frames: frames in the clip.
        fps: frames per second, on average.
        start_s, end_s: seconds, both included; None for the clip's own. An end after the clip's own is cut to it.
        max_frames: most indices to return.

    Returns:
        Strictly increasing frame indices: at least one, at most `max_frames`.

    Raises:
        MvgptError: (stage "video") there is no such frame, or an argument is no such quantity.
    """
    _require(num_frames >= 1, "the clip has no frames", ">= 1 frame", num_frames)
    _require(max_frames >= 1, "at least one frame must be asked for", "max_frames >= 1", max_frames)
    _require(math.isfinite(fps) and fps > 0, "the clip has no usable frame rate", "frames per second > 0", fps)
    for name, value in (("start_s", start_s), ("end_s", end_s)):
        ok = value is None or (math.isfinite(value) and value >= 0)
        _require(ok, f"{name} is not a time in the clip", "seconds >= 0, or None", value)
    last = num_frames - 1
    first = 0 if start_s is None else int(start_s * fps)
    _require(first <= last, "start_s is after the end of the clip", f"< {num_frames / fps:.3f} s", start_s)
    if end_s is not None:
        _require(end_s >= (start_s or 0), "end_s is before start_s", f">= {start_s} s", end_s)
        last = min(int(end_s * fps), last)

    positions = range(first, last + 1, max(1, round(fps)))
    if len(positions) > max_frames:
        return [positions[i] for i in np.linspace(0, len(positions) - 1, max_frames, dtype=int)]
    if len(positions) == max_frames:
        return list(positions)
    count = min(max_frames, last - first + 1)
    stride = max(1, (last - first) // max(1, count - 1))
    return [first + i * stride for i in range(count)]


@dataclass(frozen=True)
class Clip:
    """The sampled frames of a video file; `frames` decodes them.

    Attributes:
        indices: positions of the sampled frames among the frames that a player shows, strictly increasing.
        timestamps_s: seconds from the clip's first frame to each of them, as stored (variable frame rates too).
        fps: average frames per second.
        num_frames: frames that a player shows.
    """

    indices: tuple[int, ...]
    timestamps_s: tuple[float, ...]
    fps: float
    num_frames: int
    _decoder: _Decoder = field(repr=False, compare=False)

    def frames(self) -> Iterator[UInt8Array]:
        """Decode the sampled frames in order, one at a time; one iteration at a time.

        Yields:
            uint8 [H, W, 3], RGB, upright, contiguous; not used again, so the caller may keep or change it.

        Raises:
            MvgptError: (stage "video") a frame cannot be decoded, or not surely be told from its neighbours.
        """
        self._decoder.rewind()
        for index in self.indices:
            yield self._decoder.frame(index)


def open_clip(
    path: str | os.PathLike[str], start_s: float | None = None, end_s: float | None = None, max_frames: int = 16
) -> Clip:
    """Open a video file and choose its frames; see `sample_indices` for the arguments.

    Reads MP4, MOV, MKV and WebM. Rotation and mirroring that the file asks for are applied, edit lists are followed.

    Raises:
        MvgptError: (stage "video") this is not a complete, readable video with frames, or the times do not fit it.
    """
    path = Path(path)
    decoder = _Decoder(path, container.inspect(path))
    indices = sample_indices(decoder.num_frames, decoder.fps, start_s, end_s, max_frames)
    times = tuple(decoder.timestamp_s(index) for index in indices)
    return Clip(tuple(indices), times, decoder.fps, decoder.num_frames, decoder)


class _Decoder:
    """decord, held to the frame it was asked for.

    Left alone, decord hands out neighbours of the wanted frame (after a seek to a key frame that later stored frames
    precede, or past frames that an edit list hides) and repeats old frames at the end of a damaged file. It does know
    better: only when the first frame after a seek carries the timestamp of the key frame aimed at, its current position
    moves past it. So that position is asked after every seek and every frame. Where seeking does not prove itself, the
    clip is decoded from the start.

    Positions are decord's: all stored frames in the order of their timestamps, hidden ones included.
    """

    def __init__(self, path: Path, facts: container.Container) -> None:
        import decord

        # FFmpeg's messages for the terminal; what goes wrong comes as an exception.
        decord.logging.set_level(decord.logging.QUIET)
        self._path, self._facts = path, facts
        with self._failures("this video cannot be opened"):
            # An absolute path is never taken for an address. The tolerance: not a single frame repeated for a lost one.
            self._reader = decord.VideoReader(str(path.absolute()), fault_tol="0.000000001")
            self._stored = len(self._reader)
            self._keys: list[int] = sorted({0, *self._reader.get_key_indices()})
            self._times: npt.NDArray[np.float32] = self._reader.get_frame_timestamp(range(self._stored))[:, 0]
            self.fps = float(self._reader.get_avg_fps())
        self._hidden = int(np.searchsorted(self._times, -_HALF_MS))
        shown_until = math.inf if facts.shown_s is None else facts.shown_s
        self.num_frames = int(np.searchsorted(self._times, shown_until - _HALF_MS)) - self._hidden
        self._straight = False
        self._ahead = self._hidden

    def timestamp_s(self, index: int) -> float:
        """Seconds from the first shown frame to the shown frame `index`."""
        return float(self._times[self._hidden + index])

    def rewind(self) -> None:
        """Back to the first shown frame."""
        with self._failures("this video cannot be decoded from its start"):
            self._reader.seek(self._stored - 1)  # from elsewhere, or decord would not check where it arrives
            self._reader.seek_accurate(0)
        # Hidden frames are not counted when decoding from the start.
        self._ahead = self._hidden
        exact = self._position() == 1 or self._stored == 1 or self._hidden > 0
        if not exact:
            raise self._error("this video does not begin with a key frame", "decoding from the first frame on", "later")

    def frame(self, index: int) -> UInt8Array:
        """The shown frame `index`, which must be after the last one asked for."""
        wanted = self._hidden + index
        with self._failures(f"frame {index} cannot be decoded"):
            key = self._keys[bisect_right(self._keys, wanted) - 1]
            if key > self._position() + self._ahead and not self._straight:
                self._reader.seek_accurate(key)
                if self._facts.closed_gops or self._position() == key + 1:
                    self._ahead = 0
                else:
                    self._straight = True
                    self.rewind()
            wanted -= self._ahead
            self._decode_up_to(wanted)
            raw = self._reader.next().asnumpy()
        if self._position() != wanted + 1:
            raise self._error(f"frame {index} cannot be decoded", f"{self.num_frames} frames", "the end of the data")
        # Narrow frames come with the padding of their rows counted as channels.
        height, width = raw.shape[:2]
        frame: UInt8Array = raw.reshape(height, -1)[:, : width * 3].reshape(height, width, 3)
        if self._facts.mirror_axis is not None:
            frame = np.flip(frame, self._facts.mirror_axis)
        return np.ascontiguousarray(frame)

    def _decode_up_to(self, wanted: int) -> None:
        # decord seeks whenever another group of pictures begins; taking the last frame of each group goes straight on.
        passed = slice(bisect_right(self._keys, self._position()), bisect_right(self._keys, wanted))
        for key in self._keys[passed]:
            self._reader.seek_accurate(key - 1)
            self._reader.next()
        if self._position() <= wanted:
            self._reader.seek_accurate(wanted)

    def _position(self) -> int:
        import decord

        # In the library's table of functions, without a method of its own.
        return int(decord.video_reader._CAPI_VideoReaderGetCurrentPosition(self._reader._handle))

    @contextmanager
    def _failures(self, what: str) -> Iterator[None]:
        from decord import DECORDError
        from decord._ffi.base import DECORDLimitReachedError

        try:
            yield
        except (DECORDError, DECORDLimitReachedError, RuntimeError, AssertionError, StopIteration) as error:
            lines = str(error).splitlines() or [type(error).__name__]
            got = re.sub(r"\[[\d:]+\] \S+: ", "", lines[0])  # a time and a line of decord's source
            raise self._error(what, "a video whose frames decode", got) from error

    def _error(self, what: str, expected: object, got: object) -> MvgptError:
        return MvgptError(f"{what}: {self._path}", stage="video", expected=expected, got=got, remedy=_REMEDY)


def _require(condition: bool, what: str, expected: object, got: object) -> None:
    if not condition:
        raise MvgptError(what, stage="video", expected=expected, got=got)
