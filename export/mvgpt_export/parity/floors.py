"""What passes: the worst values allowed, by the fewest bits of anything the numbers went through.

Each floor stands between honest stages and defective ones; docs/parity.md has both sides as measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..config import ModelConfig
from ..quant import Recipe

# Largest difference over the output's largest value, where nothing is quantized. Kernels sum in another order than
# torch does; over the deepest stage, and over all stages together, that stays a decade below this.
CLOSE = 1e-4


@dataclass(frozen=True)
class Floor:
    """Of one width of numbers. Cosine has no floor: an SQNR implies one. Beside it, it tells scale from direction."""

    sqnr_db: float | None  # after one layer; None: CLOSE instead, which is tighter
    least_db: float  # after any number of them
    argmax_agreement: float | None  # None: only shown
    kl_divergence: float  # nats

    def at(self, depth: int) -> float | None:
        """Rounding errors are independent: their energy grows with the number of layers, up to a limit."""
        return None if self.sqnr_db is None else max(self.sqnr_db - 10 * math.log10(depth), self.least_db)


FLOORS = {
    # One of 65 positions may be a tie that rounding decides.
    32: Floor(None, 0, 0.98, 1e-6),
    # Weights and some arithmetic in float16, whose step is 2⁻¹¹.
    16: Floor(48, 40, 0.9, 1e-3),
    # Honest stages: 36 dB after 4 layers (image encoder), 31 (text decoder), 26 after 32 (video encoder). The other
    # encoder's normalisation leaves 22, keys one position on 27. Trained logits: agreement 0.94, KL 0.018 on prose
    # (docs/recipes.md), 0.66 and 0.09 after text ids at random. Random weights' are nearly tied, and rounding decides
    # many: 0.88.
    8: Floor(35.5, 20, 0.5, 0.3),
    # 18 dB in the table of embeddings, 18 after 4 layers. Trained logits: agreement 0.73, KL 0.10 on prose, 0.31 and
    # 0.54 after ids at random. Of random weights' 0.15 agree, which is too little to tell from a mistake.
    4: Floor(14, 8, None, 1.0),
}

# Whose errors reach a stage, besides its own. The video encoder sees pixels, of the frames that the bundle selected.
_UPSTREAM = {
    "frame_scorer": ("image_encoder",),
    "image_projector": ("image_encoder",),
    "video_projector": ("video_encoder",),
    "text_decoder": ("image_encoder", "video_encoder", "token_embedding"),
}


def limits(recipe: Recipe, config: ModelConfig, stage: str, fed: str, largest: float) -> dict[str, float]:
    """By metric, the worst value that passes, for a stage fed with "eager" or "bundle" inputs.

    `largest` is the largest absolute value of the eager model's output.
    """
    upstream = _UPSTREAM.get(stage, ()) if fed == "bundle" else ()
    ratios = [FLOORS[recipe.bits(name)].at(config.layers(name) or 1) for name in (stage, *upstream)]
    quantized = [ratio for ratio in ratios if ratio is not None]
    noise = sum(10 ** (-ratio / 10) for ratio in quantized)  # energies add up
    if stage == "frame_scorer":
        noise *= 4  # it multiplies features with one another: their relative error counts twice
    bounds = {"sqnr_db": -10 * math.log10(noise)} if quantized else {"max_abs": CLOSE * largest}
    if stage == "frame_scorer" and (fed == "eager" or not quantized):
        bounds["selected_equal"] = 1.0  # from quantized features near-ties fall either way: shown, without a floor
    if stage == "text_decoder":
        fewest = min(recipe.bits(name) for name in (stage, *upstream))
        floor = FLOORS[fewest]
        bounds["kl_divergence"] = floor.kl_divergence
        # Behind 8-bit encoders, half of the nearly tied logits of random weights at full size change places.
        if floor.argmax_agreement is not None and (fed == "eager" or fewest > 8):
            bounds["argmax_agreement"] = floor.argmax_agreement
    return bounds
