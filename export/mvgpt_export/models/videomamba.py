"""Step 5, video encoder: VideoMamba over the key frames (Li et al. 2024, arXiv 2403.06977).

Parameter names are the checkpoint's below `vision_encoder.`. Each mixer scans the sequence in both directions, with
separate weights (`*_b`: backward) and adds the two results.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from mvgpt_runtime.contract import IMAGENET_MEAN, IMAGENET_STD
from torch import nn

from ..config import VideoMambaConfig
from ..ops.selective_scan import SelectiveScan, selective_scan_loop
from .norm import RMSNorm
from .normalize import Normalize
from .patches import PatchEmbedding
from .pooling import GridPool


class Mixer(nn.Module):
    """[L, width] → [L, width]. `scan` is the selective scan to use; export swaps in a lowerable form."""

    scan: SelectiveScan

    def __init__(self, config: VideoMambaConfig) -> None:
        super().__init__()
        inner, state, rank = config.d_inner, config.d_state, config.dt_rank
        self.split = [rank, state, state]
        self.scan = selective_scan_loop
        self.in_proj = nn.Linear(config.width, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, config.d_conv, groups=inner, padding=config.d_conv - 1)
        self.conv1d_b = nn.Conv1d(inner, inner, config.d_conv, groups=inner, padding=config.d_conv - 1)
        self.x_proj = nn.Linear(inner, sum(self.split), bias=False)
        self.x_proj_b = nn.Linear(inner, sum(self.split), bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.dt_proj_b = nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.empty(inner, state))
        self.A_b_log = nn.Parameter(torch.empty(inner, state))
        self.D = nn.Parameter(torch.empty(inner))
        self.D_b = nn.Parameter(torch.empty(inner))
        self.out_proj = nn.Linear(inner, config.width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, z = self.in_proj(x).chunk(2, dim=-1)
        forward = self._direction(x, self.conv1d, self.x_proj, self.dt_proj, self.A_log, self.D)
        backward = self._direction(x.flip(0), self.conv1d_b, self.x_proj_b, self.dt_proj_b, self.A_b_log, self.D_b)
        # Both directions are gated by the same silu(z), so it multiplies their sum once.
        return self.out_proj((forward + backward.flip(0)) * F.silu(z))

    def _direction(
        self,
        x: torch.Tensor,
        conv: nn.Conv1d,
        x_proj: nn.Linear,
        dt_proj: nn.Linear,
        A_log: torch.Tensor,
        D: torch.Tensor,
    ) -> torch.Tensor:
        """[L, d_inner] → [L, d_inner], in the order of time given."""
        length = x.shape[0]
        u = F.silu(conv(x.transpose(0, 1).unsqueeze(0))[..., :length]).squeeze(0).transpose(0, 1)
        dt, B, C = x_proj(u).split(self.split, dim=-1)
        delta = F.softplus(dt_proj(dt))
        return self.scan(u, delta, -torch.exp(A_log), B, C, D)


class Block(nn.Module):
    def __init__(self, config: VideoMambaConfig) -> None:
        super().__init__()
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.mixer: nn.Module = Mixer(config)  # export swaps in another form of it

    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        residual = residual + x
        return self.mixer(self.norm(residual)), residual


class PatchEmbed(nn.Module):
    def __init__(self, config: VideoMambaConfig) -> None:
        super().__init__()
        # The checkpoint's Conv3d has a kernel of one frame: a Conv2d per frame (`sanitize` drops the axis).
        self.proj: nn.Module = PatchEmbedding(config.width, config.patch_size, bias=True)


class VideoMamba(nn.Module):
    """frames uint8 [T, S, S, 3], frame_mask float32 [T] → features [T / k, k · pool², width], pooled per frame."""

    def __init__(self, config: VideoMambaConfig) -> None:
        super().__init__()
        self.config = config
        self.normalize = Normalize(IMAGENET_MEAN, IMAGENET_STD)
        self.patch_embed = PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.empty(1, config.patches + 1, config.width))
        self.temporal_pos_embedding = nn.Parameter(torch.empty(1, config.frames, config.width))
        self.layers = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.pool = GridPool(config.grid, config.frame_pool)

    def forward(self, frames: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        config = self.config
        patches = self.patch_embed.proj(self.normalize(frames, frame_mask))
        positions = self.pos_embed
        patches = patches + positions[:, 1:] + self.temporal_pos_embedding.transpose(0, 1)
        class_token = self.cls_token[0] + positions[0, :1]
        x = torch.cat([class_token, patches.reshape(-1, config.width)])
        residual = torch.zeros_like(x)
        for block in self.layers:
            x, residual = block(x, residual)
        features = self.norm(residual + x)[1:].reshape(config.frames, config.patches, config.width)
        return self.pool(features).reshape(config.chunks, -1, config.width)


def sanitize(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The checkpoint's tensors as this network holds them."""
    return {name: t.squeeze(2) if name == "patch_embed.proj.weight" else t for name, t in state.items()}
