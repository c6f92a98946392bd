"""The report's page as a browser reads it, but with an error where a browser would guess."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import html5lib

HTML = "{http://www.w3.org/1999/xhtml}"


def parse(text: str) -> ET.Element:
    """As a browser does, but an error where a browser would guess."""
    return html5lib.HTMLParser(html5lib.getTreeBuilder("etree"), strict=True).parse(text)


def texts(element: ET.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def rows(document: ET.Element, table: str) -> list[list[str]]:
    found = next(t for t in document.iter(f"{HTML}table") if table in t.get("class", "").split())
    return [[texts(cell) for cell in row] for row in found.iter(f"{HTML}tr")]


def numbers(text: str) -> list[float]:
    return [float(n.replace(",", "")) for n in re.findall(r"[\d,]+(?:\.\d+)?(?:e[+-]\d+)?", text)]
