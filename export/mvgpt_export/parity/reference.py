"""What goes into both sides of the comparison, and the eager model's outputs for it, stage by stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mvgpt_runtime.contract import Geometry
from mvgpt_runtime.errors import MvgptError
from mvgpt_runtime.frames import ClipFrames
from mvgpt_runtime.manifest import Bundle
from mvgpt_runtime.prompt import Prompt

from ..models.qwen2 import KVCache, rotary_table
from ..models.video_gpt import VideoGPT
from ..samples import clip_frames, smooth_frames

FORCED_TOKENS = 64  # of the text after the prompt: one decode step each, whatever the model would have said
QUESTION = "What happens in this video?"
# The text is given, not the eager model's own greedy answer: all its positions then cost one pass instead of one each,
# and random weights would repeat one token and count one decision 64 times.
ANSWER = (
    "A red ball rolls in from the left across a tiled floor and hits a tall blue tower in the middle of the room. The "
    "tower leans over slowly, falls onto its side and comes to rest, while the ball bounces back a little and stops. "
    "After that a green balloon rises behind it, drifts to the right and leaves the picture at the top, and the last "
    "light of the evening sky fades from orange to blue."
)

Outputs = dict[str, np.ndarray]
"""By stage, float32: `image_encoder` [num_frames, image_patches, image_width], `frame_scorer` [num_chunks,
chunk_frames], `video_encoder` [num_chunks, video_patches, video_width], `image_projector` [num_frames, image_tokens,
hidden], `video_projector` [num_chunks, video_tokens, hidden], `token_embedding` [text ids, hidden], `text_decoder`
[1 + answer ids, vocab]; and `selected`, int64 [num_chunks, select_k]."""


@dataclass(frozen=True)
class Inputs:
    """One set of inputs: decoded frames uint8 [H, W, 3], and the text around and after the visual tokens."""

    name: str
    frames: Sequence[np.ndarray]
    prefix_ids: list[int]
    suffix_ids: list[int]
    answer_ids: list[int]

    @property
    def text_ids(self) -> list[int]:
        return [*self.prefix_ids, *self.suffix_ids, *self.answer_ids]


def both_inputs(bundle: Bundle, clip: Path | None) -> tuple[Inputs, Inputs]:
    """Seeded ones, and a real clip (None: the packaged one) with a question and an answer in words.

    Seeded: correlated frames, one fewer than the model takes, so that one is padding; ids from the whole vocabulary.

    Raises:
        MvgptError: the clip is no video, or the KV cache does not even hold a question about one.
    """
    geometry = bundle.geometry
    seeded = [int(i) for i in np.random.default_rng(0).integers(0, geometry.vocab_size, 24 + FORCED_TOKENS)]
    size = geometry.image_size
    frames = smooth_frames(geometry.num_frames - 1, size * 5 // 4, size * 7 // 4).numpy()
    first = Inputs("seeded", list(frames), seeded[:12], seeded[12:24], seeded[24:])
    text = first
    if bundle.manifest.tokenizer is not None:
        prompt = Prompt(bundle)
        answer: list[int] = prompt.tokenizer.encode(ANSWER, add_special_tokens=False).ids
        text = Inputs("clip", (), prompt.prefix_ids, prompt.suffix_ids(QUESTION), answer[:FORCED_TOKENS])
    second = Inputs("clip", clip_frames(geometry.num_frames, clip), text.prefix_ids, text.suffix_ids, text.answer_ids)
    return _that_fit(first, geometry), _that_fit(second, geometry)


def _that_fit(inputs: Inputs, geometry: Geometry) -> Inputs:
    """With as much of the answer as the KV cache holds."""
    prompt = len(inputs.prefix_ids) + geometry.visual_tokens + len(inputs.suffix_ids)
    if prompt >= geometry.max_context:
        raise MvgptError(
            "the KV cache holds no question about a video",
            stage="text_decoder",
            expected=f"max_context > {prompt}",
            got=geometry.max_context,
            remedy="export with a larger --max-context",
        )
    answer = inputs.answer_ids[: geometry.max_context - prompt]
    return Inputs(inputs.name, inputs.frames, inputs.prefix_ids, inputs.suffix_ids, answer)


@torch.no_grad()
def eager_outputs(model: VideoGPT, inputs: Inputs, pixels: ClipFrames, key: np.ndarray) -> Outputs:
    """The eager model's outputs, its video encoder on the key frames given: int64 [key_frames], indices of the clip.

    One pass of the language model over the prompt and the answer.
    """
    clip, frames, present = map(torch.from_numpy, (pixels.clip_pixels, pixels.video_pixels, pixels.mask))
    features = model.image_encoder(clip, present)
    scored = [model.frame_scorer(chunk) for chunk in features.split(model.config.pipeline.chunk_frames)]
    scores, selected = (torch.stack(parts) for parts in zip(*scored, strict=True))
    video_features = model.video_encoder(frames[key], present[key])
    image_tokens, video_tokens = model.image_projector(features), model.video_projector(video_features)

    lm = model.language_model
    text = lm.embed_tokens(torch.tensor(inputs.text_ids))
    prefix, rest = text.split([len(inputs.prefix_ids), len(text) - len(inputs.prefix_ids)])
    rows = torch.cat([prefix, image_tokens.flatten(0, 1), video_tokens.flatten(0, 1), rest]).unsqueeze(0)
    tables = rotary_table(lm.config, rows.shape[1])
    logits = lm(rows, *tables, [KVCache() for _ in lm.layers], last=1 + len(inputs.answer_ids))
    outputs = {
        "image_encoder": features,
        "frame_scorer": scores,
        "selected": selected,
        "video_encoder": video_features,
        "image_projector": image_tokens,
        "video_projector": video_tokens,
        "token_embedding": text,
        "text_decoder": logits,
    }
    return {name: value.numpy() for name, value in outputs.items()}
