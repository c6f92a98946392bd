"""The whole pipeline on one screen: frames → encoders → key frames → visual tokens → logits (paper section 3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from mvgpt_runtime.frames import ClipFrames
from torch import nn

from ..config import ModelConfig
from .clip import ClipVision
from .frame_scorer import FrameScorer
from .projector import Projector
from .qwen2 import KVCache, Qwen2, rotary_table
from .videomamba import VideoMamba


class VideoGPT(nn.Module):
    """The eager model, float32: the reference that every artifact is compared with."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = ClipVision(config.clip)
        self.frame_scorer = FrameScorer(config.scorer)
        self.video_encoder = VideoMamba(config.video)
        self.image_projector = Projector(config.image_projector)
        self.video_projector = Projector(config.video_projector)
        self.language_model = Qwen2(config.text)

    @torch.no_grad()
    def trace(self, frames: np.ndarray, prefix_ids: Sequence[int], suffix_ids: Sequence[int]) -> dict[str, np.ndarray]:
        """frames uint8 [n ≤ num_frames, H, W, 3] RGB → every intermediate array of `contract.TRACE_KEYS`, whole."""
        arrays = self._encode(frames)
        lm = self.language_model
        prefix, suffix = (lm.embed_tokens(torch.tensor(ids, dtype=torch.int64)) for ids in (prefix_ids, suffix_ids))
        prompt = torch.cat([prefix, arrays["visual_tokens"], suffix]).unsqueeze(0)
        logits = lm(prompt, *rotary_table(self.config.text, prompt.shape[1]), [KVCache() for _ in lm.layers])
        return {name: array.numpy() for name, array in (arrays | {"logits": logits[0]}).items()}

    @torch.no_grad()
    def visual_tokens(self, frames: Iterable[np.ndarray]) -> torch.Tensor:
        """frames uint8 [H, W, 3] RGB, at most num_frames → float32 [visual_tokens, hidden]."""
        return self._encode(frames)["visual_tokens"]

    def _encode(self, frames: Iterable[np.ndarray]) -> dict[str, torch.Tensor]:
        """`trace` up to the visual tokens."""
        pipeline = self.config.pipeline
        prepared = ClipFrames.of(frames, self.config.clip.image_size, pipeline.num_frames)
        clip, video, present = map(torch.from_numpy, (prepared.clip_pixels, prepared.video_pixels, prepared.mask))

        features = self.image_encoder(clip, present)
        scores, selected = zip(*(self.frame_scorer(x) for x in features.split(pipeline.chunk_frames)), strict=True)
        key = torch.cat([chunk * pipeline.chunk_frames + s for chunk, s in enumerate(selected)])
        video_features = self.video_encoder(video[key], present[key])
        visual = [self.image_projector(features).flatten(0, 1), self.video_projector(video_features).flatten(0, 1)]
        return {
            "video_pixels": self.video_encoder.normalize(video, present).permute(0, 3, 1, 2),
            "clip_pixels": self.image_encoder.normalize(clip, present).permute(0, 3, 1, 2),
            "clip_features": features,
            "frame_scores": torch.stack(scores),
            "selected": torch.stack(selected),
            "video_features": video_features,
            "visual_tokens": torch.cat(visual),
        }
