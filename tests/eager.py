"""The eager model as a reference for whole answers."""

from __future__ import annotations

import torch
from mvgpt_export.models.qwen2 import KVCache, rotary_table
from mvgpt_export.models.video_gpt import VideoGPT
from mvgpt_runtime import Session
from mvgpt_runtime.answer import Answer
from mvgpt_runtime.sampler import Sampler, SamplingOptions


def generate(model: VideoGPT, session: Session, answer: Answer, count: int, **options: float) -> list[int]:
    """Up to `count` tokens after the answer's prompt around the session's video, everything anew for every token."""
    lm = model.language_model
    assert session.video is not None
    sampler = Sampler(SamplingOptions(**options), [*answer.prefix_ids, *answer.suffix_ids])  # type: ignore[arg-type]
    with torch.no_grad():
        prefix, suffix = (lm.embed_tokens(torch.tensor(ids)) for ids in (answer.prefix_ids, answer.suffix_ids))
        rows = torch.cat([prefix, torch.from_numpy(session.video.visual_tokens), suffix]).unsqueeze(0)
        ids: list[int] = []
        while len(ids) < count:
            logits = lm(rows, *rotary_table(lm.config, rows.shape[1]), [KVCache() for _ in lm.layers])
            ids.append(sampler(logits.reshape(-1).numpy()))
            if ids[-1] in session.bundle.manifest.stop_ids:
                return ids[:-1]
            rows = torch.cat([rows, lm.embed_tokens(torch.tensor([[ids[-1]]]))], dim=1)
    return ids
