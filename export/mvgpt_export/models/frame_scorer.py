"""Step 4, frame scorer: attention between a chunk's tokens picks its key frames (arXiv 2503.21782). No parameters.

Always float32: scores cluster around the token count (196), where a float16 step is 0.125 and other frames would win.
"""

from __future__ import annotations

import torch
from torch import nn

from ..config import ScorerConfig


class FrameScorer(nn.Module):
    """clip_features float32 [F, P, C] of one chunk → frame_scores float32 [F], selected int64 [k] in time order."""

    def __init__(self, config: ScorerConfig) -> None:
        super().__init__()
        self.select_k, self.largest = config.select_k, config.largest

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = self.scores(features)
        return scores, self.select(scores)

    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """Attention that each frame's tokens receive from all tokens, float32 [F]; they add up to F·P."""
        frames, patches, channels = features.shape
        tokens = features.to(torch.float32).reshape(
            1, frames * patches, channels
        )  # bmm delegates, mm of two inputs does not
        attention = torch.softmax(torch.bmm(tokens, tokens.transpose(1, 2)) * channels**-0.5, dim=-1)
        # Summed in stages: one running float32 sum over F·P·P terms loses enough digits to pick other frames.
        received = attention.reshape(frames, patches, frames * patches).sum(1).sum(0)
        return received.reshape(frames, patches).sum(1)

    def select(self, scores: torch.Tensor) -> torch.Tensor:
        """Indices of the k best frames in time order; of equal scores the earlier frame wins.

        A frame's rank is the number of frames before it, by comparison: topk's order of equal values is unspecified.
        """
        signed = scores if self.largest else -scores
        index = torch.arange(scores.shape[0], dtype=torch.float32, device=scores.device)
        better = signed.unsqueeze(0) > signed.unsqueeze(1)
        earlier = (signed.unsqueeze(0) == signed.unsqueeze(1)) & (index.unsqueeze(0) < index.unsqueeze(1))
        rank = (better | earlier).to(torch.float32).sum(1)
        late = torch.where(rank < self.select_k, index, index + scores.shape[0])
        # Distinct values now, so topk of their negatives is a sort (aten::sort has no kernel in ExecuTorch's wheel).
        return torch.topk(-late, self.select_k).values.neg().to(torch.int64)
