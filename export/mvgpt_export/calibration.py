"""What the language model's layers get to see, for rounding that knows it: inputs of a text and of a clip.

Layer by layer, and each layer sees what the rounded ones before it give.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from mvgpt_runtime import contract

from .models.qwen2 import KVCache, rotary_table, rotate
from .samples import clip_frames
from .text_decoder import Layer, TextDecoder

if TYPE_CHECKING:
    from .backends import Report
    from .sources import Source

WINDOW = 512  # tokens of text in a row
TEXT_TOKENS = 5 * WINDOW
QUESTION = "Describe what happens in this video."


@torch.no_grad()
def calibration_prompts(source: Source) -> list[torch.Tensor]:
    """Embeddings float32 [n, hidden] each: the packaged text in windows, and the packaged clip with a question.

    A checkpoint without a tokenizer gets ids from all over its vocabulary instead of text.
    """
    model, tokenizer = source.model, source.tokenizer
    embed = model.language_model.embed_tokens
    if tokenizer is None:
        ids = torch.arange(TEXT_TOKENS) * 7919 % embed.num_embeddings
        return list(embed(ids).split(WINDOW))

    def rows(text: str) -> torch.Tensor:
        return embed(torch.tensor(tokenizer.encode(text, add_special_tokens=False).ids))

    text = (files("mvgpt_export") / "data" / "calibration.txt").read_text(encoding="utf-8")
    visual = model.visual_tokens(clip_frames(model.config.pipeline.num_frames))
    prompt = [rows(contract.PROMPT_PREFIX), visual, rows(contract.PROMPT_SUFFIX.format(question=QUESTION))]
    return [*rows(text)[:TEXT_TOKENS].split(WINDOW), torch.cat(prompt)]


class Calibration:
    """Iterate for names of layers with the same input and its moment, in the order of computation.

    A moment is float32 [columns, columns], the mean of x xᵀ over all positions of all prompts. The named layers may be
    rounded before the next ones are asked for: what these see comes from the layers as they are then.

    Attributes:
        head: the moment of the head's inputs, once all layers are through.
    """

    def __init__(self, decoder: TextDecoder, prompts: Sequence[torch.Tensor], report: Report) -> None:
        self.decoder, self.prompts, self.report = decoder, prompts, report
        self.head: torch.Tensor | None = None

    @torch.no_grad()
    def __iter__(self) -> Iterator[tuple[list[str], torch.Tensor]]:
        decoder = self.decoder
        tables = rotary_table(decoder.config, max(map(len, self.prompts)))
        xs = [prompt.unsqueeze(0) for prompt in self.prompts]
        for i, layer in enumerate(decoder.layers):
            self.report(f"calibrate layer {i + 1} of {len(decoder.layers)}")
            assert isinstance(layer, Layer)
            inputs = [layer.input_norm(x) for x in xs]
            yield [f"layers.{i}.q_proj", f"layers.{i}.kv_proj"], _moment(inputs)
            inputs = [self._context(layer, x, *tables) for x in inputs]
            yield [f"layers.{i}.o_proj"], _moment(inputs)
            xs = [x + layer.o_proj(context) for x, context in zip(xs, inputs, strict=True)]
            inputs = [layer.post_norm(x) for x in xs]
            yield [f"layers.{i}.mlp.gate_proj", f"layers.{i}.mlp.up_proj"], _moment(inputs)
            inputs = [F.silu(layer.mlp.gate_proj(x)) * layer.mlp.up_proj(x) for x in inputs]
            yield [f"layers.{i}.mlp.down_proj"], _moment(inputs)
            xs = [x + layer.mlp.down_proj(inner) for x, inner in zip(xs, inputs, strict=True)]
        self.head = _moment([decoder.norm(x) for x in xs])
        yield ["lm_head"], self.head

    def _context(self, layer: Layer, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Attention's result for all positions of a normed x [1, n, hidden], from the beginning of a cache."""
        config, n = self.decoder.config, x.shape[1]
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
