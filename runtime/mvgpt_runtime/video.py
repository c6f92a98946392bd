"""Step 1, video: a file becomes at most `max_frames` upright RGB frames.

Frames are handed out one by one, because sixteen frames of 4K are 400 MB: the caller resizes each before the next is
decoded. Decoding starts at the key frame before a wanted frame, but only where the decoder surely arrives there: see
`_Decoder`.
"""

from __future__ import annotations

import errno
import math
import os
import re
from bisect import bisect_right
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mvgpt_runtime import container
from mvgpt_runtime.errors import MvgptError

UInt8Array = npt.NDArray[np.uint8]

SAMPLE_CLIP = Path(__file__).parent / "data" / "sample.mp4"
"""A packaged clip of 12 seconds, 320 × 240 (tools/make_sample_clip.py), for whoever names none."""

_HALF_MS = 0.0005  # timestamps are compared with this slack: they went through float32, frames are further apart
# decord sends packets without taking all frames out. Just before a key frame of HEVC its decoder then refuses a packet
# (AVERROR(EAGAIN)) and stops, every other time or so: two threads race. Decoding the group of pictures again helps.
_RACE = (f"({-errno.EAGAIN} vs. 0)", "run_.load()")
_ATTEMPTS = 32
_CONVERT = "if a player shows it, convert it: ffmpeg -i INPUT -c:v libx264 -pix_fmt yuv420p OUTPUT.mp4"


