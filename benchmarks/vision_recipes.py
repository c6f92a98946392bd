"""The forms of the vision stages that vision.py compares. Data only."""

from __future__ import annotations

from mvgpt_export.quant import RECIPES, Recipe, Rule

# What can run in float16. Norms and residual stream stay float32, as does the scan; of the video encoder only the two
# large layers are worth it, of the projectors nothing can: XNNPACK has no GELU in float16.
HALF_PARTS = {
    "image_encoder": r"encoder\.layers\.\d+\.(self_attn|mlp)",
    "video_encoder": r"layers\.\d+\.mixer\.(in|out)_proj",
}
# The layers that 4-bit weights are tried on, by a rule before those of `mobile` for the others.
LARGE_LAYERS = {
    "image_encoder": r"encoder\.layers\..*",
    "video_encoder": r"layers\.\d+\.mixer\.(in|out)_proj",
    "image_projector": r"mlp\.mlp\.\d",
    "video_projector": r"mlp\.mlp\.\d",
}
STAGES = tuple(LARGE_LAYERS)


def forms(stage: str) -> dict[str, Recipe]:
    """By name. `fp16` has "16a16w" of the image encoder, "32a16w" of the others; `int8` and `mobile` have "8da8w"."""
    eight = RECIPES["mobile"].rules_for(stage)
    rest = Rule(stage, ".*", "32a16w")
    four = Rule(stage, LARGE_LAYERS[stage], "8da4w-32")
    found = {
        "fp32": RECIPES["fp32"],
        "32a16w": Recipe((rest,)),
        "8da8w": Recipe(eight),
        "8da4w-32": Recipe((four, *(rule for rule in eight if rule.layers != four.layers))),
    }
    if stage in HALF_PARTS:
        found["16a16w"] = Recipe((Rule(stage, HALF_PARTS[stage], "16a16w"), rest))
    return found
