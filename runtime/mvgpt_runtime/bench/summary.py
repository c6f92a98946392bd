"""A result in words: a row per metric, and what may have spoilt the numbers."""

from __future__ import annotations

from .metrics import run_metrics
from .results import Result

FEW_RUNS = 3


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


def warnings(result: Result) -> list[str]:
    """What a reader should know before trusting the numbers; empty if nothing was noticed."""
    environment, power, n = result.environment, result.environment.power, result.protocol.repeats
    load, cores = environment.load_average, result.device.n_cores
    outliers = sorted({i for found in result.aggregates.values() for i in found.outliers})
    shaky = [name for name, found in result.aggregates.items() if found.outliers]
    checks = (
        (
            load is not None and load > cores / 2,
            f"other programs were running: a load average of {load or 0:.1f} on {cores} cores before the first run",
        ),
        (
            power.governor not in (None, "performance"),
            f"the CPU frequency governor is {power.governor!r}, not 'performance': clocks change while runs are timed",
        ),
        (power.source == "battery", "on battery: most machines are slower then"),
        (bool(power.low_power_mode), "in low-power mode"),
        (
            not environment.page_cache_evicted,
            "no cold load: this system, or the files' disk, does not let the page cache be emptied",
        ),
        (n < FEW_RUNS, f"{n} counted run{'s' * (n > 1)}: the quartiles say little"),
        (
            bool(outliers),
            f"outliers in {', '.join(shaky)} (of run {', '.join(map(str, outliers))}); they are in the figures",
        ),
    )
    return [text for holds, text in checks if holds]


def _number(value: float) -> str:
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"
