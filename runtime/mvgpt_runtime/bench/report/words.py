"""Numbers as people read them, and names from other machines made fit to be shown."""

from __future__ import annotations

import re
import unicodedata

# Controls, lone surrogates and what reorders the text around it; joiners stay, which scripts and emoji need.
_UNFIT = re.compile(
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\ud800-\udfff\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff]"
)
LONGEST = 300
"""Characters of a name or a question that are shown."""


def clean(text: str) -> str:
    """One line without characters that break a page or change how it reads."""
    return " ".join(_UNFIT.sub("\ufffd", text).split())


def shorten(text: str, most: int = LONGEST) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def number(value: float) -> str:
    """Three digits or all those before the point, in groups: `0.412`, `66.1`, `2,416`."""
    if value == 0:
        return "0"
    if not 1e-3 <= value < 1e9:
        return f"{value:.2e}"
    return f"{value:,.{0 if value >= 99.95 else 1 if value >= 9.995 else 2 if value >= 0.9995 else 3}f}"


def duration(ms: float) -> str:
    return f"{number(ms / 1e3)} s" if ms >= 999.5 else f"{number(ms)} ms"


def size(n_bytes: float) -> str:
    """In units of 1,000, as the rest of the project's."""
    return f"{number(n_bytes / 1e9)} GB" if n_bytes >= 999.5e6 else f"{number(n_bytes / 1e6)} MB"


def quantity(value: float, unit: str) -> str:
    """With its unit, in the one of seconds and milliseconds, or MB and GB, that suits it."""
    if unit == "ms":
        return duration(value)
    return size(value) if unit == "bytes" else f"{number(value)} {unit}"


def spread(low: float, high: float, unit: str) -> str:
    """`8.90–9.12 s`, or `0.90 s–1.12 s` written out where the two would have different units."""
    first, last = quantity(low, unit), quantity(high, unit)
    (a, _, its_unit), (_, _, other_unit) = first.rpartition(" "), last.rpartition(" ")
    return f"{a}–{last}" if its_unit == other_unit else f"{first}–{last}"


def plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def text_width(text: str, font_size: float) -> float:
    """Pixels, on the wide side: which font a reader has is not known, and labels must not touch."""
    return font_size * sum(
        1.1 if unicodedata.east_asian_width(c) in "WF" else 0.8 if c.isupper() or c in "mw%—" else 0.62
        for c in text
        if not unicodedata.combining(c)
    )


def fit(text: str, font_size: float, width: float) -> str:
    """`text`, cut with an ellipsis if it is wider than `width` pixels."""
    if text_width(text, font_size) <= width:
        return text
    while text and text_width(text + "…", font_size) > width:
        text = text[:-1]
    return text.rstrip() + "…"
