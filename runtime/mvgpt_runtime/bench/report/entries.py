"""Results beside each other: the letter and the label of each, what is the same in all, and what to be warned of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from string import ascii_uppercase

from ...errors import MvgptError
from ..metrics import aggregate, run_metrics
from ..results import Aggregate, Result
from . import facts
from .facts import FACTS, Fact
from .words import clean, shorten

MAX_RESULTS = 12
"""More lines in one chart cannot be told apart."""
NOTABLE = 0.1
"""Of the median. The quartiles of five steady runs lie so close that an outlier may be off by one percent."""


@dataclass(frozen=True)
class Entry:
    """A result, and what it is called in every chart and table."""

    key: str  # a letter
    label: str  # the device, the recipe, and what else tells it from the others
    result: Result

    @property
    def index(self) -> int:
        return ascii_uppercase.index(self.key)

    @cached_property
    def aggregates(self) -> dict[str, Aggregate]:
        """Computed again from the runs, so that one formula gave all figures that stand beside each other."""
        return aggregate(self.result.runs)


def entries(results: Sequence[Result]) -> list[Entry]:
    """MvgptError if there are none or too many."""
    if not 0 < len(results) <= MAX_RESULTS:
        raise MvgptError(
            "too many results for one report" if results else "no results",
            stage="report",
            expected=f"1 to {MAX_RESULTS}",
            got=len(results),
            remedy="make several reports" if results else "name files that `mvgpt bench --json` wrote",
        )
    return [Entry(*named) for named in zip(ascii_uppercase, _labels(results), results, strict=False)]


def _labels(results: Sequence[Result]) -> list[str]:
    """What tells results apart: as little as does."""
    optional = (
        lambda r: r.model.name,
        lambda r: f"{r.model.kernels} kernels",
        facts.backends,
        lambda r: f"threads {facts.threads(r)}",
        lambda r: f"{r.app.name} {r.app.version}",
        facts.day,
    )
    labels = [[r.device.name or r.device.model, r.model.recipe] for r in results]
    for text in optional:
        texts = [text(r) for r in results]
        alike = len({tuple(label) for label in labels}) < len(labels)
        if len(set(texts)) > 1 and (alike or text is optional[0]):
            labels = [[*label, new] for label, new in zip(labels, texts, strict=True)]
    return [shorten(clean(" · ".join(label)), 80) for label in labels]


def same(listed: Sequence[Entry]) -> list[Fact]:
    """Facts with one text in all results."""
    return [fact for fact in FACTS if len({fact.of(entry.result) for entry in listed}) == 1]


def spoilt(entry: Entry, first: Entry) -> set[str]:
    """Kinds of figures that must not be held against the first result's."""
    return {kind for fact in FACTS if fact.of(entry.result) != fact.of(first.result) for kind in fact.spoils}


def differences(listed: Sequence[Entry], spoiling: bool) -> list[str]:
    """A sentence for each fact that differs and matters; those that make figures incomparable, or the others."""
    alike = same(listed)
    return [
        _difference(fact, listed)
        for fact in FACTS
        if fact.matters and bool(fact.spoils) == spoiling and fact not in alike
    ]


def _difference(fact: Fact, listed: Sequence[Entry]) -> str:
    keys: dict[str, list[str]] = {}
    for entry in listed:
        keys.setdefault(fact.of(entry.result), []).append(entry.key)
    shown = {text: text[:12] if fact.name.endswith("sha256") else shorten(text, 60) for text in keys}
    what = "; ".join(f"{shown[text]} ({', '.join(letters)})" for text, letters in keys.items())
    if len(keys) == len(listed) > 4:
        what = "another in each"
    consequence = f" Not to be compared: {', '.join(fact.spoils)}." if fact.spoils else ""
    return f"{fact.name[0].upper()}{fact.name[1:]}: {what}.{consequence}"


def warnings(entry: Entry) -> list[str]:
    """What a reader should know before trusting this result's figures; empty if nothing was noticed."""
    result, env = entry.result, entry.result.environment
    power, load, cores = env.power, env.load_average, result.device.n_cores
    counted = [run for run in result.runs if not run.warmup]
    heat = (env.thermal_before.status, env.thermal_after.status)
    outliers = _outliers(entry)
    checks = (
        (result.device.kind == "emulator", "an emulator, whose speed says nothing about a device’s"),
        (not counted, "no counted runs, hence no figures"),
        (0 < len(counted) < 3, f"only {len(counted)} counted run{'s' * (len(counted) > 1)}: the quartiles say little"),
        (
            len(counted) != result.protocol.repeats,
            f"{len(counted)} counted runs, where the protocol says {result.protocol.repeats}",
        ),
        (load is not None and load > cores / 2, f"other programs ran: load average {load or 0:.1f} on {cores} cores"),
        (power.source == "battery", "on battery, where most devices are slower"),
        (bool(power.low_power_mode), "in low-power mode"),
        (
            power.governor not in (None, "performance"),
            f"frequency governor {power.governor}: clocks change during runs",
        ),
        (heat[0] != heat[1], f"thermal status went from {heat[0] or 'unknown'} to {heat[1] or 'unknown'}"),
        (not env.page_cache_evicted, "no cold load: the page cache could not be emptied"),
        (bool(outliers), f"{'; '.join(outliers)}: the figures include it"),
        (
            not _close(entry.aggregates, result.aggregates),
            "its aggregates are not what its runs give by this version’s formulas; shown is what the runs give",
        ),
    )
    return [clean(text) for holds, text in checks if holds]


def _outliers(entry: Entry) -> list[str]:
    """Of each run, those of the metrics that a reader looks for first that are off by more than `NOTABLE`."""
    found: dict[int, list[str]] = {}
    values = {run.index: run_metrics(run) for run in entry.result.runs}
    for name, over_runs in entry.aggregates.items():
        if "first_token" in name or name.startswith("decode"):
            for i in over_runs.outliers:
                if abs(values[i][name] - over_runs.median) > NOTABLE * over_runs.median:
                    found.setdefault(i, []).append(name)
    return [f"run {i} is an outlier in {', '.join(names)}" for i, names in found.items()]


def _close(ours: dict[str, Aggregate], theirs: dict[str, Aggregate]) -> bool:
    fields = ("median", "p25", "p75", "minimum", "maximum")
    return ours.keys() == theirs.keys() and all(
        (a.unit, a.n, a.outliers) == (b.unit, b.n, b.outliers)
        and all(math.isclose(getattr(a, name), getattr(b, name), rel_tol=1e-9) for name in fields)
        for a, b in ((ours[name], theirs[name]) for name in ours)
    )
