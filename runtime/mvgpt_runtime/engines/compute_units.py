"""What of a Mac runs CoreML packages: an environment variable, to find the device whose kernels give other numbers."""

from __future__ import annotations

import os

from ..errors import MvgptError

UNITS_VARIABLE = "MVGPT_COMPUTE_UNITS"
COMPUTE_UNITS = ("all", "cpu_and_ne", "cpu_and_gpu", "cpu_only")
"""coremltools' names in lower case, the default first."""


def compute_units() -> str:
    """One of COMPUTE_UNITS; the evaluator on other systems knows no difference."""
    chosen = os.environ.get(UNITS_VARIABLE, COMPUTE_UNITS[0])
    if chosen not in COMPUTE_UNITS:
        raise MvgptError(
            f"{UNITS_VARIABLE} names no compute units",
            stage="bundle",
            expected=", ".join(COMPUTE_UNITS),
            got=chosen,
            remedy=f"set it to one of these, or unset {UNITS_VARIABLE}",
        )
    return chosen
