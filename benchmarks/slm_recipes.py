"""The language-model recipes that are compared: speed and size in slm.py, quality in slm_quality.py. Data only."""

from __future__ import annotations

from mvgpt_export.quant import RECIPES, Recipe, Rule

KEYS_AND_VALUES = Rule("text_decoder", r"layers\..*\.kv_proj", "8da8w")
ATTENTION = Rule("text_decoder", r"layers\..*\.(q|kv|o)_proj", "8da8w")
DOWN = Rule("text_decoder", r"layers\..*\.down_proj", "8da8w")
HEAD = Rule("text_decoder", "lm_head", "8da8w")


def four_bits(scheme: str, *first: Rule, embedding_bits: int = 4, embedding_group: int = 32) -> Recipe:
    """Every linear layer by one scheme, but for those of the `first` rules."""
    rules = (*first, Rule("text_decoder", ".*", scheme))
    return Recipe(rules, embedding_bits, embedding_group, half_kv_cache=True, calibrated=True)


FORMS: dict[str, tuple[str, Recipe]] = {
    "fp32": ("fused", RECIPES["fp32"]),
    "fp16": ("fused", RECIPES["fp16"]),
    "int8": ("fused", RECIPES["int8"]),
    "mobile": ("fused", RECIPES["mobile"]),
    "mobile, stock": ("stock", RECIPES["mobile"]),
    # What was tried besides: `mobile` but for what the name says.
    "keys and values in 4 bits": ("fused", four_bits("8da4w-32")),
    "groups of 64": ("fused", four_bits("8da4w-64", KEYS_AND_VALUES, embedding_group=64)),
    "groups of 128": ("fused", four_bits("8da4w-128", KEYS_AND_VALUES, embedding_group=128)),
    "a scale per channel": ("fused", four_bits("8da4w", KEYS_AND_VALUES)),
    "attention in 8 bits": ("fused", four_bits("8da4w-32", ATTENTION)),
    "down_proj in 8 bits": ("fused", four_bits("8da4w-32", KEYS_AND_VALUES, DOWN)),
    "vocabulary in 8 bits": ("fused", four_bits("8da4w-32", KEYS_AND_VALUES, HEAD, embedding_bits=8)),
}
