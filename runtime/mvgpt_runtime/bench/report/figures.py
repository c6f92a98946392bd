"""The figures of results: the headlines, each against the first result's, and every metric with its spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ... import contract
from ..metrics import METRICS, Metric, metric, run_metrics
from ..results import Aggregate, Run
from .entries import Entry, spoilt
from .facts import MEMORY, METRIC_NAMES, RATE, TIME
from .words import quantity, spread

FIRST_TOKEN = "first_time_to_first_token_ms"
DECODE, PREFILL = "decode_tokens_per_s", "prefill_tokens_per_s"


@dataclass(frozen=True)
class Figure:
    title: str
    kind: str  # what of facts.py can make it incomparable; "": nothing
    unit: str
    better: str
    meaning: str
    value: float | None  # the median; None: not measured
    low: float | None = None  # quartiles
    high: float | None = None
    detail: str = ""  # what else the title leaves open

    @property
    def text(self) -> str:
        return "—" if self.value is None else quantity(self.value, self.unit)

    @property
    def number(self) -> str:
        return self.text.partition(" ")[0]

    @property
    def own_unit(self) -> str:
        return self.text.partition(" ")[2]

    @property
    def spread(self) -> str:
        return "" if self.low is None or self.high is None else spread(self.low, self.high, self.unit)


def headlines(entry: Entry) -> list[Figure]:
    """What is looked for first, in the same order for every result."""
    depths = by_depth(entry, DECODE)
    result, found = entry.result, entry.aggregates
    memory = METRIC_NAMES[result.memory_metric]
    return [
        _figure("First question", TIME, "video file to first token", found.get(FIRST_TOKEN)),
        _figure("Follow-up", TIME, "question to first token", found.get("follow_up_time_to_first_token_ms")),
        _figure("Live video", TIME, "last frame to first token", found.get("stream_time_to_first_token_ms")),
        _figure("Decode, short", RATE, "little context", *depths[:1]),
        _figure("Decode, full", RATE, "after video and prompt", *depths[1:][-1:]),
        Figure(
            "Peak memory", MEMORY, "bytes", "lower", "of the process", float(result.peak_memory_bytes), detail=memory
        ),
        Figure("Bundle", "", "bytes", "lower", "on disk", float(result.model.bundle_bytes)),
    ]


def energy(entry: Entry) -> Figure:
    return _figure("Energy", TIME, "of a whole run", entry.aggregates.get("energy_j"))


def _figure(title: str, kind: str, meaning: str, at: Aggregate | tuple[int, Aggregate] | None = None) -> Figure:
    depth, found = at if isinstance(at, tuple) else (None, at)
    if found is None:
        return Figure(title, kind, "", "lower", meaning, None)
    detail = "" if depth is None else f"at {depth:,} positions"
    return Figure(title, kind, found.unit, found.better, meaning, found.median, found.p25, found.p75, detail)


def by_depth(entry: Entry, name: str) -> list[tuple[int, Aggregate]]:
    """(positions before the test, rate), the shallowest first."""
    found = (
        (int(depth), rates)
        for (base, _, depth), rates in ((n.partition("@"), a) for n, a in entry.aggregates.items())
        if base == name
    )
    return sorted(found, key=lambda pair: pair[0])


def versus(entry: Entry, first: Entry) -> list[str]:
    """Of each headline, how it compares with the first result's; empty where that would mislead or there is nothing."""
    bad = spoilt(entry, first)
    return [
        "" if ours.kind in bad else _versus(ours, theirs)
        for ours, theirs in zip(headlines(entry), headlines(first), strict=True)
    ]


def _versus(ours: Figure, first: Figure) -> str:
    if not ours.value or not first.value or (ours.kind == RATE and ours.detail != first.detail):
        return ""
    if ours.low is not None and ours.high is not None and first.low is not None and first.high is not None:
        if ours.low <= first.high and first.low <= ours.high:
            return "same within spread"
        words = ("faster", "slower")
    else:
        words = ("smaller", "larger")
    gain = first.value / ours.value if ours.better == "lower" else ours.value / first.value
    factor = gain if gain >= 1 else 1 / gain
    return (
        "same"
        if factor < 1.005
        else f"{factor:,.2f}× {words[gain < 1]}"
        if factor < 10
        else f"{factor:,.0f}× {words[gain < 1]}"
    )


@dataclass(frozen=True)
class Row:
    """A metric of a result."""

    entry: Entry
    found: Aggregate
    notes: tuple[str, ...]  # outliers, and runs without it


@dataclass(frozen=True)
class MetricRows:
    """A metric of all results that have it."""

    name: str
    metric: Metric
    depth: str
    rows: tuple[Row, ...]


def table(listed: Sequence[Entry]) -> list[MetricRows]:
    """Every metric that any result has, in the order of the protocol."""
    order = list(METRICS)
    names = {name for entry in listed for name in entry.aggregates}

    def place(name: str) -> tuple[int, int]:
        base, _, depth = name.partition("@")
        return order.index(base), int(depth or 0)

    return [
        MetricRows(
            name.partition("@")[0],
            metric(name),
            name.partition("@")[2],
            tuple(_row(entry, name) for entry in listed if name in entry.aggregates),
        )
        for name in sorted(names, key=place)
    ]


def _row(entry: Entry, name: str) -> Row:
    found = entry.aggregates[name]
    values = {run.index: run_metrics(run).get(name) for run in entry.result.runs if not run.warmup}
    outliers = ((i, values.get(i)) for i in found.outliers)
    notes = [f"outlier: run {i}, {quantity(value, found.unit)}" for i, value in outliers if value is not None]
    if found.n < len(values):
        notes.append(f"measured in {found.n} of {len(values)} runs")
    return Row(entry, found, tuple(notes))


def typical_run(entry: Entry) -> Run | None:
    """The counted run whose first token came nearest to the median: its parts, unlike medians, add up to its whole."""
    if (found := entry.aggregates.get(FIRST_TOKEN)) is None:
        return None
    runs = [run for run in entry.result.runs if not run.warmup and FIRST_TOKEN in run_metrics(run)]
    return min(runs, key=lambda run: abs(run_metrics(run)[FIRST_TOKEN] - found.median))


PARTS = {
    "video_decode_ms": "decode the clip",
    "preprocess_ms": "resize frames",
    **{f"{stage}_ms": stage.replace("_", " ") for stage in contract.ENCODER_STAGES},
    "video_prefill_ms": "prefill the video",
    "question": "the question",
    "rest": "the rest: loading programs, choosing frames",
}
"""Of the first question's time to first token, in the order of the data."""


def first_token(run: Run) -> float:
    return run_metrics(run)[FIRST_TOKEN]


def parts(run: Run) -> dict[str, float]:
    """Milliseconds of each of `PARTS` that was measured."""
    found = {name: run.video[name] for name in PARTS if name in run.video}
    found["question"] = run.first_question.time_to_first_token_ms
    return found | {"rest": max(0.0, first_token(run) - sum(found.values()))}
