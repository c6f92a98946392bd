"""Step 3, image encoder: CLIP ViT up to the hidden state before its last block (Radford et al. 2021, 2103.00020).

Parameter names are Hugging Face's `CLIPVisionModel` names below `vision_model.`. The last block and the post-norm are
in checkpoints but never run, so they are not built; `never_run_keys` names them for the strict loader.
"""

from __future__ import annotations

import torch
from mvgpt_runtime.contract import CLIP_MEAN, CLIP_STD
from torch import nn

from ..config import ClipConfig
from .normalize import Normalize
from .patches import PatchEmbedding


class Embeddings(nn.Module):
    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.empty(config.width))
        self.patch_embedding: nn.Module = PatchEmbedding(config.width, config.patch_size, bias=False)
        self.position_embedding = nn.Embedding(config.patches + 1, config.width)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embedding(pixels)
        class_token = self.class_embedding.reshape(1, 1, -1).expand(pixels.shape[0], 1, -1)
        return torch.cat([class_token, patches], dim=1) + self.position_embedding.weight


class Attention(nn.Module):
    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.heads, self.head_dim = config.heads, config.width // config.heads
        self.q_proj = nn.Linear(config.width, config.width)
        self.k_proj = nn.Linear(config.width, config.width)
        self.v_proj = nn.Linear(config.width, config.width)
        self.out_proj = nn.Linear(config.width, config.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, tokens, width = x.shape

        def heads(y: torch.Tensor) -> torch.Tensor:
            y = y.reshape(n, tokens, self.heads, self.head_dim).transpose(1, 2)
            return y.reshape(n * self.heads, tokens, self.head_dim)

        q, k, v = heads(self.q_proj(x) * self.head_dim**-0.5), heads(self.k_proj(x)), heads(self.v_proj(x))
        # Spelled out with bmm: the fused form lowers to a softmax with guards that no delegate takes, matmul to copies.
        weights = torch.softmax(torch.bmm(q, k.transpose(1, 2)), dim=-1)
        context = torch.bmm(weights, v).reshape(n, self.heads, tokens, self.head_dim).transpose(1, 2)
        return self.out_proj(context.reshape(n, tokens, width))


class Mlp(nn.Module):
    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, config.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc1(x)
        return self.fc2(x * torch.sigmoid(1.702 * x))  # QuickGELU


class Block(nn.Module):
    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.self_attn = Attention(config)
        self.layer_norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)
        self.mlp = Mlp(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nn.Module):
    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block(config) for _ in range(config.layers - 1))


class ClipVision(nn.Module):
    """frames uint8 [N, S, S, 3], frame_mask float32 [N] → features float32 [N, patches, width]."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.normalize = Normalize(CLIP_MEAN, CLIP_STD)
        self.embeddings = Embeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.width, eps=config.norm_eps)  # upstream's spelling
        self.encoder = Encoder(config)

    def forward(self, frames: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        x = self.pre_layrnorm(self.embeddings(self.normalize(frames, frame_mask)))
        for block in self.encoder.layers:
            x = block(x)
        return x[:, 1:]


def never_run_keys(config: ClipConfig) -> dict[str, tuple[int, ...]]:
    """Shapes by name of the parameters that a checkpoint holds and this network leaves out."""
    with torch.device("meta"):
        block, norm = Block(config), nn.LayerNorm(config.width)
    last = f"encoder.layers.{config.layers - 1}."
    shapes = {last + name: tuple(p.shape) for name, p in block.named_parameters()}
    return shapes | {f"post_layernorm.{name}": tuple(p.shape) for name, p in norm.named_parameters()}
