"""The report's colours, numbers in words, and places on its axes."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from bench_results import make_result
from hypothesis import given
from hypothesis import strategies as st
from mvgpt_runtime.bench.report import svg, words
from mvgpt_runtime.bench.report.page import page


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_in_light_and_dark() -> None:
    """WCAG's 4.5 for text and 3 for graphics; digits on every colour of a bar."""
    themes = re.findall(r":root \{(.*?)\}", page([make_result()]), re.DOTALL)
    assert len(themes) == 2
    for theme in themes:
        colour = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", theme))
        for name in ("text", "quiet", "link"):
            assert contrast(colour[name], colour["ground"]) >= 4.5, name
        for name in ("text", "warn"):
            assert contrast(colour[name], colour["warn-ground"]) >= 4.5, name
        for i in range(1, 11):
            assert contrast(colour[f"c{i}"], colour["on"]) >= 4.5, i
            assert contrast(colour[f"c{i}"], colour["ground"]) >= 3, i


def test_words() -> None:
    assert [words.number(v) for v in (0, 0.4123, 5.2, 66.14, 99.96, 2416.4, 1e12)] == [
        "0",
        "0.412",
        "5.20",
        "66.1",
        "100",
        "2,416",
        "1.00e+12",
    ]
    assert [words.duration(v) for v in (0.5, 12.3, 999.4, 999.6, 8934)] == [
        "0.500 ms",
        "12.3 ms",
        "999 ms",
        "1.00 s",
        "8.93 s",
    ]
    assert [words.size(v) for v in (451e6, 999.6e6, 2.04e9)] == ["451 MB", "1.00 GB", "2.04 GB"]
    assert words.spread(900, 1100, "ms") == "900 ms–1.10 s"
    assert words.spread(8900, 9100, "ms") == "8.90–9.10 s"


@given(st.floats(1e-2, 1e8))
def test_numbers_keep_three_digits(value: float) -> None:
    assert float(words.number(value).replace(",", "")) == pytest.approx(value, rel=0.0051, abs=0.00051)


@given(st.floats(1e-6, 1e9), st.integers(2, 9))
def test_ticks_are_round_and_cover(maximum: float, most: int) -> None:
    found = svg.ticks(maximum, most, cover=True)
    assert 2 <= len(found) <= most + 2
    assert found[-1] >= maximum * (1 - 1e-6)
    assert svg.ticks(maximum, most)[-1] <= maximum * (1 + 1e-6)


@given(st.lists(st.floats(0, 200), min_size=1, max_size=12))
def test_letters_are_spread_out_in_order(places: list[float]) -> None:
    moved = svg.spread_out(places, 15, 0, 200)
    assert all(b - a >= 15 - 1e-9 for a, b in pairwise(sorted(moved)))
    assert [p for _, p in sorted(zip(places, moved, strict=True))] == sorted(moved)
    assert min(moved) >= -1e-9
    assert max(moved) <= 200
