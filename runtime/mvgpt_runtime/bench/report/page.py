"""Results → one HTML page that needs nothing else: no network, no script, no second file."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from importlib.resources import files

from jinja2 import Environment, StrictUndefined

from ..results import Result
from . import charts, entries, facts, figures, words
from .charts import COLOURS, Bar, Mark, Panel, Series
from .entries import Entry
from .figures import DECODE, PARTS, PREFILL

EMBEDDED = 400_000
"""Bytes of JSON that the page carries of a result; of larger ones it says that it does not."""


def page(results: Sequence[Result]) -> str:
    """HTML of 1 to 12 results, the first of which the others are compared with.

    Raises:
        MvgptError: another number of results.
    """
    listed = entries.entries(results)
    # What comes from a file is a stranger's: `_shown` takes out what escaping leaves in, Jinja escapes. Marked safe in
    # the template are the drawings, which ElementTree escapes, and base64.
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_shown
    )
    template = environment.from_string(files(__package__).joinpath("report.html.j2").read_text(encoding="utf-8"))
    memory, files_legend = _memory(listed)
    return template.render(
        listed=listed,
        first=listed[0],
        subtitle=_subtitle(listed),
        several=len(listed) > 1,
        headlines=figures.headlines,
        versus=figures.versus,
        incomparable=entries.differences(listed, spoiling=True),
        unlike=entries.differences(listed, spoiling=False),
        warnings={entry.key: entries.warnings(entry) for entry in listed},
        breakdown=_breakdown(listed),
        parts=list(PARTS.values()),
        decode=_lines(listed, "decode", DECODE),
        prefill=_lines(listed, "prefill", PREFILL),
        comparison=_comparison(listed) if len(listed) > 1 else None,
        memory=memory,
        files_legend=files_legend,
        table=figures.table(listed),
        solid=charts.SOLID,
        facts=facts.FACTS,
        groups=list(dict.fromkeys(fact.group for fact in facts.FACTS)),
        same=entries.same(listed),
        raw=_raw,
        number=words.number,
    )


def _shown(value: object) -> object:
    return words.shorten(words.clean(value)) if type(value) is str else value  # not Markup, its subclass


def _raw(entry: Entry) -> str | None:
    """The result as a data URI."""
    text = json.dumps(entry.result.model_dump(mode="json"), indent=1).encode()
    return f"data:application/json;base64,{base64.b64encode(text).decode()}" if len(text) <= EMBEDDED else None


def _name(entry: Entry) -> str:
    return f"{entry.key}  {entry.label}"


def _subtitle(listed: Sequence[Entry]) -> list[str]:
    days = sorted({facts.day(entry.result) for entry in listed})
    alike = [f for f in entries.same(listed) if f.name in ("protocol version", "clip", "runs")]
    return [" to ".join(dict.fromkeys((days[0], days[-1]))), *(f"{f.name} {f.of(listed[0].result)}" for f in alike)]


def _breakdown(listed: Sequence[Entry]) -> str | None:
    bars = []
    for entry in listed:
        if run := figures.typical_run(entry):
            found = figures.parts(run)
            named = {PARTS[name]: ms for name, ms in found.items()}
            bars.append(Bar(f"{_name(entry)}, run {run.index}", named, words.duration(figures.first_token(run))))
    title = "Where the time to the first token goes"
    return charts.stacked("breakdown", title, bars, list(PARTS.values()), words.duration) if bars else None


def _lines(listed: Sequence[Entry], name: str, metric: str) -> str | None:
    series = [
        Series(e.key, e.label, [(d, a.median, a.p25, a.p75) for d, a in figures.by_depth(e, metric)]) for e in listed
    ]
    if not any(s.points for s in series):
        return None
    return charts.lines(name, f"{name.capitalize()} against context length", "tokens/s", series)


def _comparison(listed: Sequence[Entry]) -> str:
    shown = [[*figures.headlines(entry), figures.energy(entry)] for entry in listed]
    panels = []
    for column in zip(*shown, strict=True):
        if any(figure.value is not None for figure in column):
            known = next(figure for figure in column if figure.value is not None)
            marks = [Mark(e.key, f.value, f.low, f.high, f.text) for e, f in zip(listed, column, strict=True)]
            panels.append(Panel(known.title, f"{known.meaning}; {known.better} is better", marks))
    return charts.panels("comparison", "Results beside each other", panels)


def _memory(listed: Sequence[Entry]) -> tuple[str, list[str]]:
    """The chart and its legend."""
    total: dict[str, int] = {}
    for entry in listed:
        for name, n_bytes in entry.result.model.files.items():
            total[name] = total.get(name, 0) + n_bytes
    peak, other = "peak memory of the process", "other files"
    largest = sorted(total, key=lambda name: -total[name])[: COLOURS - 2]
    bars = []
    for entry in listed:
        result = entry.result
        parts = {words.shorten(name, 40): float(result.model.files.get(name, 0)) for name in largest}
        parts[other] = float(sum(n for name, n in result.model.files.items() if name not in largest))
        metric = facts.METRIC_NAMES[result.memory_metric]
        bars.append(
            Bar(
                _name(entry),
                {peak: float(result.peak_memory_bytes)},
                f"{words.size(result.peak_memory_bytes)} {metric}",
            )
        )
        bars.append(Bar("bundle", parts, words.size(result.model.bundle_bytes)))
    legend = [peak, *(words.shorten(name, 40) for name in largest), *([other] if len(total) > len(largest) else [])]
    return charts.stacked("memory", "Peak memory and files of the bundle", bars, [*legend, other], words.size), legend
