"""What the language model's layers get to see, for rounding that knows it: inputs of a text and of a clip.

Layer by layer, and each layer sees what the rounded ones before it give.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.resources import as_file, files

import torch
import torch.nn.functional as F
from mvgpt_runtime import contract, video
from mvgpt_runtime.frames import ClipFrames
from torch import nn

from .models.qwen2 import KVCache, rotary_table, rotate
from .sources import Source
from .text_decoder import Layer, TextDecoder

WINDOW = 512  # tokens of text in a row
TEXT_TOKENS = 5 * WINDOW
QUESTION = "Describe what happens in this video."


@torch.no_grad()
def calibration_rows(source: Source) -> list[torch.Tensor]:
    """Prompts as embeddings float32 [n, hidden]: the packaged text in windows, and the packaged clip with a question.

    A checkpoint without a tokenizer gets ids from all over its vocabulary instead of text.
    """
    embed = source.model.language_model.embed_tokens
    tokenizer = source.tokenizer
    if tokenizer is None:
        ids = torch.arange(TEXT_TOKENS) * 7919 % embed.num_embeddings
        return list(embed(ids).split(WINDOW))

    def rows(text: str) -> torch.Tensor:
        return embed(torch.tensor(tokenizer.encode(text, add_special_tokens=False).ids))

    text = (files("mvgpt_export") / "data" / "calibration.txt").read_text(encoding="utf-8")
    prompt = [rows(contract.PROMPT_PREFIX), _visual_rows(source), rows(contract.PROMPT_SUFFIX.format(question=QUESTION))]
    return [*rows(text)[:TEXT_TOKENS].split(WINDOW), torch.cat(prompt)]


def _visual_rows(source: Source) -> torch.Tensor:
    """The packaged clip's visual tokens [visual_tokens, hidden]."""
    model = source.model
    with as_file(files("mvgpt_export") / "data" / "sample.mp4") as path:
        clip = video.open_clip(path, None, None, model.config.pipeline.num_frames)
        frames = list(clip.frames())
    prepared = ClipFrames.of(frames, model.config.clip.image_size, model.config.pipeline.num_frames)
    return model.visual_tokens(prepared)


@torch.no_grad()
def input_moments(decoder: TextDecoder, prompts: Sequence[torch.Tensor]) -> Iterator[tuple[list[str], torch.Tensor]]:
    """Names of layers with the same input and its moment: float32 [columns, columns], mean of x xᵀ over all positions.

    In the order of computation, the head last. The caller may replace or round the named layers before asking for the
    next ones: what these see comes from the layers as they are then.
    """
    tables = rotary_table(decoder.config, max(map(len, prompts)))
    xs = [prompt.unsqueeze(0) for prompt in prompts]
    for i, layer in enumerate(decoder.layers):
        assert isinstance(layer, Layer)
        inputs = [layer.input_norm(x) for x in xs]
        yield [f"layers.{i}.q_proj", f"layers.{i}.kv_proj"], _moment(inputs)
        inputs = [_attention(decoder, layer, x, *tables) for x in inputs]
        yield [f"layers.{i}.o_proj"], _moment(inputs)
        xs = [x + layer.o_proj(context) for x, context in zip(xs, inputs, strict=True)]
        inputs = [layer.post_norm(x) for x in xs]
        yield [f"layers.{i}.mlp.gate_proj", f"layers.{i}.mlp.up_proj"], _moment(inputs)
        inputs = [F.silu(layer.mlp.gate_proj(x)) * layer.mlp.up_proj(x) for x in inputs]
        yield [f"layers.{i}.mlp.down_proj"], _moment(inputs)
        xs = [x + layer.mlp.down_proj(inner) for x, inner in zip(xs, inputs, strict=True)]
    yield ["lm_head"], _moment([decoder.norm(x) for x in xs])


def _attention(
    decoder: TextDecoder, layer: Layer, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> torch.Tensor:
    """The layer's context for all positions of a normed x [1, n, hidden], from the beginning of a cache."""
    config, n = decoder.config, x.shape[1]
    q = layer.q_proj(x).reshape(1, n, config.heads, config.head_dim)
    k, v = layer.kv_proj(x).reshape(1, n, 2 * config.kv_heads, config.head_dim).split(config.kv_heads, dim=2)
    context = KVCache()(rotate(q, cos[:n], sin[:n]), rotate(k, cos[:n], sin[:n]), v)
    return context.reshape(1, n, config.heads * config.head_dim)


def _moment(inputs: list[torch.Tensor]) -> torch.Tensor:
    rows = [x.flatten(0, 1) for x in inputs]
    moment = rows[0].T @ rows[0]
    for x in rows[1:]:
        moment.addmm_(x.T, x)
    return moment.div_(sum(map(len, rows)))