def sample_indices(
    num_frames: int, fps: float, start_s: float | None = None, end_s: float | None = None, max_frames: int = 16
) -> list[int]:
    """Which frames of a clip the model sees.

    Every round(fps)-th frame of [start_s, end_s], which is one per second (halves round to even; at least 1). If these
    are more than `max_frames`, that many of them, evenly spread: i * ((count - 1) / (max_frames - 1)) in float64,
    rounded down, and the last one. If they are fewer, as many frames as there are, up to `max_frames`, at the largest
    equal distance.

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
    _require(num_frames >= 1, "the clip has no frames", ">= 1 frame", num_frames, _CONVERT)
    _require(math.isfinite(fps) and fps > 0, "the clip has no usable frame rate", "> 0 per second", fps, _CONVERT)
    _require(max_frames >= 1, "at least one frame must be asked for", "max_frames >= 1", max_frames)
    for name, value in (("start_s", start_s), ("end_s", end_s)):
        ok = value is None or (math.isfinite(value) and value >= 0)
        _require(ok, f"{name} is not a time in the clip", "seconds >= 0, or None", value)
    last = num_frames - 1
    first = 0 if start_s is None else int(min(start_s * fps, num_frames))
    _require(first <= last, "start_s is after the end of the clip", f"< {num_frames / fps:.3f} s", start_s)
    if end_s is not None:
        _require(end_s >= (start_s or 0), "end_s is before start_s", f">= {start_s} s", end_s)
        last = int(min(end_s * fps, last))

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

    def frames(self) -> Generator[UInt8Array, None, None]:
        """Decode the sampled frames in order, one at a time; one iteration at a time.

        Take them swiftly: between two frames of one group of pictures decord goes on decoding into memory.

        Yields:
            uint8 [H, W, 3], RGB, upright, contiguous; not used again, so the caller may keep or change it.

        Raises:
            MvgptError: (stage "video") a frame cannot be decoded, or not surely be told from its neighbours.
        """
        self._decoder.rewind()
        try:
            for index, following in zip(self.indices, (*self.indices[1:], None), strict=True):
                frame = self._decoder.frame(index)
                self._decoder.rest(following)
                yield frame
        finally:
            self._decoder.rest(None)


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

    Left alone, decord hands out neighbours of the wanted frame (after seeking to a key frame that frames shown earlier
    follow, or past frames that an edit list hides) and repeats old frames at the end of a damaged file. But it does
    know better: after a seek its current position moves past the key frame aimed at only if the first decoded frame
    carries that key frame's timestamp. So the position is asked after every seek and every frame. Where a seek cannot
    be relied on, the clip is decoded straight from its start.

    "Stored" positions count all frames in the order of their timestamps, hidden ones included, as decord does.
    """

    def __init__(self, path: Path, facts: container.Container) -> None:
        import decord

        # Keeps FFmpeg's messages off the terminal; what goes wrong also comes as an exception.
        decord.logging.set_level(decord.logging.QUIET)
        self._path, self._facts = path, facts
        with self._failures("this video cannot be opened"):
            # An absolute path is never taken for an address. The tolerance: not one old frame in place of a lost one.
            self._reader = decord.VideoReader(str(path.absolute()), fault_tol="0.000000001")
            self._stored = len(self._reader)
            self._keys: list[int] = sorted({0, *self._reader.get_key_indices()})
            self._times: npt.NDArray[np.float32] = self._reader.get_frame_timestamp(range(self._stored))[:, 0]
            self.fps = float(self._reader.get_avg_fps())
        shown_until = math.inf if facts.shown_s is None else facts.shown_s
        self._hidden = int(np.searchsorted(self._times, -_HALF_MS))
        self.num_frames = int(np.searchsorted(self._times, shown_until - _HALF_MS)) - self._hidden
        self._straight = False  # decode from the start, without seeking
        self._lost = True  # where decord stands is not known
        self._ahead = 0  # stored positions minus decord's own count
        self._waiting = False  # decord holds the key frame it checked, and hands it out next

    def timestamp_s(self, index: int) -> float:
        """Seconds from the first shown frame to the shown frame `index`."""
        return float(self._times[self._hidden + index])

    def rewind(self) -> None:
        """Back to the first shown frame."""
        with self._failures("this video cannot be decoded from its start"):
            self._reader.seek(self._stored - 1)  # decord checks where it arrives only if it comes from elsewhere
            self._reader.seek_accurate(0)
        self._waiting = self._position() == 1
        if not (self._waiting or self._hidden or self._stored == 1):
            raise self._error("the first frames of this video cannot be decoded", "a key frame first", "another frame")
        self._ahead = self._hidden  # the decoder drops hidden frames, and decord does not count them
        self._lost = False

    def frame(self, index: int) -> UInt8Array:
        """The shown frame `index`, which must be after the one asked for before, if that was after `rewind`."""
        wanted = self._hidden + index
        with self._failures(f"frame {index} cannot be decoded"):
            raw = self._decode(wanted)
        if self._position() + self._ahead != wanted + 1:
            raise self._error(f"frame {index} cannot be decoded", f"{self.num_frames} frames", "the end of the data")
        # Narrow frames come with the padding of their rows counted as channels.
        height, width = raw.shape[:2]
        frame: UInt8Array = raw.reshape(height, -1)[:, : width * 3].reshape(height, width, 3)
        if self._facts.mirror_axis is not None:
            frame = np.flip(frame, self._facts.mirror_axis)
        return np.ascontiguousarray(frame)

    def rest(self, following: int | None) -> None:
        """Stop decoding ahead, unless the shown frame `following` is reached sooner without."""
        if following is None or self._seeks_for(self._hidden + following):
            with self._failures("this video cannot be decoded"):
                self._reader.seek(0)
            self._lost = True

    def _decode(self, wanted: int) -> UInt8Array:
        from decord import DECORDError

        for left in reversed(range(_ATTEMPTS)):
            try:
                self._approach(wanted)
                self._waiting = False
                raw: UInt8Array = self._reader.next().asnumpy()
                return raw
            except DECORDError as error:
                self._lost = True
                if self._straight or not left or not any(sign in str(error) for sign in _RACE):
                    raise
        raise AssertionError("unreachable")

    def _approach(self, wanted: int) -> None:
        """Make the stored frame `wanted` the one that decord hands out next."""
        key = self._key_of(wanted)
        if self._lost and (self._straight or key == 0):
            self.rewind()
        self._drop_waiting(wanted)
        if self._lost or self._seeks_for(wanted):
            self._reader.seek(0)  # from where it stands already, decord would not move
            self._reader.seek_accurate(key)
            self._waiting = self._position() == key + 1
            if self._waiting or self._facts.closed_gops:
                self._ahead, self._lost = 0, False
            else:
                self._straight = True
                self.rewind()
            self._drop_waiting(wanted)
        # decord seeks whenever another group of pictures begins; taking the last frame of each group goes straight on.
        wanted -= self._ahead
        for key in self._keys[bisect_right(self._keys, self._position()) : bisect_right(self._keys, wanted)]:
            self._reader.seek_accurate(key - 1)
            self._reader.next()
        if self._position() < wanted:
            self._reader.seek_accurate(wanted)

    def _key_of(self, wanted: int) -> int:
        return self._keys[bisect_right(self._keys, wanted) - 1]

    def _seeks_for(self, wanted: int) -> bool:
        return not self._straight and self._key_of(wanted) >= self._position() + self._ahead

    def _drop_waiting(self, wanted: int) -> None:
        # seek_accurate() may leave it waiting.
        if self._waiting and wanted >= self._position() + self._ahead:
            self._reader.next()
            self._waiting = False

    def _position(self) -> int:
        import decord

        # In the library's table of functions, without a method of its own.
        return int(decord.video_reader._CAPI_VideoReaderGetCurrentPosition(self._reader._handle))

    @contextmanager
    def _failures(self, what: str) -> Iterator[None]:
        from decord import DECORDError
        from decord._ffi.base import DECORDLimitReachedError

        its_own = (DECORDError, DECORDLimitReachedError)
        try:
            yield
        except (*its_own, RuntimeError, AssertionError, StopIteration, ValueError, IndexError) as error:
            lines = str(error).splitlines() or [type(error).__name__]
            got = re.sub(r"\[[\d:]+\] \S+: ", "", lines[0])  # a time and a line of decord's source
            raise self._error(what, "a video whose frames decode", got) from error

    def _error(self, what: str, expected: object, got: object) -> MvgptError:
        return MvgptError(f"{what}: {self._path}", stage="video", expected=expected, got=got, remedy=_CONVERT)


def _require(condition: bool, what: str, expected: object, got: object, remedy: str = "change this argument") -> None:
    if not condition:
        raise MvgptError(what, stage="video", expected=expected, got=got, remedy=remedy)
