"""A result in words: a row per metric."""

from __future__ import annotations

from .metrics import run_metrics
from .results import Result


def rows(result: Result) -> list[tuple[str, ...]]:
    """(metric, unit, median, quartiles, outliers with their values) of every aggregate."""
    values = {run.index: run_metrics(run) for run in result.runs}
    return [
        (
            name,
            found.unit,
            _number(found.median),
            f"{_number(found.p25)}–{_number(found.p75)}",
            ", ".join(f"run {i}: {_number(values[i][name])}" for i in found.outliers),
        )
        for name, found in result.aggregates.items()
    ]


def _number(value: float) -> str:
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"
