"""The language-model recipes that are compared: speed and size in slm.py, quality in slm_quality.py. Data only."""

from __future__ import annotations

from mvgpt_export.quant import RECIPES, Recipe, Rule

LAYERS = r"layers\..*"
HEAD = "lm_head"


def uniform(scheme: str, group: int) -> Recipe:
    """Every linear layer by one scheme, embedding and head on one 4-bit table with groups of this size."""
    return Recipe((Rule("text_decoder", ".*", scheme),), 4, group, half_kv_cache=True)


def mixed(*more: Rule) -> Recipe:
    """`mobile` with these rules first, embedding and head in 8 bits."""
    rules = (*more, Rule("text_decoder", HEAD, "8da8w"), Rule("text_decoder", LAYERS, "8da4w-32"))
    return Recipe(rules, 8, half_kv_cache=True)


FORMS: dict[str, tuple[str, Recipe]] = {
    "fp32": ("fused", RECIPES["fp32"]),
    "int8": ("fused", RECIPES["int8"]),
    "mobile": ("fused", RECIPES["mobile"]),
    "mobile, stock": ("stock", RECIPES["mobile"]),
    # what was tried besides
    "4-bit, groups of 64": ("fused", uniform("8da4w-64", 64)),
    "4-bit, groups of 128": ("fused", uniform("8da4w-128", 128)),
    "4-bit, per channel": ("fused", uniform("8da4w", 32)),
    "mobile, 8-bit vocabulary": ("fused", mixed()),
    "mobile, 8-bit vocabulary and down": ("fused", mixed(Rule("text_decoder", r".*down_proj", "8da8w"))),
}
