"""The model's networks over a batch of clips, with gradients: the same modules and numbers as `VideoGPT`, which takes
one clip at a time (tests/test_training.py holds them equal)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mvgpt_export.models.qwen2 import Qwen2, rotary_table
from mvgpt_export.models.video_gpt import VideoGPT
from mvgpt_export.models.videomamba import Block, Mixer, VideoMamba
from torch import nn

from .scan import selective_scan


def image_features(model: VideoGPT, frames: torch.Tensor) -> torch.Tensor:
    """frames uint8 [B, T, S, S, 3] → [B, T, patches, width]."""
    features = model.image_encoder(frames.flatten(0, 1), torch.ones(frames.shape[0] * frames.shape[1]))
    return features.unflatten(0, frames.shape[:2])


def frame_scores(model: VideoGPT, features: torch.Tensor) -> torch.Tensor:
    """features [B, T, patches, width] → [B, chunks, chunk_frames], differentiable."""
    chunk = model.config.pipeline.chunk_frames
    with torch.autocast("cpu", enabled=False):
        scores = [model.frame_scorer.scores(x.float()) for clip in features for x in clip.split(chunk)]
    return torch.stack(scores).reshape(len(features), -1, chunk)


def key_frames(model: VideoGPT, scores: torch.Tensor) -> torch.Tensor:
    """[B, chunks, chunk_frames] → int64 [B, key frames]."""
    chunk = model.config.pipeline.chunk_frames
    selected = [[model.frame_scorer.select(s) + c * chunk for c, s in enumerate(clip)] for clip in scores.detach()]
    return torch.stack([torch.cat(clip) for clip in selected])


def video_features(network: VideoMamba, frames: torch.Tensor, slots: torch.Tensor | None = None) -> torch.Tensor:
    """frames uint8 [B, K, S, S, 3] → float32 [B, K, patches, width], before the pooling of `VideoMamba.forward`.

    `slots` int64 [B, K]: which of its frames these are, if not all.
    """
    batch, k = frames.shape[:2]
    times = network.temporal_pos_embedding if slots is None else network.temporal_pos_embedding[0, slots]
    patches = network.patch_embed.proj(network.normalize(frames.flatten(0, 1), torch.ones(batch * k)))
    patches = patches.unflatten(0, (batch, k)) + network.pos_embed[:, 1:].unsqueeze(0) + times.unsqueeze(2)
    class_token = (network.cls_token[0] + network.pos_embed[0, :1]).expand(batch, 1, -1)
    x = torch.cat([class_token, patches.flatten(1, 2)], dim=1).transpose(0, 1).float()
    residual = torch.zeros_like(x)
    for block in network.layers:
        assert isinstance(block, Block)
        assert isinstance(block.mixer, Mixer)
        residual = residual + x
        x = mix(block.mixer, block.norm(residual)).float()
    features = network.norm(residual + x)[1:]
    return features.transpose(0, 1).unflatten(1, (k, network.config.patches))


def mix(mixer: Mixer, x: torch.Tensor) -> torch.Tensor:
    """`Mixer.forward` of [L, B, width], both directions in one scan."""
    x, z = mixer.in_proj(x).chunk(2, dim=-1)
    both = []
    for x_, conv, x_proj, dt_proj in (
        (x, mixer.conv1d, mixer.x_proj, mixer.dt_proj),
        (x.flip(0), mixer.conv1d_b, mixer.x_proj_b, mixer.dt_proj_b),
    ):
        u = F.silu(_convolve(x_.float(), conv))
        dt, B, C = x_proj(u).float().split(mixer.split, dim=-1)
        both.append((u, F.softplus(dt_proj(dt).float()), B, C))
    u, delta, B, C = (torch.stack(tensors, dim=1) for tensors in zip(*both, strict=True))
    A = -torch.exp(torch.stack([mixer.A_log, mixer.A_b_log]))
    with torch.autocast("cpu", enabled=False):
        y = selective_scan(u, delta, A, B, C) + torch.stack([mixer.D, mixer.D_b]).unsqueeze(1) * u
    return mixer.out_proj((y[:, 0] + y[:, 1].flip(0)) * F.silu(z))


def _convolve(x: torch.Tensor, conv: nn.Conv1d) -> torch.Tensor:
    """The causal depthwise convolution as shifted products: its gradient is slow on CPUs."""
    taps = conv.weight.shape[2]
    padded = F.pad(x, (0, 0, 0, 0, taps - 1, 0))
    y = padded[: len(x)] * conv.weight[:, 0, 0]
    for k in range(1, taps):
        y = y + padded[k : k + len(x)] * conv.weight[:, 0, k]
    return y if conv.bias is None else y + conv.bias


def visual_tokens(model: VideoGPT, features: torch.Tensor, video: torch.Tensor) -> torch.Tensor:
    """Of both encoders' features → [B, visual tokens, hidden]."""
    batch, config = len(features), model.config
    image = model.image_projector(features.flatten(0, 1)).reshape(batch, -1, config.text.hidden_size)
    pooled = model.video_encoder.pool(video.flatten(0, 1)).reshape(batch * config.video.chunks, -1, config.video.width)
    return torch.cat([image, model.video_projector(pooled).reshape(batch, -1, config.text.hidden_size)], dim=1)


