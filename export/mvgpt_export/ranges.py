"""Whether a checkpoint's activations fit the float16 arithmetic of an export: looked at before the long work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from mvgpt_runtime import contract

from .backends import BACKENDS, Report, Target
from .calibration import calibration_prompts
from .half import LARGEST, MARGIN, check_range
from .models.qwen2 import KVCache, rotary_table
from .quant import HALF_ARITHMETIC, RECIPES
from .samples import range_frames
from .sources import Source

HALF = {
    "image_encoder": ".*",
    "image_projector": ".*",
    "video_projector": ".*",
    # Between norms and residual stream; scores are not looked at, where masks are infinite.
    "text_decoder": r"layers\.\d+\.(self_attn\.\w_proj|mlp)",
}
"""By stage, the layers that a backend of `Backend.half` computes in float16."""
TEXT_MARGIN = 1
"""Instead of MARGIN: a language model's largest activations come with a prompt's first tokens, whatever follows
(Sun et al. 2024, arXiv 2402.17762)."""


def check_ranges(source: Source, target: Target, recipe: str, report: Report) -> None:
    """MvgptError if an activation is too large: of drawn frames, and in the language model of a text and a clip."""
    others = [name for name in target.recipes() if not _parts(target, name)]
    for stage, parts in _parts(target, recipe).items():
        network = source.model.language_model if stage == "text_decoder" else getattr(source.model, stage)
        for inputs in _inputs(source, stage):
            margin = TEXT_MARGIN if stage == "text_decoder" else MARGIN
            peak = check_range(stage, network, parts, others, *inputs, margin=margin)
            report(f"largest activation of {stage} in float16 is {peak.value:.1f} of {LARGEST:.0f}")


def _parts(target: Target, recipe: str) -> dict[str, str]:
    parts = {rule.stage: rule.layers for rule in RECIPES[recipe].rules if rule.scheme == HALF_ARITHMETIC}
    for stage, layers in HALF.items():
        if recipe in BACKENDS[target.backends[contract.stage(stage).unit]].half:
            parts[stage] = layers
    return parts


@torch.no_grad()
def _inputs(source: Source, stage: str) -> Iterator[tuple[Any, ...]]:
    """What the eager network of a stage is tried with."""
    model = source.model
    frames = range_frames(model.config.clip.image_size)
    if stage == "text_decoder":
        network, prompts = model.language_model, calibration_prompts(source)
        for prompt in (prompts[0], prompts[-1]):
            yield prompt.unsqueeze(0), *rotary_table(network.config, len(prompt)), [KVCache() for _ in network.layers]
    elif stage == "video_projector":
        key = torch.arange(model.config.geometry().key_frames) % len(frames)
        yield (model.video_encoder(frames[key], torch.ones(len(key))),)
    else:
        mask = torch.ones(len(frames))
        yield (frames, mask) if stage == "image_encoder" else (model.image_encoder(frames, mask),)
