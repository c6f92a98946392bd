"""Step 2b, a clip's two preprocessed streams: filled frame by frame, padded by what was never filled."""

from __future__ import annotations

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
            raise MvgptError("too many frames", stage="preprocess", expected=f"at most {len(self.mask)}", got="more")
        self.clip_pixels[self.count] = preprocess.resize_clip(frame, self.size)
        self.video_pixels[self.count] = preprocess.resize_video(frame, self.size)
        self.mask[self.count] = 1
        self.count += 1
        return self.count - 1

    def check_not_empty(self) -> None:
        if self.count == 0:
            raise MvgptError("no frames", stage="preprocess", expected=f"1 to {len(self.mask)} frames", got=0)