def hidden_states(
    lm: Qwen2, embeddings: torch.Tensor, positions: torch.Tensor, blocks: torch.Tensor
) -> list[torch.Tensor]:
    """embeddings [B, n, hidden], positions int64 [B, n] → normed [B, n, hidden] after each layer.

    The last rows are questions: those of the same number in `blocks` [B, questions' rows] are one, which sees all rows
    before the first question, and itself. The network takes one sequence: the batch is laid out as one, and attention
    takes it apart.
    """
    batch, n, _ = embeddings.shape
    start = n - blocks.shape[1]
    own = (blocks.unsqueeze(2) == blocks.unsqueeze(1)).tril()
    mask = torch.cat([own.new_ones(batch, n - start, start), own], dim=2).unsqueeze(1)
    cos, sin = rotary_table(lm.config, int(positions.max()) + 1)
    cos, sin = cos[positions.flatten()], sin[positions.flatten()]
    causal = torch.ones(start, start, dtype=torch.bool).tril()
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else embeddings.dtype
    video, asked = (torch.zeros(m.shape, dtype=dtype).masked_fill_(~m, -torch.inf) for m in (causal, mask))

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Written out, a group's query heads as rows of one product: torch's fused gradient is slow."""
        q, k, v = (t.unflatten(1, (batch, n))[0].transpose(1, 2).to(dtype) for t in (q, k, v))
        q = (q * q.shape[3] ** -0.5).unflatten(1, (k.shape[1], -1))
        out = [
            _attend(q[..., :start, :], k[:, :, :start], v[:, :, :start], video),
            _attend(q[..., start:, :], k, v, asked),
        ]
        return (
            torch.cat(out, dim=3).flatten(1, 2).transpose(1, 2).reshape(1, batch * n, *q.shape[1:3], -1).flatten(2, 3)
        )

    x = embeddings.reshape(1, batch * n, -1)
    after = [x := layer(x, cos, sin, attend) for layer in lm.layers]
    return [lm.norm(x).reshape(batch, n, -1) for x in after]


def _attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, minus: torch.Tensor) -> torch.Tensor:
    """q [B, kv_heads, group, m, d], k and v [B, kv_heads, n, d], minus (0 or −∞) [(B, 1,) m, n] → like q."""
    scores = (q.flatten(2, 3) @ k.transpose(2, 3)).unflatten(2, q.shape[2:4]) + minus.unsqueeze(-3)
    return (scores.softmax(-1).flatten(2, 3) @ v).view(q.shape)
