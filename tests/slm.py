"""The language model by itself: exported as a bundle of one file, and transformers' network with the same weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from mvgpt_export.backends import BACKENDS
from mvgpt_export.bundle import export_unit
from mvgpt_export.quant import Recipe
from mvgpt_export.sources import Source
from mvgpt_export.stages import default_kernels
from mvgpt_runtime import contract
from mvgpt_runtime.engines import open_engine
from mvgpt_runtime.generate import Generator
from mvgpt_runtime.manifest import Bundle, FileInfo, Manifest, StageInfo
from mvgpt_runtime.sampler import Sampler, SamplingOptions
from mvgpt_runtime.stats import Stats
from safetensors import safe_open
from tokenizers import Tokenizer

if TYPE_CHECKING:
    from transformers import Qwen2ForCausalLM

CONTEXT = 640  # enough for text; no video has to fit


def export(
    source: Source, recipe: Recipe, folder: Path, *, kernels: str | None = None, backend: str = "xnnpack"
) -> Bundle:
    """A bundle that has the language model's stages only: enough for an engine, too little for `Bundle.open`."""
    geometry = dataclasses.replace(source.model.config.geometry(), max_context=CONTEXT)
    stages, name = list(contract.LANGUAGE_STAGES), contract.stage("text_decoder").unit + BACKENDS[backend].suffix
    lowered = export_unit(source, stages, geometry, backend, recipe, kernels or default_kernels(), folder / name)
    size, m = (folder / name).stat().st_size, lowered.methods
    return Bundle(
        folder,
        Manifest.model_construct(  # unlike the constructor, it takes a part of the fields
            backend=backend,
            geometry=contract.geometry_dict(geometry),
            stages={
                s: StageInfo(
                    file=name, method=s, backend=backend, delegates=m[s].delegates, undelegated=m[s].undelegated
                )
                for s in stages
            },
            files={name: FileInfo(sha256="0" * 64, bytes=size, operators=lowered.operators)},
        ),
    )


def generator(bundle: Bundle) -> Generator:
    return Generator(open_engine(bundle), bundle.geometry)


def reference(checkpoint: Path) -> Qwen2ForCausalLM:
    """transformers' Qwen2 in float32 with a checkpoint folder's weights."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    raw = json.loads((checkpoint / "config.json").read_text())
    names = "hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads vocab_size"
    config = Qwen2Config(
        **{name: raw[name] for name in names.split()},
        rms_norm_eps=raw["rms_norm_eps"],
        rope_theta=raw["rope_theta"],  # where older releases look for it
        rope_parameters={"rope_type": "default", "rope_theta": raw["rope_theta"]},
        tie_word_embeddings=raw["tie_word_embeddings"],
        attn_implementation="eager",
    )
    model = Qwen2ForCausalLM(config).eval().requires_grad_(False)
    with safe_open(checkpoint / "model.safetensors", framework="pt") as file:
        state = {name: file.get_tensor(name) for name in model.state_dict() if name != "lm_head.weight"}
    absent, unused = model.load_state_dict(state, strict=False)
    assert absent == ["lm_head.weight"]  # tied
    assert not unused
    return model


def chat_ids(tokenizer: Tokenizer, question: str) -> list[int]:
    """A session's prompt without the video, and without the line break that stands after one."""
    text = contract.PROMPT_PREFIX + contract.PROMPT_SUFFIX.removeprefix("\n").replace("{question}", question)
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def greedy(generator: Generator, prompt: list[int], count: int, stop_ids: Iterable[int] = ()) -> list[int]:
    """What an exported model answers, as a session generates it: at most `count` tokens."""
    generator.rewind(0)
    logits = generator.prefill(generator.embed(prompt), lambda stage: None)
    sampler = Sampler(SamplingOptions(), prompt)
    steps = generator.decode(logits, sampler, frozenset(stop_ids), count, Stats(), lambda: False)
    return [step for step in steps if isinstance(step, int)]


def reference_greedy(model: Qwen2ForCausalLM, prompt: list[int], count: int) -> list[int]:
    """transformers' own next `count` tokens, past the end of its answer too."""
    ids = torch.tensor([prompt])
    options = {"max_new_tokens": count, "do_sample": False, "pad_token_id": 0}
    answer: list[int] = model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt) :].tolist()
    assert len(answer) == count, "the configuration names a stop token"
    return answer


def reference_logits(model: Qwen2ForCausalLM, ids: list[int], first: int = 0) -> np.ndarray:
    """transformers' logits [len(ids) - first, vocab] after each position from `first` on, all in one pass.

    Where their largest entries are the ids that follow, from the last of the prompt on, transformers' own greedy answer
    is the same: that costs one pass instead of one per token.
    """
    logits: np.ndarray = model(torch.tensor([ids]), logits_to_keep=len(ids) - first).logits[0].numpy()
    return logits


def forced_logits(generator: Generator, ids: list[int], prefilled: int = 1) -> Iterator[np.ndarray]:
    """Logits [vocab] after each position from `prefilled` on, whatever the model would have said: the first ids in one
    call, every other one in a decode step of its own."""
    rows = generator.embed(ids)
    generator.rewind(0)
    for start, end in [(0, prefilled), *((i, i + 1) for i in range(prefilled, len(ids)))]:
        yield generator.prefill(rows[start:end], lambda stage: None)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
