"""Recipes: how each stage's weights and activations are stored and computed. Data, with no backend in it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """`tolerance`: largest difference to the eager stage that export accepts, over the output's largest value."""

    tolerance: float


RECIPES = {
    # The reference: nothing quantized, every other recipe is measured against it. Kernels sum in another order than
    # torch does; over the deepest stage that stays a decade below this.
    "fp32": Recipe(tolerance=1e-4),
}
