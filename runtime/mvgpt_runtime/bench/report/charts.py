"""The charts: stacked bars, lines over the context length, and bars with spread. Each is drawn narrow and wide."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree as ET

from .svg import FONT, NARROW, WIDE, add, picture, spread_out, ticks, write
from .words import fit, number, text_width

LINE, BAR = 20, 16
GAP = 1.5  # of background between the parts of a bar
KEY = 22  # the column of letters
COLOURS = 10  # of parts of a bar; report.html.j2 has them
SOLID = 6  # results with whole lines; the next ones' are dashed, with the same colours
_TALL = 0.36 * FONT  # from the middle of a line of text to its baseline


@dataclass(frozen=True)
class Bar:
    label: str
    parts: dict[str, float]  # by series, in the order of the legend; what is absent or 0 is not drawn
    total: str  # written at its end


@dataclass(frozen=True)
class Series:
    key: str
    label: str
    points: list[tuple[int, float, float, float]]  # x, median, p25, p75; x ascending


@dataclass(frozen=True)
class Mark:
    key: str
    value: float | None
    low: float | None
    high: float | None
    text: str


@dataclass(frozen=True)
class Panel:
    title: str
    note: str
    marks: list[Mark]


def _both(draw: Callable[[int], ET.Element]) -> str:
    return write(draw(NARROW)) + write(draw(WIDE))


def stacked(name: str, title: str, bars: Sequence[Bar], legend: Sequence[str], words: Callable[[float], str]) -> str:
    """Bars on one scale. A part has its number in the legend, where it fits, and its name and value as a tooltip."""

    def draw(width: int) -> ET.Element:
        spoken = "; ".join(
            f"{bar.label}: {bar.total}, of this " + ", ".join(f"{n} {words(v)}" for n, v in bar.parts.items() if v > 0)
            for bar in bars
        )
        root = picture(name, width, len(bars) * (LINE + BAR + 10), title, f"Stacked bars. {spoken}.")
        scale = width / (max((sum(bar.parts.values()) for bar in bars), default=0) or 1)
        for i, bar in enumerate(bars):
            top = i * (LINE + BAR + 10)
            end = text_width(bar.total, FONT)
            add(root, "text", fit(bar.label, FONT, width - end - 12), x=0, y=top + FONT)
            add(root, "text", bar.total, x=width, y=top + FONT, text_anchor="end", class_="strong")
            _parts(root, bar, legend, top + LINE, scale, words)
        return root

    return _both(draw)


def _parts(
    root: ET.Element, bar: Bar, legend: Sequence[str], top: float, scale: float, words: Callable[[float], str]
) -> None:
    x = 0.0
    for series, value in bar.parts.items():
        wide, which = value * scale, legend.index(series) + 1
        if value > 0:
            group = add(root, "g")
            add(group, "title", f"{series}: {words(value)}")
            drawn = max(wide - GAP, 0.75)
            add(group, "rect", x=x, y=top, width=drawn, height=BAR, class_=f"c{which}")
            if drawn > text_width(str(which), FONT) + 3:
                add(
                    group,
                    "text",
                    str(which),
                    x=x + drawn / 2,
                    y=top + BAR / 2 + _TALL,
                    text_anchor="middle",
                    class_="on",
                )
        x += wide


def lines(name: str, title: str, unit: str, series: Sequence[Series]) -> str:
    """Medians over the context length, with bands from the lower to the upper quartile."""

    def draw(width: int) -> ET.Element:
        spoken = "; ".join(
            f"{s.label}: " + ", ".join(f"{number(y)} at {x:,}" for x, y, _, _ in s.points) for s in series if s.points
        )
        height = 240 if width == NARROW else 320
        root = picture(name, width, height, title, f"Lines, {unit} by positions before the test. {spoken}.")
        points = [point for s in series for point in s.points]
        y_ticks = ticks(max((p[3] for p in points), default=0) or 1, 5, cover=True)
        left = max(text_width(f"{t:,.10g}", FONT) for t in y_ticks) + 8
        right, top, bottom = width - KEY, FONT + 14, height - 2 * LINE - 6
        furthest = max((p[0] for p in points), default=0) or 1

        def at(x: float, y: float) -> tuple[float, float]:
            return left + (right - left - 8) * x / furthest, bottom - (bottom - top) * y / y_ticks[-1]

        add(root, "text", unit, x=0, y=FONT)
        for tick in y_ticks:
            _, y = at(0, tick)
            add(root, "line", x1=left, x2=right, y1=y, y2=y, class_="grid" if tick else "axis")
            add(root, "text", f"{tick:,.10g}", x=left - 6, y=y + _TALL, text_anchor="end")
        for tick in ticks(furthest, 4 if width == NARROW else 8):
            x, _ = at(tick, 0)
            add(root, "line", x1=x, x2=x, y1=bottom, y2=bottom + 4, class_="axis")
            add(root, "text", f"{tick:,.0f}", x=x, y=bottom + 6 + FONT, text_anchor="middle")
        add(root, "text", "positions before the test", x=(left + right) / 2, y=height - 4, text_anchor="middle")
        drawn = [(i, s, [at(x, y) for x, y, _, _ in s.points]) for i, s in enumerate(series) if s.points]
        for i, s, path in drawn:
            _line(root, i, s, path, at)
        for ends in _side_by_side([(path[-1], i, s.key) for i, s, path in drawn]):
            x = max(end[0] for end, _, _ in ends) + 7
            heights = spread_out([end[1] for end, _, _ in ends], FONT + 2, top, bottom - 6)
            for (end, i, key), y in zip(ends, heights, strict=True):
                if abs(y - end[1]) > 3:
                    add(root, "line", x1=end[0], y1=end[1], x2=x - 1, y2=y, class_=f"leader l{i % SOLID + 1}")
                add(root, "text", key, x=x, y=y + _TALL, class_="strong halo")
        return root

    return _both(draw)


def _side_by_side(ends: list[tuple[tuple[float, float], int, str]]) -> list[list[tuple[tuple[float, float], int, str]]]:
    """Ends of lines, in groups whose letters would share a column."""
    groups: list[list[tuple[tuple[float, float], int, str]]] = []
    for end in sorted(ends):
        if groups and end[0][0] - groups[-1][-1][0][0] < KEY:
            groups[-1].append(end)
        else:
            groups.append([end])
    return groups


def _line(
    root: ET.Element,
    i: int,
    s: Series,
    points: list[tuple[float, float]],
    at: Callable[[float, float], tuple[float, float]],
) -> None:
    colour, dashed = f"l{i % SOLID + 1}", " dashed" if i >= SOLID else ""
    over = [at(x, high) for x, _, _, high in s.points]
    under = [at(x, low) for x, _, low, _ in s.points]
    add(root, "path", d=_path([*over, *reversed(under)]) + "Z", class_=f"band {colour}")
    add(root, "path", d=_path(points), class_=f"line {colour}{dashed}")
    for (x, y), (_, low), (_, high), (depth, median, p25, p75) in zip(points, under, over, s.points, strict=True):
        group = add(root, "g", class_=f"point {colour}")
        add(group, "title", f"{s.label}, {depth:,} positions: {number(median)}, {number(p25)}–{number(p75)}")
        add(group, "line", x1=x, x2=x, y1=low, y2=high)
        add(group, "circle", cx=x, cy=y, r=3)


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def panels(name: str, title: str, listed: Sequence[Panel]) -> str:
    """Small charts of one metric each, on their own scales from 0: a bar per result, and its quartiles."""

    def draw(width: int) -> ET.Element:
        columns, between = (1, 0) if width == NARROW else (2, 40)
        wide = (width - between) / columns
        rows = max((len(panel.marks) for panel in listed), default=0)
        tall = 2 * LINE + rows * LINE + 18
        spoken = "; ".join(f"{p.title} {p.note}: " + ", ".join(f"{m.key} {m.text}" for m in p.marks) for p in listed)
        root = picture(name, width, tall * -(-len(listed) // columns) - 14, title, f"Bars. {spoken}.")
        for i, panel in enumerate(listed):
            _panel(root, panel, (i % columns) * (wide + between), (i // columns) * tall, wide)
        return root

    return _both(draw)


def _panel(root: ET.Element, panel: Panel, left: float, top: float, width: float) -> None:
    add(root, "text", panel.title, x=left, y=top + FONT, class_="strong")
    add(root, "text", panel.note, x=left, y=top + FONT + LINE - 2)
    room = width - KEY - max((text_width(mark.text, FONT) for mark in panel.marks), default=0) - 8
    scale = room / (max((m.high or m.value or 0 for m in panel.marks), default=0) or 1)
    for i, mark in enumerate(panel.marks):
        middle = top + 2 * LINE + i * LINE + LINE / 2
        start, end = left + KEY, left + KEY + (mark.value or 0) * scale
        add(root, "text", mark.key, x=left, y=middle + _TALL, class_="strong")
        if mark.value is not None:
            add(
                root, "rect", x=start, y=middle - 6, width=max(end - start, 0.75), height=12, class_=f"c{i % SOLID + 1}"
            )
        if mark.low is not None and mark.high is not None:
            low, high = start + mark.low * scale, start + mark.high * scale
            add(
                root,
                "path",
                d=f"M{low:.1f} {middle:g}H{high:.1f}M{low:.1f} {middle - 4:g}v8M{high:.1f} {middle - 4:g}v8",
                class_="whisker",
            )
            end = max(end, high)
        add(root, "text", mark.text, x=end + 6, y=middle + _TALL)
