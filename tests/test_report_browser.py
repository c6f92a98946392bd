"""The report in headless Chromium: nothing is cut off, runs into something else or gets too small, wide or narrow."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench_results import make_result
from mvgpt_runtime.bench.report.page import page
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="NO BROWSER, THE REPORT'S LAYOUT IS UNTESTED: install chromium or set CHROMIUM to one"
)

# What is drawn, as boxes in pixels of the screen. A box of a table is that of its text, not of its cell.
LOOK = """() => {
  const shown = e => e.getClientRects().length > 0 && getComputedStyle(e).visibility == "visible";
  const box = r => [r.left, r.top, r.right, r.bottom];
  const text = e => {
    const range = document.createRange();
    range.selectNodeContents(e);
    return box(range.getBoundingClientRect());
  };
  const drawings = [...document.querySelectorAll("svg")].filter(shown).map(svg => ({
    name: svg.querySelector("title").textContent,
    frame: box(svg.getBoundingClientRect()),
    texts: [...svg.querySelectorAll("text")].map(t => [t.textContent, ...box(t.getBoundingClientRect())]),
    sizes: [...svg.querySelectorAll("text")].map(t =>
      parseFloat(getComputedStyle(t).fontSize) * svg.getScreenCTM().a),
  }));
  const cells = [...document.querySelectorAll("td, th, dt, dd, .headline *")].filter(e => shown(e) && !e.children.length
    && e.textContent.trim()).map(e => [e.textContent.trim(), ...text(e)]);
  const written = e => [...e.childNodes].some(n => n.nodeType == 3 && n.textContent.trim());
  const sizes = [...document.querySelectorAll("body *")].filter(e => shown(e) && !e.closest("svg") && written(e))
    .map(e => parseFloat(getComputedStyle(e).fontSize));
  return {width: document.documentElement.scrollWidth, drawings, cells, sizes};
}"""

RESULTS = {
    "one": [make_result()],
    "three": [
        make_result(outlier=4),
        make_result(name="iPhone 15 Pro", seed=2, slower=0.6, cold=False, energy=False, memory_metric="phys_footprint"),
        make_result(seed=3, recipe="int8", slower=1.01),
    ],
    # Five digits before "tokens/s", and a long name.
    "fast, with a long name": [
        make_result(name="Extraordinarily Long-Named Phone of Some Maker 15 Pro Max", slower=0.002),
        make_result(slower=0.002),
    ],
    "twelve": [make_result(name=f"Phone {i}", seed=i, slower=1 + i / 3) for i in range(12)],
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("width", [360, 768, 1200])
@pytest.mark.parametrize("name", list(RESULTS))
def test_layout(browser: Browser, name: str, width: int, tmp_path: Path) -> None:
    scheme = "dark" if width == 768 else "light"
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
    tab = context.new_page()
    tab.on("request", lambda request: pytest.fail(f"the page asks for {request.url}"))
    tab.set_content(page(RESULTS[name]))
    look = tab.evaluate(LOOK)
    assert look["width"] <= width, "scrolls sideways"
    assert min(look["sizes"]) >= 12
    assert len(look["drawings"]) == (4 if len(RESULTS[name]) == 1 else 5)
    for drawing in look["drawings"]:
        left, top, right, bottom = drawing["frame"]
        for text, *box in drawing["texts"]:
            inside = box[0] >= left - 1 and box[1] >= top - 1 and box[2] <= right + 1 and box[3] <= bottom + 1
            assert inside, f"{drawing['name']}: {text!r} is cut off: {box} of {drawing['frame']}"
        assert min(drawing["sizes"], default=12) >= 10, drawing["name"]
        assert not overlapping(drawing["texts"]), drawing["name"]
    assert not overlapping(look["cells"])
    tab.screenshot(path=tmp_path / "page.png", full_page=True)
    context.close()
    picture = Image.open(tmp_path / "page.png").convert("RGB")
    colours = picture.getcolors(1 << 24) or []
    ground = max(colours)[1]  # the most frequent one
    assert len(colours) > 20
    assert (sum(ground) < 384) == (scheme == "dark")


def overlapping(boxes: list[tuple[str, float, float, float, float]]) -> list[tuple[str, str]]:
    """Pairs of texts of which one covers more than two pixels of the other in both directions."""
    return [
        (a[0], b[0])
        for i, a in enumerate(boxes)
        for b in boxes[:i]
        if min(a[3], b[3]) - max(a[1], b[1]) > 2 and min(a[4], b[4]) - max(a[2], b[2]) > 2
    ]
