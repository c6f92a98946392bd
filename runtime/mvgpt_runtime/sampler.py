"""Step 8a, sampler: logits → next token id; greedy, or temperature and top-p with draws any language can repeat."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .errors import MvgptError

_MASK = (1 << 64) - 1


class SplitMix64:
    """Steele, Lea & Flood 2014: a 64-bit addition and three xor-shift-multiplies; the same on every platform."""

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def next(self) -> int:
        """The next unsigned 64-bit integer."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def uniform(self) -> float:
        """The next double in [0, 1): the upper 53 bits."""
        return (self.next() >> 11) * 2.0**-53


@dataclass(frozen=True)
class SamplingOptions:
    """temperature 0 is greedy (of equal logits the lowest id wins); top_p keeps the smallest set of likeliest tokens
    whose probabilities reach it."""

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise MvgptError("bad temperature", stage="sampler", expected="a number ≥ 0", got=self.temperature)
        if not 0 < self.top_p <= 1:
            raise MvgptError("bad top_p", stage="sampler", expected="0 < top_p ≤ 1", got=self.top_p)


class Sampler:
    """One draw per generated token, none in greedy decoding."""

    def __init__(self, options: SamplingOptions) -> None:
        self.options, self._random = options, SplitMix64(options.seed)

    def __call__(self, logits: np.ndarray) -> int:
        """logits float32 [vocab] → token id. MvgptError for logits that are not numbers."""
        if not np.isfinite(logits).all():
            raise MvgptError(
                "the language model returned logits that are not finite",
                stage="text_decoder",
                got=f"{np.count_nonzero(~np.isfinite(logits))} of {logits.size}",
                remedy="compare the bundle with its checkpoint; a reduced-precision recipe may overflow on this device",
            )
        if self.options.temperature == 0:
            return int(np.argmax(logits))
        order = np.argsort(-logits, kind="stable")  # likeliest first; equal ones by id
        scaled = logits[order].astype(np.float64) / self.options.temperature
        weights = np.exp(scaled - scaled[0])
        cumulative = np.cumsum(weights / weights.sum())
        kept = min(int(np.searchsorted(cumulative, self.options.top_p)) + 1, len(order))
        target = self._random.uniform() * cumulative[kept - 1]
        return int(order[min(int(np.searchsorted(cumulative[:kept], target, side="right")), kept - 1)])
