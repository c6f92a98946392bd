"""Arithmetic in float16, which ends at 65,504: parts of a stage that run in it, and whether their activations fit.

Trained vision transformers have a few activations hundreds of times their typical one; past the end they become
infinite, and everything after them NaN. So the recipe is refused before anything is exported.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mvgpt_runtime.errors import MvgptError
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.module_tracker import ModuleTracker

LARGEST = torch.finfo(torch.float16).max
MARGIN = 4
"""How many times the largest activation of the calibration frames must fit: other frames have larger ones, and sums
pass through larger ones on their way."""


class Half(nn.Module):
    """A network with weights and arithmetic in float16 between float32 neighbours."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).half()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x.half()).float()


@dataclass(frozen=True)
class Peak:
    """The largest absolute value that goes into or comes out of an operator; `where` is its layer and its name."""

    value: float
    where: str


class _Peaks(TorchDispatchMode):
    """Watches every operator inside the modules whose whole name matches `parts`: scores and products too, which no
    module puts out."""

    def __init__(self, root: nn.Module, parts: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tracker = ModuleTracker()
        self.names = re.compile(rf"{type(root).__name__}\.({parts})(\..*)?")
        self.peak = Peak(0.0, "nothing")

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        layer = max(self.tracker.parents, key=len)
        if self.names.fullmatch(layer):
            for tensor in tree_leaves((args, out)):
                if isinstance(tensor, torch.Tensor) and tensor.is_floating_point() and tensor.numel():
                    value = float(tensor.abs().max())
                    if math.isfinite(self.peak.value) and not value <= self.peak.value:  # NaN is the largest
                        self.peak = Peak(value, f"{layer.partition('.')[2]} ({func})")
        return out


def largest_activation(network: nn.Module, parts: str, *inputs: Any) -> Peak:
    """The largest of those parts of `network` whose whole name matches `parts`."""
    peaks = _Peaks(network, parts)
    with torch.no_grad(), peaks.tracker, peaks:
        network(*inputs)
    return peaks.peak


def check_range(
    stage: str, network: nn.Module, parts: str, others: Sequence[str], *inputs: Any, margin: int = MARGIN
) -> Peak:
    """The largest activation on `inputs`; MvgptError if it does not fit `margin` times.

    Args:
        others: recipes without such arithmetic, which the error names.
    """
    peak = largest_activation(network, parts, *inputs)
    if not peak.value * margin <= LARGEST:
        raise MvgptError(
            f"an activation of {peak.where} is too large for arithmetic in float16",
            stage=stage,
            expected=f"at most {LARGEST / margin:.0f}: float16 ends at {LARGEST:.0f}",
            got=f"{peak.value:.0f}",
            remedy=f"export with another recipe: {', '.join(others)}",
        )
    return peak
