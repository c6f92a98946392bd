"""What passes: the worst values allowed, by the fewest bits of anything the numbers went through.

Each floor stands between honest stages and defective ones; docs/parity.md has both sides as measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..quant import Recipe

# Largest difference over the output's largest value, where nothing is quantized. Kernels sum in another order than
# torch does; over the deepest stage, and over all stages together, that stays a decade below this.
CLOSE = 1e-4


@dataclass(frozen=True)
class Floor:
    """Cosine has none: an SQNR implies one. Shown beside it, it tells a wrong scale from a wrong direction."""

    sqnr_db: float | None  # None: CLOSE instead, which is tighter
    argmax_agreement: float
    kl_divergence: float  # nats


FLOORS = {
    # One of 65 positions may be a tie that rounding decides.
    32: Floor(None, 0.98, 1e-6),
    # Weights and some arithmetic in float16, whose step is 2⁻¹¹.
    16: Floor(40.0, 0.9, 1e-3),
    # Of the stages, the deepest (32 layers of random weights) has 26 dB; a lost or swapped direction 6 or less, the
    # other encoder's normalisation 18. Trained logits: agreement 0.94, KL 0.018 (docs/recipes.md).
    8: Floor(20.0, 0.75, 0.1),
    # Trained logits: agreement 0.62, KL 0.40. Random ones are nearly tied, so there rounding picks many another token.
    4: Floor(8.0, 0.1, 1.0),
}

# Whose errors reach a stage, besides its own. The video encoder sees pixels, of the frames that the bundle selected.
_UPSTREAM = {
    "frame_scorer": ("image_encoder",),
    "image_projector": ("image_encoder",),
    "video_projector": ("video_encoder",),
    "text_decoder": ("image_encoder", "video_encoder", "token_embedding"),
}


def limits(recipe: Recipe, stage: str, fed: str, largest: float) -> dict[str, float]:
    """By metric, the worst value that passes, for a stage fed with "eager" or "bundle" inputs.

    `largest` is the largest absolute value of the eager model's output.
    """
    upstream = _UPSTREAM.get(stage, ()) if fed == "bundle" else ()
    bits = min(recipe.bits(name) for name in (stage, *upstream))
    floor = FLOORS[bits]
    bounds = {"max_abs": CLOSE * largest} if floor.sqnr_db is None else {"sqnr_db": floor.sqnr_db}
    if stage == "frame_scorer" and (fed == "eager" or bits == 32):
        bounds["selected_equal"] = 1.0  # from quantized features near-ties fall either way: shown, without a floor
    if stage == "text_decoder":
        bounds |= {"argmax_agreement": floor.argmax_agreement, "kl_divergence": floor.kl_divergence}
    return bounds
