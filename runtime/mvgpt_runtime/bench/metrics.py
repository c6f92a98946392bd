"""What is computed from a run, and over all of them: the formulas of docs/benchmark-protocol.md, in their one place.

tests/goldens/benchmark.json has cases for the same arithmetic in other languages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from .. import contract
from .results import Aggregate, Run, Test

VERSION = 1
"""Of the protocol: raised when a step, its order, a constant below or a formula changes."""

PROMPT = "What happens in this video?"
FOLLOW_UP = "What is in the background?"
REPEATS, WARMUP = 5, 1
N_GEN = 32
PREFILL_CALLS = 4
"""Per depth, each of a frame's image tokens."""
DEPTHS = (64, 512, 1024)
"""Positions at which prefill and decode are measured, besides the full context; those that are below it count."""


@dataclass(frozen=True)
class Metric:
    unit: Literal["ms", "tokens/s", "J"]
    better: Literal["lower", "higher"]
    meaning: str


_VIDEO = (
    "video_decode_ms",
    "preprocess_ms",
    *(f"{stage}_ms" for stage in contract.ENCODER_STAGES),
    "video_prefill_ms",
    "video_ready_ms",
)

METRICS: dict[str, Metric] = {
    "model_load_cold_ms": Metric("ms", "lower", "loading all programs, from the disk"),
    "model_load_warm_ms": Metric("ms", "lower", "loading all programs, from the page cache"),
    **{name: Metric("ms", "lower", contract.METRICS[name]) for name in _VIDEO},
    "video_prefill_tokens_per_s": Metric("tokens/s", "higher", contract.METRICS["video_prefill_tokens_per_s"]),
    "first_time_to_first_token_ms": Metric("ms", "lower", "from a video file to the first question's first token"),
    "follow_up_time_to_first_token_ms": Metric("ms", "lower", "from another question to its first token"),
    "stream_time_to_first_token_ms": Metric("ms", "lower", "from a live video's last frame to the first token"),
    "prefill_tokens_per_s": Metric("tokens/s", "higher", "a prefill call, by depth"),
    "decode_tokens_per_s": Metric("tokens/s", "higher", "decode steps, by depth"),
    "energy_j": Metric("J", "lower", "of a whole run"),
}
"""Metrics of a run. Those by depth are called `name@depth` in aggregates."""


def metric(name: str) -> Metric:
    """The metric of a name in aggregates. KeyError if there is none."""
    return METRICS[name.partition("@")[0]]


def tokens_per_s(test: Test) -> float:
    """Rows of all calls over the time of all calls."""
    rows = test.n_prompt * len(test.samples_ns) if test.n_prompt else len(test.samples_ns)
    return rows * 1e9 / sum(test.samples_ns)


def run_metrics(run: Run) -> dict[str, float]:
    """Every metric that was measured in `run`, in the order of `METRICS`; what was not is absent, never 0.

    So is what a clock that stands still, or numbers near the end of their range, would make infinite.
    """
    video = run.video
    values: dict[str, float | None] = {
        "model_load_cold_ms": run.load.cold_ms,
        "model_load_warm_ms": run.load.warm_ms,
        **{name: video.get(name) for name in _VIDEO},
        "video_prefill_tokens_per_s": _rate(video, "num_video_prefilled_tokens", "video_prefill_ms"),
        "first_time_to_first_token_ms": _sum(video.get("video_ready_ms"), run.first_question.time_to_first_token_ms),
        "follow_up_time_to_first_token_ms": run.follow_up.time_to_first_token_ms,
        "stream_time_to_first_token_ms": _sum(
            run.stream.get("last_frame_to_ready_ms"), run.stream_question.time_to_first_token_ms
        ),
    }
    for test in run.tests:
        kind = "prefill" if test.n_prompt else "decode"
        values[f"{kind}_tokens_per_s@{test.n_depth}"] = tokens_per_s(test)
    values["energy_j"] = run.energy_j
    return {name: value for name, value in values.items() if value is not None and math.isfinite(value)}


def aggregate(runs: Sequence[Run]) -> dict[str, Aggregate]:
    """Every metric over the counted runs."""
    counted = {run.index: run_metrics(run) for run in runs if not run.warmup}
    names = dict.fromkeys(name for values in counted.values() for name in values)
    found = {}
    for name in names:
        by_run = {index: values[name] for index, values in counted.items() if name in values}
        values = sorted(by_run.values())
        p25, median, p75 = (quantile(values, q) for q in (0.25, 0.5, 0.75))
        reach = 1.5 * (p75 - p25)  # Tukey's fences
        found[name] = Aggregate(
            unit=metric(name).unit,
            better=metric(name).better,
            n=len(values),
            median=median,
            p25=p25,
            p75=p75,
            minimum=values[0],
            maximum=values[-1],
            outliers=tuple(i for i, value in by_run.items() if not p25 - reach <= value <= p75 + reach),
        )
    return found


def quantile(values: Sequence[float], q: float) -> float:
    """Of ascending `values`, by linear interpolation between the two nearest (numpy's default, R's type 7)."""
    position = q * (len(values) - 1)
    below = int(position)
    above = min(below + 1, len(values) - 1)
    return values[below] + (values[above] - values[below]) * (position - below)


def depths(full: int) -> tuple[int, ...]:
    """Where the language model is measured, if video and prompt fill `full` positions."""
    return (*(depth for depth in DEPTHS if depth < full), full)


def _sum(*parts: float | None) -> float | None:
    return None if None in parts else sum(part for part in parts if part is not None)


def _rate(values: Mapping[str, float], count: str, ms: str) -> float | None:
    """Per second; None where there is nothing to divide by."""
    n, time = values.get(count, 0), values.get(ms, 0)
    return n / time * 1e3 if n > 0 and time > 0 else None
