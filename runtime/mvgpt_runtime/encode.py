"""Steps 3 to 6, frames → visual tokens: runs the encoder stages as frames arrive, picks key frames.

No arithmetic on features here: the graphs do it, and this only moves arrays, as a phone does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .contract import Geometry
from .engines import Engine
from .frames import ClipFrames
from .stats import Stats

FINISH_STAGES = ("frame_scorer", "video_encoder", "video_projector")
"""Not run on every frame: when a chunk is complete, or all frames are there."""


@dataclass(frozen=True)
class EncodedVideo:
    """A clip after all encoders. Arrays are named and shaped as in `contract.TRACE_KEYS`; pixels are in `frames`."""

    frames: ClipFrames
    clip_features: np.ndarray
    frame_scores: np.ndarray
    selected: np.ndarray
    video_features: np.ndarray
    visual_tokens: np.ndarray

    @property
    def key_frames(self) -> np.ndarray:
        """int64 [num_chunks · select_k]: which of the sampled frames the video encoder saw, in time order."""
        chunks, chunk_frames = self.frame_scores.shape
        return (np.arange(chunks)[:, None] * chunk_frames + self.selected).reshape(-1)


class VideoEncoder:
    """Encodes one clip frame by frame.

    Attributes:
        frames: the preprocessed frames so far.
        blocks: visual tokens so far in the order of the prompt, float32 [n, hidden_size] each: a block per frame,
            padding frames at the end, then one of the video encoder. They are also the chunks that are prefilled.
    """

    def __init__(self, engine: Engine, geometry: Geometry, stats: Stats, check: Callable[[str], None]) -> None:
        """`check(stage)` is called before every step and may raise, after which the encoder is of no use."""
        self._engine, self._geometry, self._stats, self._check = engine, geometry, stats, check
        self.frames = ClipFrames(geometry.image_size, geometry.num_frames)
        self.blocks: list[np.ndarray] = []
        self._features: list[np.ndarray] = []
        self._scores: list[np.ndarray] = []  # of the chunks so far
        self._selected: list[np.ndarray] = []

    def prepare(self, frame: np.ndarray) -> int:
        """Preprocess the next frame, uint8 [H, W, 3]; its index. MvgptError if it is no such frame or one too many."""
        with self._stats.timed("preprocess_ms"):
            return self.frames.add(frame)

    def encode(self, i: int) -> None:
        """Run the image stages on frame `i`, and the scorer when that completes a chunk."""
        (features,) = self._run("image_encoder", self.frames.clip_pixels[i : i + 1], self.frames.mask[i : i + 1])
        (tokens,) = self._run("image_projector", features)
        self._features.append(features)
        self.blocks.append(tokens[0])
        self._score()

    def finish(self) -> EncodedVideo:
        """Encode the padding frames and what needs all frames. MvgptError if there was none."""
        geometry = self._geometry
        self.frames.check_not_empty()
        if missing := geometry.num_frames - self.frames.count:
            self.encode(self.frames.count)
            # All padding frames are the same input: one run stands for all.
            self._features += self._features[-1:] * (missing - 1)
            self.blocks += self.blocks[-1:] * (missing - 1)
            self._score()

        selected = np.stack(self._selected)
        key = (np.arange(geometry.num_chunks)[:, None] * geometry.chunk_frames + selected).reshape(-1)
        (video_features,) = self._run("video_encoder", self.frames.video_pixels[key], self.frames.mask[key])
        (video_tokens,) = self._run("video_projector", video_features)
        self.blocks.append(video_tokens.reshape(-1, geometry.hidden_size))
        return EncodedVideo(
            frames=self.frames,
            clip_features=np.concatenate(self._features),
            frame_scores=np.stack(self._scores),
            selected=selected,
            video_features=video_features,
            visual_tokens=np.concatenate(self.blocks),
        )

    def _score(self) -> None:
        """Score the chunks that are complete: a live video's end then waits for the last one only."""
        size = self._geometry.chunk_frames
        while len(self._features) >= (len(self._scores) + 1) * size:
            first = len(self._scores) * size
            scores, selected = self._run("frame_scorer", np.concatenate(self._features[first : first + size]))
            self._scores.append(scores)
            self._selected.append(selected)

    def _run(self, stage: str, *inputs: np.ndarray) -> list[np.ndarray]:
        self._check(stage)
        with self._stats.timed("model_load_ms"):
            self._engine.load(stage)
        with self._stats.timed(f"{stage}_ms"):
            return self._engine.run(stage, inputs)
