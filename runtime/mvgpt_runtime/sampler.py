"""Step 8a, sampler: logits → next token id; greedy or drawn, and any language can repeat the draws.

Everything is IEEE double, starting from the float32 logits, in the order of Hugging Face's processors:

1. repetition penalty, once for every id seen so far: score < 0 ? score · penalty : score / penalty. Seen are the ids of
   the prompt's text, template and earlier turns included (visual tokens have none), and the generated ones.
2. temperature 0: the highest score wins, of equal ones the lowest id, and nothing is drawn. Otherwise ids are put in
   order, highest score first, equal ones by id, and
3. top-k: the first k of them stay (all for k = 0)
4. weight[i] = exp((score[i] - score[0]) / temperature), cumulative[i] = cumulative[i - 1] + weight[i]
5. top-p: the fewest stay whose last cumulative ≥ top_p · (the last one of step 4)
6. draw: target = uniform() · (the last cumulative that stayed); the first i with cumulative[i] > target is the token,
   or the last that stayed. One uniform() of `SplitMix64` per token.

`exp` is the platform's, correct to its last bit or nearly: a draw differs only if the target falls into such a gap.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .errors import MvgptError

Float64Array = npt.NDArray[np.float64]

_GAMMA, _MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1


class SplitMix64:
    """Steele, Lea & Flood 2014: a 64-bit addition and three xor-shift-multiplies; the same on every platform."""

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def many(self, count: int) -> npt.NDArray[np.uint64]:
        """The next `count` unsigned 64-bit integers."""
        z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GAMMA) + np.uint64(self._state)
        self._state = (self._state + count * _GAMMA) & _MASK
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))

    def next(self) -> int:
        """The next one."""
        return int(self.many(1)[0])

    def uniform(self) -> float:
        """The next double in [0, 1): the upper 53 bits."""
        return (self.next() >> 11) * 2.0**-53


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """How tokens are chosen; this file's first lines say exactly what each option does.

    Attributes:
        temperature: 0 is greedy.
        top_p: keep the fewest likeliest tokens with at least this part of the probability; 1 keeps all.
        top_k: keep this many likeliest tokens; 0 keeps all.
        repetition_penalty: above 1 makes tokens that were seen less likely; 1 changes nothing.
        seed: of the draws; only its lower 64 bits count.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        # The penalty's bounds keep every product of a float32 with it inside a double.
        for name, valid, expected in (
            ("temperature", 0 <= self.temperature < math.inf, "a number ≥ 0"),
            ("top_p", 0 < self.top_p <= 1, "0 < top_p ≤ 1"),
            ("top_k", self.top_k >= 0, "≥ 0 (0: no limit)"),
            ("repetition_penalty", 1e-3 <= self.repetition_penalty <= 1e3, "0.001 to 1000 (1: none)"),
        ):
            if not valid:
                raise MvgptError(f"bad {name}", stage="sampler", expected=expected, got=getattr(self, name))


class Sampler:
    """Chooses the tokens of one answer.

    Args:
        options: see `SamplingOptions`.
        seen: ids of the prompt, for the repetition penalty; chosen tokens join them.
    """

    def __init__(self, options: SamplingOptions, seen: Iterable[int] = ()) -> None:
        self.options, self._seen, self._random = options, set(seen), SplitMix64(options.seed)

    def __call__(self, logits: np.ndarray) -> int:
        """logits float32 [vocab] → token id. MvgptError for logits that are not numbers."""
        if not np.isfinite(logits).all():
            raise MvgptError(
                "the language model returned logits that are not finite",
                stage="text_decoder",
                got=f"{np.count_nonzero(~np.isfinite(logits))} of {logits.size}",
                remedy="compare the bundle with its checkpoint; a reduced-precision recipe may overflow on this device",
            )
        scores = self._penalize(logits.astype(np.float64))
        token = int(np.argmax(scores)) if self.options.temperature == 0 else self._draw(scores)
        self._seen.add(token)
        return token

    def candidates(self, scores: Float64Array) -> tuple[npt.NDArray[np.int64], Float64Array]:
        """float64 [vocab] → ids that may be drawn, likeliest first, and their cumulative weights, float64 [ids]."""
        ids = np.arange(len(scores))
        if 0 < self.options.top_k < len(scores):
            # Only these can be among the first k; sorting a whole vocabulary takes longer than a small model's step.
            ids = np.flatnonzero(scores >= np.partition(scores, -self.options.top_k)[-self.options.top_k])
        ids = ids[np.argsort(-scores[ids], kind="stable")][: self.options.top_k or None]
        cumulative = np.cumsum(np.exp((scores[ids] - scores[ids[0]]) / self.options.temperature))
        kept = int(np.searchsorted(cumulative, self.options.top_p * cumulative[-1])) + 1
        return ids[:kept], cumulative[:kept]

    def _penalize(self, scores: Float64Array) -> Float64Array:
        if self.options.repetition_penalty != 1 and self._seen:
            seen = list(self._seen)
            penalty, before = self.options.repetition_penalty, scores[seen]
            scores[seen] = np.where(before < 0, before * penalty, before / penalty)
        return scores

    def _draw(self, scores: Float64Array) -> int:
        ids, cumulative = self.candidates(scores)
        target = self._random.uniform() * cumulative[-1]
        return int(ids[min(int(np.searchsorted(cumulative, target, side="right")), len(ids) - 1)])
