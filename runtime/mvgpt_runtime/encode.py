"""Steps 3 to 6, frames → visual tokens: runs the encoder stages as frames arrive, picks key frames, concatenates.

No arithmetic on features here: the graphs do it, and this only moves arrays, as a phone does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from .contract import Geometry
from .engines import Engine
from .frames import ClipFrames
from .stats import Stats


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


def encode_video(
    engine: Engine, geometry: Geometry, frames: Iterable[np.ndarray], stats: Stats, check: Callable[[str], None]
) -> EncodedVideo:
    """frames: up to num_frames arrays uint8 [H, W, 3]. `check(stage)` is called between steps and may raise."""

    def run(stage: str, *inputs: np.ndarray) -> list[np.ndarray]:
        check(stage)
        with stats.timed("model_load_ms"):
            engine.load(stage)
        with stats.timed(f"{stage}_ms"):
            return engine.run(stage, inputs)

    clip = ClipFrames(geometry.image_size, geometry.num_frames)
    features, image_tokens = [], []

    def encode_image(i: int) -> None:
        features.append(run("image_encoder", clip.clip_pixels[i : i + 1], clip.mask[i : i + 1])[0])
        image_tokens.append(run("image_projector", features[-1])[0])

    for frame in frames:
        with stats.timed("preprocess_ms"):
            i = clip.add(frame)
        encode_image(i)
    clip.check_not_empty()
    if missing := geometry.num_frames - clip.count:
        encode_image(clip.count)
        # All padding frames are the same input: one run stands for all.
        features += features[-1:] * (missing - 1)
        image_tokens += image_tokens[-1:] * (missing - 1)

    clip_features = np.concatenate(features)
    scores, selected = [], []
    for first in range(0, geometry.num_frames, geometry.chunk_frames):
        chunk_scores, chunk_selected = run("frame_scorer", clip_features[first : first + geometry.chunk_frames])
        scores.append(chunk_scores)
        selected.append(chunk_selected)
    key = (np.arange(geometry.num_chunks)[:, None] * geometry.chunk_frames + np.stack(selected)).reshape(-1)
    (video_features,) = run("video_encoder", clip.video_pixels[key], clip.mask[key])
    (video_tokens,) = run("video_projector", video_features)
    visual_tokens = np.concatenate([t.reshape(-1, geometry.hidden_size) for t in (*image_tokens, video_tokens)])
    return EncodedVideo(clip, clip_features, np.stack(scores), np.stack(selected), video_features, visual_tokens)
