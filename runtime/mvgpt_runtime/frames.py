"""Step 2b, a clip's two preprocessed streams, filled frame by frame; and which frames of a live stream are taken."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from . import preprocess
from .errors import MvgptError


class ClipFrames:
    """Both streams of a clip of at most `num_frames` frames.

    Attributes:
        clip_pixels, video_pixels: uint8 [num_frames, size, size, 3], for the image and the video encoder.
        mask: float32 [num_frames], 1 for a frame, 0 for padding (which the graphs turn to zeros after normalising).
        count: frames so far.
    """

    def __init__(self, size: int, num_frames: int) -> None:
        self.size, self.count = size, 0
        self.clip_pixels = np.zeros((num_frames, size, size, 3), np.uint8)
        self.video_pixels = np.zeros_like(self.clip_pixels)
        self.mask = np.zeros(num_frames, np.float32)

    @classmethod
    def of(cls, frames: Iterable[np.ndarray], size: int, num_frames: int) -> ClipFrames:
        """All frames at once, uint8 [H, W, 3] RGB each; at least one."""
        clip = cls(size, num_frames)
        for frame in frames:
            clip.add(frame)
        clip.check_not_empty()
        return clip

    def add(self, frame: np.ndarray) -> int:
        """Preprocess the next frame; its index."""
        if self.count == len(self.mask):
            raise MvgptError(
                "too many frames",
                stage="preprocess",
                expected=f"at most {len(self.mask)}",
                got="another one",
                remedy="finish this video, and begin a new one for what follows",
            )
        self.clip_pixels[self.count] = preprocess.resize_clip(frame, self.size)
        self.video_pixels[self.count] = preprocess.resize_video(frame, self.size)
        self.mask[self.count] = 1
        self.count += 1
        return self.count - 1

    def check_not_empty(self) -> None:
        if self.count == 0:
            raise MvgptError("no frames", stage="preprocess", expected=f"1 to {len(self.mask)} frames", got=0)


class FrameClock:
    """Which frames of a live stream are taken: one per second.

    After a taken frame, the next is the one nearest to a second later; whether that is the present frame or one yet to
    come is decided as if frames kept the distance of the last two. So a camera's jitter does not make a second a frame
    longer, and of a steady stream every round(fps)-th frame is taken, as `video.sample_indices` does with a clip that
    has as many seconds as the model takes frames. Of a shorter clip it takes more than one per second; a stream cannot
    be sampled so, since its length is not known.
    """

    def __init__(self) -> None:
        self._previous: float | None = None
        self._taken: float | None = None

    def takes(self, timestamp_s: float) -> bool:
        """Whether to take the frame shown at `timestamp_s` (seconds from any origin); asks once per frame, in order.

        Raises:
            MvgptError: a timestamp that is not finite or not after the one before; it is as if it had not come.
        """
        previous = self._previous
        if not math.isfinite(timestamp_s) or (previous is not None and timestamp_s <= previous):
            raise MvgptError(
                "bad timestamp",
                stage="video",
                expected="finite seconds" if previous is None else f"finite seconds, after {previous}",
                got=timestamp_s,
                remedy="add frames in the order they are shown, each once",
            )
        self._previous = timestamp_s
        if self._taken is None or previous is None or timestamp_s + (timestamp_s - previous) / 2 >= self._taken + 1:
            self._taken = timestamp_s
            return True
        return False
