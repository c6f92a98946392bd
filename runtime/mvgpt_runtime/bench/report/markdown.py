"""Results → a table for a README, a row per result, and below it what the numbers depend on."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from ..metrics import PROMPT
from ..results import Result
from .entries import Entry, differences, entries, same, warnings
from .facts import day
from .figures import Figure, headlines
from .words import clean, shorten

BELOW = ("protocol version", "clip", "frames", "first question", "threads", "low memory", "runs", "app")
"""Facts that are written below the table if all results share them; those that differ and matter are, anyway."""
DEVICE = {"python": "", "kotlin": " --device adb", "swift": " --device ios"}


def markdown(results: Sequence[Result]) -> str:
    """GitHub's Markdown of 1 to 12 results: medians, with quartiles in parentheses.

    Raises:
        MvgptError: another number of results.
    """
    listed = entries(results)
    columns = headlines(listed[0])
    rows = [["", "device", "bundle", "date", *(figure.title.lower() for figure in columns)]]
    rows += [["---"] * 4 + ["---:"] * len(columns), *(_row(entry) for entry in listed)]
    alike = same(listed)
    notes = [
        "; ".join(f"{figure.title.lower()}: {figure.meaning}" for figure in columns),
        *(_plain(f"{fact.name}: {fact.of(listed[0].result)}") for fact in alike if fact.name in BELOW),
        *(_plain(text) for spoiling in (True, False) for text in differences(listed, spoiling)),
        *(_plain(f"{entry.key}: {text}") for entry in listed for text in warnings(entry)),
    ]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", "Medians, with quartiles in parentheses; no warm-ups, all outliers.", ""]
    lines += [f"- {note}" for note in notes]
    return "\n".join([*lines, "", "```sh", *dict.fromkeys(_command(entry.result) for entry in listed), "```", ""])


def _row(entry: Entry) -> list[str]:
    result = entry.result
    device = f"{result.device.name}, {result.device.cpu_info}, {result.os.name} {result.os.version}"
    bundle = f"{_plain(f'{result.model.name} {result.model.recipe}')} `{result.model.bundle_sha256[:12]}`"
    return [entry.key, _plain(device), bundle, _plain(day(result)), *(_cell(figure) for figure in headlines(entry))]


def _cell(figure: Figure) -> str:
    low_high = figure.spread.removesuffix(f" {figure.own_unit}")
    return figure.text + (f" ({low_high})" if low_high else "") + (f", {figure.detail}" if figure.detail else "")


def _command(result: Result) -> str:
    """What measures this again, but for the names of folders, which a result does not tell."""
    protocol = result.protocol
    given = f"{DEVICE[result.app.language]} --repeats {protocol.repeats} --warmup {protocol.warmup}"
    if protocol.n_threads:
        given += f" --threads {protocol.n_threads}"
    if protocol.low_memory:
        given += " --low-memory"
    if protocol.prompt != PROMPT:
        given += f" --prompt {shlex.quote(clean(protocol.prompt))}"
    return f"mvgpt bench BUNDLE --video VIDEO{given} --json RESULT.json"


def _plain(text: str) -> str:
    """Text that Markdown, and the HTML in it, leave as it is; addresses do not become links."""
    return re.sub(r"([\\`*\[\]<>|~#&$]|(?<!\w)_|_(?!\w)|:(?=//)|(?<=www)\.)", r"\\\1", shorten(clean(text)))
