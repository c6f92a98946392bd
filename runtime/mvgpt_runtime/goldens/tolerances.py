"""How far a machine may be from another's vectors: the largest difference over the largest value."""

from __future__ import annotations

# float32 on another CPU or backend: sums in another order. Noise of half a last digit on every float input of every
# stage moves tiny's outputs by 2e-6 at most.
FLOAT32 = 1e-4

# Quantized stages round activations to 8 bits inside the graph. The same noise carries some of them across a rounding
# border, a whole step. On the 0.5B shapes with random weights and the recipe mobile that moves features by 3.8e-2 and
# logits by 3.5e-2, frame scores by 2e-4 (tiny's by 2.2e-3). About doubled. What is computed wrongly is off by 1.
QUANTIZED = 8e-2
QUANTIZED_SCORES = 5e-3

UNQUANTIZED = ("frame_scorer",)
"""Stages that are float32 in every recipe."""


def tolerance(output: str, recipe: str) -> float:
    """Of an output of a stage that was exported by `recipe`."""
    if recipe == "fp32":
        return FLOAT32
    return QUANTIZED_SCORES if output == "frame_scores" else QUANTIZED
