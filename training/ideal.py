"""What visual tokens should say: of each patch, the words for what it shows, added up.

The language model learns to read such tokens before there are projectors, and the projectors then have something to
learn from in every token, not only in a few answers.
"""

from __future__ import annotations

import torch
from mvgpt_export.config import ModelConfig
from mvgpt_export.models.pooling import GridPool
from mvgpt_export.models.qwen2 import Qwen2
from mvgpt_runtime.synthetic.scenes import COLOURS, SHAPES
from tokenizers import Tokenizer
from torch import nn

from .batches import Batch, of_clips


class Ideal(nn.Module):
    """Of labels → visual tokens, in the language model's embeddings of the words and vectors of its own for the
    background, for places, and for the number of a key frame."""

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.colours, self.shapes = (
            torch.tensor([tokenizer.token_to_id(f"Ġ{word}") for word in words]) for words in (COLOURS, SHAPES)
        )
        self.background = nn.Parameter(0.1 * torch.randn(config.text.hidden_size))
        self.place = nn.Parameter(0.1 * torch.randn(3, config.text.hidden_size))
        self.time = nn.Parameter(0.1 * torch.randn(config.video.frames, config.text.hidden_size))
        self.image_pool = GridPool(config.image_projector.in_side, config.image_projector.out_side)
        self.video_pool = GridPool(config.video.grid, config.video.frame_pool)

    def forward(self, lm: Qwen2, batch: Batch, key: torch.Tensor) -> torch.Tensor:
        """key int64 [B, key frames] → [B, visual tokens, hidden]."""
        (clips, frames), hidden = batch.things.shape[:2], self.background.shape[0]
        colour, shape = batch.objects[..., :2].unbind(-1)
        words = lm.embed_tokens(self.colours[colour]) + lm.embed_tokens(self.shapes[shape])
        objects = words.unsqueeze(1) + batch.tracks @ self.place
        every = torch.arange(frames).expand(clips, -1)
        there = (batch.things >= 0).unsqueeze(-1)
        patches = torch.where(there, batch.of_patches(objects, every), self.background)
        image = self.image_pool(patches.flatten(0, 1))
        timed = of_clips(patches, key) + self.time.unsqueeze(1)
        video = self.video_pool(timed.flatten(0, 1))
        return torch.cat([image.reshape(clips, -1, hidden), video.reshape(clips, -1, hidden)], dim=1)


def share(pool: GridPool, values: torch.Tensor) -> torch.Tensor:
    """Means over a token's patches: [B, frames, patches, k] → [B, tokens, k]."""
    return pool(values.flatten(0, 1)).reshape(len(values), -1, values.shape[-1])
