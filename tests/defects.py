"""Mistakes of the kinds that exports and hosts make, each planted where it would really be, in fresh objects.

Those of networks go into an eager model, with which a sound bundle is then compared: the difference is the same as if
the bundle had them. Those of the host go into the runtime.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from mvgpt_export.models.qwen2 import Attention, rotary_table
from mvgpt_export.models.video_gpt import VideoGPT
from mvgpt_export.models.videomamba import Mixer
from mvgpt_runtime.encode import VideoEncoder
from mvgpt_runtime.generate import Generator
from mvgpt_runtime.ingest import Ingest

Plant = Callable[[VideoGPT, pytest.MonkeyPatch], object]


def swap_normalisations(model: VideoGPT, patch: pytest.MonkeyPatch) -> None:
    clip, video = model.image_encoder, model.video_encoder
    clip.normalize, video.normalize = video.normalize, clip.normalize


def wrong_normalisation_of_the_video(model: VideoGPT, patch: pytest.MonkeyPatch) -> None:
    model.video_encoder.normalize = model.image_encoder.normalize


def drop_the_backward_scan(model: VideoGPT, patch: pytest.MonkeyPatch) -> None:
    for module in model.video_encoder.modules():
        if isinstance(module, Mixer):  # without a bias, silu of nothing is nothing
            module.conv1d_b.weight.zero_()
            assert module.conv1d_b.bias is not None
            module.conv1d_b.bias.zero_()


def transpose_the_grid(projector: torch.nn.Module) -> None:
    def columns_first(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        n, tokens, width = output.shape
        side = round(tokens**0.5)
        return output.reshape(n, side, side, width).transpose(1, 2).reshape(n, tokens, width)

    projector.get_submodule("pool").register_forward_hook(columns_first)


def permute_the_image_grid(model: VideoGPT, patch: pytest.MonkeyPatch) -> None:
    transpose_the_grid(model.image_projector)


def permute_the_video_grid(model: VideoGPT, patch: pytest.MonkeyPatch) -> None:
    transpose_the_grid(model.video_projector)


def keys_one_position_on(model: VideoGPT, patch: pytest.MonkeyPatch) -> None:
    """Of queries and keys alike it would change nothing: rotary positions are relative."""
    from mvgpt_export.models import qwen2

    config = model.config.text
    patch.setattr(qwen2, "rotate", rotate := qwen2.rotate)

    def forward(self: Attention, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, attend: object) -> torch.Tensor:
        n = x.shape[1]
        late = [table[1:] for table in rotary_table(config, n + 1)]
        q = rotate(self.q_proj(x).reshape(1, n, self.heads, self.head_dim), cos, sin)
        k = rotate(self.k_proj(x).reshape(1, n, self.kv_heads, self.head_dim), *late)
        v = self.v_proj(x).reshape(1, n, self.kv_heads, self.head_dim)
        return self.o_proj(attend(q, k, v).reshape(1, n, self.heads * self.head_dim))  # type: ignore[operator]

    patch.setattr(Attention, "forward", forward)


def host_off_by_one(model: VideoGPT, patch: pytest.MonkeyPatch) -> None:
    """Every chunk begins on the last row of the one before."""
    append = Generator._append

    def short(self: Generator, rows: np.ndarray) -> np.ndarray:
        logits = append(self, rows)
        self.cached -= len(rows) > 1
        return logits

    patch.setattr(Generator, "_append", short)


def shift_the_visual_tokens(model: VideoGPT, patch: pytest.MonkeyPatch) -> None:
    encode = VideoEncoder.encode

    def shifted(self: VideoEncoder, i: int) -> None:
        encode(self, i)
        self.blocks[-1] = np.roll(self.blocks[-1], 1, axis=0)

    patch.setattr(VideoEncoder, "encode", shifted)


def lose_a_visual_token(model: VideoGPT, patch: pytest.MonkeyPatch) -> None:
    append, block = Ingest._append, model.config.image_projector.out_side**2
    patch.setattr(Ingest, "_append", lambda self, rows: append(self, rows[: len(rows) - (len(rows) == block)]))


def frames_backwards(model: VideoGPT, patch: pytest.MonkeyPatch) -> None:
    """Key frames in the order of something else than time."""
    finish = VideoEncoder._run

    def run(self: VideoEncoder, stage: str, *inputs: np.ndarray) -> list[np.ndarray]:
        return finish(self, stage, *([array[::-1] for array in inputs] if stage == "video_encoder" else inputs))

    patch.setattr(VideoEncoder, "_run", run)


# The mistake, and the steps that are wrong by themselves, in data order: the first is to blame.
DEFECTS: dict[Plant, tuple[str, ...]] = {
    swap_normalisations: ("image_encoder", "video_encoder"),
    wrong_normalisation_of_the_video: ("video_encoder",),
    drop_the_backward_scan: ("video_encoder",),
    permute_the_image_grid: ("image_projector",),
    permute_the_video_grid: ("video_projector",),
    keys_one_position_on: ("text_decoder",),
    host_off_by_one: ("positions", "text_decoder"),  # by itself it is run by the same part of the host
    shift_the_visual_tokens: ("assembly",),
    lose_a_visual_token: ("assembly", "positions"),
    frames_backwards: ("key_frames",),
}
