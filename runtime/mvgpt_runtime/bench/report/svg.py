"""Drawing SVG: elements that escape what they are given, text that keeps to its place, round numbers on axes."""

from __future__ import annotations

import math
from xml.etree import ElementTree as ET

FONT = 13
"""Pixels of all text. A chart is drawn once for phones, 1:1 at 360 pixels, and once for wider pages."""
NARROW, WIDE = 328, 800


def picture(name: str, width: float, height: float, title: str, description: str) -> ET.Element:
    """An empty drawing; `name` is its id in the page."""
    variant = "narrow" if width == NARROW else "wide"
    root = ET.Element(
        "svg",
        {
            "xmlns": "http://www.w3.org/2000/svg",
            "viewBox": f"0 0 {width:g} {math.ceil(height)}",
            "class": variant,
            "role": "img",
            "aria-labelledby": f"{name}-{variant}-title {name}-{variant}-desc",
        },
    )
    add(root, "title", title, id=f"{name}-{variant}-title")
    add(root, "desc", description, id=f"{name}-{variant}-desc")
    return root


def add(parent: ET.Element, tag: str, text: str | None = None, **attributes: object) -> ET.Element:
    """A child; `class_` is the attribute class, and numbers are rounded to what can be seen."""
    given = {
        k.rstrip("_").replace("_", "-"): f"{v:.5g}" if isinstance(v, float) else str(v) for k, v in attributes.items()
    }
    child = ET.SubElement(parent, tag, given)
    child.text = text
    return child


def write(root: ET.Element) -> str:
    return ET.tostring(root, encoding="unicode")


def ticks(maximum: float, most: int, cover: bool = False) -> list[float]:
    """0 and up to `most` round numbers in equal steps, as far as `maximum`; `cover`: and one more if that is beyond."""
    rough = maximum / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * (1 - 1e-9))
    found = [i * step for i in range(int(maximum / step * (1 + 1e-9)) + 1)]
    return [*found, found[-1] + step] if cover and found[-1] < maximum else found


def spread_out(places: list[float], gap: float, low: float, high: float) -> list[float]:
    """`places` in their order, moved as little as needed to stand `gap` apart between `low` and `high`."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = list(places)
    floor = low
    for i in order:
        moved[i] = floor = max(moved[i], floor)
        floor += gap
    ceiling = high
    for i in reversed(order):
        moved[i] = ceiling = min(moved[i], ceiling)
        ceiling -= gap
    return moved
