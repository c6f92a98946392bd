"""How far two arrays are apart, and the rows of numbers a report is made of. numpy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from mvgpt_runtime.contract import STAGE_NAMES

HOST_STEPS = {
    "preprocess": "image_encoder",  # both resizes, the order of frames, padding
    "chunks": "frame_scorer",  # which features are scored together
    "key_frames": "video_encoder",  # the frames that the scorer selected, of the other stream
    "prompt": "token_embedding",  # the text's ids
    "assembly": "text_decoder",  # order and number of the rows: text, visual tokens, text
    "positions": "text_decoder",  # where each of them goes in the KV cache
}
"""What the host does between the stages, and whose inputs it makes. Only numbers are moved: nothing may differ."""

STEPS = tuple(name for stage in STAGE_NAMES for name in (*(h for h, s in HOST_STEPS.items() if s == stage), stage))
"""Host steps and stages in data order."""

_AT_MOST = ("max_abs", "kl_divergence")  # what they may be; all other metrics have a least value
MOST_DB = 200.0  # of equal arrays: JSON has no infinity


@dataclass(frozen=True)
class Row:
    """One step on one set of inputs, against the eager model.

    Attributes:
        inputs: the set: "seeded" or "clip".
        step: one of STEPS.
        fed: "host": an exact comparison of what the host handed on. "eager": a stage on the eager model's inputs, its
            own error. "bundle": on what the bundle's own stages and host made before it, so errors accumulate.
        metrics: `max_abs` (largest difference, in the output's unit), `sqnr_db`, `cosine` of the whole output; of the
            frame scorer also `selected_equal`, the share of key frames; of the text decoder `argmax_agreement`, the
            share of positions with the same likeliest token, and `kl_divergence`, nats, mean over positions.
        limits: by metric, the worst value that passes; a metric without one is only shown.
        note: what else to know.
    """

    inputs: str
    step: str
    fed: str
    metrics: dict[str, float]
    limits: dict[str, float]
    note: str = ""

    @property
    def failed(self) -> tuple[str, ...]:
        """Metrics beyond their limits; NaN is beyond any."""
        return tuple(name for name, limit in self.limits.items() if not _within(name, self.metrics[name], limit))

    @property
    def passed(self) -> bool:
        return not self.failed

    def as_dict(self) -> dict[str, Any]:
        """For JSON, which has no NaN: null."""
        metrics = {name: value if math.isfinite(value) else None for name, value in self.metrics.items()}
        return {**asdict(self), "metrics": metrics, "passed": self.passed}


@dataclass(frozen=True)
class Report:
    """What `check_parity` found.

    Attributes:
        bundle, checkpoint: what was compared, as given.
        recipe: the bundle's.
        other_weights: networks of the checkpoint whose weights are not those that were exported: with any of them, a
            difference says nothing about the export.
        rows: by set of inputs, in data order.
    """

    bundle: str
    checkpoint: str
    recipe: str
    other_weights: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        return all(row.passed for row in self.rows)

    @property
    def first_failure(self) -> Row | None:
        """Who is to blame: the first step in data order that fails on good inputs. If none does, the first one up to
        which too much has accumulated."""
        failures = sorted((row for row in self.rows if not row.passed), key=lambda row: STEPS.index(row.step))
        return next((row for row in failures if row.fed != "bundle"), failures[0] if failures else None)

    def as_dict(self) -> dict[str, Any]:
        first = self.first_failure
        return {
            "passed": self.passed,
            "first_failing_stage": first.step if first else None,
            "bundle": self.bundle,
            "checkpoint": self.checkpoint,
            "recipe": self.recipe,
            "other_weights": list(self.other_weights),
            "rows": [row.as_dict() for row in self.rows],
        }


def _within(metric: str, value: float, limit: float) -> bool:
    return value <= limit if metric in _AT_MOST else value >= limit


def direction(metric: str) -> str:
    """How a value must stand to its limit."""
    return "≤" if metric in _AT_MOST else "≥"


def distance(got: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """`max_abs`, `sqnr_db` and `cosine`; all NaN if the shapes differ."""
    if got.shape != expected.shape:
        return dict.fromkeys(("max_abs", "sqnr_db", "cosine"), math.nan)
    a, b = got.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    error = a - b
    signal, noise, other = float(b @ b), float(error @ error), float(a @ a)
    ratio = MOST_DB if noise == 0 else 10 * (math.log10(max(signal, 1e-300)) - math.log10(noise))
    cosine = 1.0 if noise == 0 else float(a @ b) / math.sqrt(max(signal * other, 1e-300))
    return {"max_abs": float(np.abs(error).max(initial=0)), "sqnr_db": min(ratio, MOST_DB), "cosine": cosine}


def selected_equal(got: np.ndarray, expected: np.ndarray, scores: np.ndarray, tie: float) -> float:
    """Share of the expected key frames [chunks, k] that were selected, or one whose score [chunks, frames] is within
    `tie` of its own: of a clip that stands still, rounding chooses."""
    equal = 0
    for g, e, score in zip(got, expected, scores, strict=True):
        instead, missing = (np.sort(score[np.setdiff1d(a, b)]) for a, b in ((g, e), (e, g)))
        equal += len(e) - int((np.abs(instead - missing) > tie).sum())
    return equal / expected.size


def token_agreement(got: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """`argmax_agreement` and `kl_divergence` (of `got` from `expected`) of logits [positions, vocab]."""
    kl = [float(np.exp(e) @ (e - g)) for g, e in zip(map(_log_softmax, got), map(_log_softmax, expected), strict=True)]
    return {
        "argmax_agreement": float(np.mean(got.argmax(-1) == expected.argmax(-1))),
        "kl_divergence": float(np.mean(kl)),
    }


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def exact(inputs: str, step: str, pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Row:
    """The row of a host step: (got, expected) of everything it handed on."""
    for got, expected in pairs:
        if got.shape != expected.shape:
            note = f"shape {list(got.shape)}, expected {list(expected.shape)}"
            return Row(inputs, step, "host", {"max_abs": math.nan}, {"max_abs": 0.0}, note)
        if not np.array_equal(got, expected, equal_nan=got.dtype.kind == "f"):  # NaN is the stage's that made it
            return Row(inputs, step, "host", {"max_abs": distance(got, expected)["max_abs"]}, {"max_abs": 0.0})
    return Row(inputs, step, "host", {"max_abs": 0.0}, {"max_abs": 0.0})
