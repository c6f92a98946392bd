"""The language-model recipes that are compared: speed and size in slm.py, quality in slm_quality.py. Data only."""

from __future__ import annotations

from mvgpt_export.quant import RECIPES, Recipe, Rule

LAYERS = r"layers\..*"
HEAD = "lm_head"


def uniform(scheme: str, head: str, vocabulary_group: int | None) -> Recipe:
    """Every linear layer by one scheme; the head by a linear layer's scheme or on the shared 4-bit table."""
    rules = (Rule("text_decoder", LAYERS, scheme), Rule("text_decoder", HEAD, head))
    return Recipe(rules, vocabulary_group, half_kv_cache=True)


FORMS: dict[str, tuple[str, Recipe]] = {
    "fp32": ("fused", RECIPES["fp32"]),
    "int8": ("fused", RECIPES["int8"]),
    "mobile": ("fused", RECIPES["mobile"]),
    "mobile, stock": ("stock", RECIPES["mobile"]),
    # what was tried besides
    "4-bit, groups of 32": ("fused", uniform("8da4w-32", "8da4w-32", 32)),
    "4-bit, groups of 64": ("fused", uniform("8da4w-64", "8da4w-64", 64)),
    "4-bit, groups of 128": ("fused", uniform("8da4w-128", "8da4w-128", 128)),
    "4-bit, per channel": ("fused", uniform("8da4w", "8da4w-32", 32)),
}
