"""The report: its numbers are the results', nothing in a result can break it, and what cannot be compared is said."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from bench_results import DEPTHS, make_result
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from mvgpt_runtime.bench.report import svg
from mvgpt_runtime.bench.report.entries import MAX_RESULTS, entries
from mvgpt_runtime.bench.report.figures import PARTS, parts, typical_run
from mvgpt_runtime.bench.report.markdown import markdown
from mvgpt_runtime.bench.report.page import page
from mvgpt_runtime.bench.results import Result, read_result
from mvgpt_runtime.errors import MvgptError
from report_page import HTML, numbers, parse, rows, texts

MVGPT = [str(Path(sys.executable).parent / "mvgpt"), "report"]
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = [
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "</style></title></svg><iframe src=https://example.org>",
    "{{ 7 * 7 }}{% raw %}&amp;&#60;b&#62;",
    "a | b | `c` \\| **d** [e](https://example.org) <b> https://example.org\n\n# f\n```\n",
    "\x00\x08\ud800\u202egnp.exe\u2066 W" + "W" * 2000,
    "  ",
]


def three() -> list[Result]:
    return [
        make_result(outlier=4),
        make_result(name="iPhone 15 Pro", seed=2, slower=0.6, cold=False, energy=False, memory_metric="phys_footprint"),
        make_result(seed=3, recipe="int8", slower=1.01, protocol__n_threads=2),
    ]


def hostile(text: str, result: Result) -> Result:
    """`text` wherever a result may have any."""
    raw = json.loads(json.dumps(result.model_dump(mode="json")))
    for part, names in {
        "app": ("name", "version", "build_commit"),
        "device": ("name", "model", "cpu_info"),
        "os": ("name", "version"),
        "model": ("name", "recipe", "kernels"),
        "protocol": ("prompt", "follow_up", "video"),
    }.items():
        raw[part] |= dict.fromkeys(names, text)
    raw["environment"]["power"]["governor"] = text
    raw["environment"]["thermal_before"]["status"] = text
    raw["environment"]["thermal_after"]["status"] = text + "!"
    raw["model"]["backends"] = {text: text}
    raw["model"]["geometry"] = {text: 1}
    for run in raw["runs"]:
        run["test_time"] = text
        run["thermal"]["status"] = text
    return Result.model_validate(raw)


@pytest.mark.parametrize("n", [1, 2, MAX_RESULTS])
def test_the_page_is_html_that_needs_nothing_else(n: int) -> None:
    text = page([make_result(name=f"Phone {i}", seed=i, slower=1 + i / 3) for i in range(n)])
    document = parse(text)
    for element in document.iter():
        for name, value in element.attrib.items():
            assert not name.startswith("on")
            if name in ("src", "href", "action", "data", "srcset"):
                assert value.startswith("data:application/json;base64,"), value[:80]
        assert element.tag not in {f"{HTML}{tag}" for tag in ("script", "link", "iframe", "img", "object", "embed")}
    style = "".join(texts(s) for s in document.iter(f"{HTML}style"))
    assert "url(" not in style
    assert "@import" not in style
    (policy,) = [m.get("content") for m in document.iter(f"{HTML}meta") if m.get("http-equiv")]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_drawings_are_well_formed_and_described() -> None:
    text = page(three())
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) == 2 * 5  # narrow and wide
    ids: list[str] = []
    for drawing in drawings:
        root = ET.fromstring(drawing)
        assert root.get("role") == "img"
        named = {e.get("id"): e.text for e in root if e.tag in (f"{SVG}title", f"{SVG}desc")}
        assert all(named[name] for name in root.get("aria-labelledby", "").split())
        ids += named
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_in_a_result_changes_the_page(text: str) -> None:
    """The same elements as of a harmless result, with the same attributes, but for what drawings make room for."""
    benign, evil = (parse(page([hostile(t, make_result()), make_result(name="other")])) for t in ("name", text))
    assert [e.tag for e in benign.iter()] == [e.tag for e in evil.iter()]
    assert [sorted(e.attrib) for e in benign.iter()] == [sorted(e.attrib) for e in evil.iter()]
    shown = "".join(evil.itertext())
    assert not re.search("[\x00-\x08\x0e-\x1f\ud800-\udfff\u202a-\u202e\u2066-\u2069]", shown)
    if text.strip() and len(text) < 100:
        assert " ".join(text.split()) in texts(evil)  # shown as it is, not interpreted


@settings(max_examples=30, deadline=None)
@given(st.text(st.characters(), max_size=40))
def test_any_name_gives_html(name: str) -> None:
    parse(page([hostile(name, make_result(repeats=1, depths=(64,)))])).iter()
    page([make_result(name=name)]).encode()


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_in_a_result_changes_the_table(text: str) -> None:
    def render(t: str) -> str:
        return MarkdownIt("commonmark").enable("table").render(markdown([hostile(t, make_result()), make_result()]))

    def tags(html: str) -> Counter[str]:
        return Counter(re.findall(r"</?[a-z0-9]+", html))

    assert tags(render(text)) == tags(render("name"))


def test_numbers_in_the_page_are_those_of_the_results() -> None:
    results = three()
    document = parse(page(results))
    listed = dict(zip("ABC", results, strict=True))
    name, seen = "", set()
    for row in rows(document, "metrics")[1:]:
        if len(row) == 1 and "outlier" not in row[0] and "measured in" not in row[0]:
            name = row[0].split()[-1]
        elif len(row) == 4:
            found = listed[row[0]].aggregates[name]
            shown = [numbers(cell) for cell in row[1:]]
            want = [[found.median], [found.p25, found.p75], [found.minimum, found.maximum]]
            assert shown == [pytest.approx(w, rel=0.005) for w in want], (name, row)
            seen.add((row[0], name))
    assert seen == {(key, name) for key, result in listed.items() for name in result.aggregates}


def test_headlines_are_the_results_in_units_of_their_size() -> None:
    (result,) = results = [make_result(slower=1.3)]
    found = result.aggregates
    (row,) = rows(parse(page(results)), "headline")[1:]
    shown = dict(zip(rows(parse(page(results)), "headline")[0][1:], row[1:], strict=True))

    def near(title: str, value: float, unit: str) -> bool:
        (cell,) = [text for name, text in shown.items() if name.startswith(title)]
        match = re.search(rf"([\d,.]+) {re.escape(unit)}", cell)
        assert match, cell
        return numbers(match[1]) == [pytest.approx(value, rel=0.006)]

    assert near("First question", found["first_time_to_first_token_ms"].median / 1e3, "s")
    assert near("Follow-up", found["follow_up_time_to_first_token_ms"].median, "ms")
    assert near("Live video", found["stream_time_to_first_token_ms"].median / 1e3, "s")
    assert near("Decode, short", found[f"decode_tokens_per_s@{DEPTHS[0]}"].median, "tokens/s")
    assert near("Decode, full", found[f"decode_tokens_per_s@{DEPTHS[-1]}"].median, "tokens/s")
    assert near("Peak memory", result.peak_memory_bytes / 1e6, "MB")
    assert near("Bundle", result.model.bundle_bytes / 1e6, "MB")


def test_parts_of_the_bar_are_those_of_one_run_and_add_up() -> None:
    (entry,) = entries([make_result()])
    run = typical_run(entry)
    assert run is not None
    whole = run.video["video_ready_ms"] + run.first_question.time_to_first_token_ms
    assert whole == entry.aggregates["first_time_to_first_token_ms"].median  # 5 runs: one is the median
    found = parts(run)
    assert list(found) == list(PARTS)
    assert sum(found.values()) == pytest.approx(whole)
    text = page([entry.result])
    bar = ET.fromstring(next(d for d in re.findall(r"<svg.*?</svg>", text, re.DOTALL) if "breakdown-wide" in d))
    drawn = [float(rect.get("x", "")) for rect in bar.iter(f"{SVG}rect")] + [svg.WIDE]
    widths = [b - a for a, b in pairwise(drawn)]
    assert widths == pytest.approx([svg.WIDE * ms / whole for ms in found.values()], abs=0.05)


@pytest.mark.parametrize(
    "result",
    [
        make_result(cold=False, energy=False),
        make_result(repeats=1, warmup=0, depths=(64,)),
        make_result(runs=[]),
        make_result(model__files={}, model__geometry={}, model__backends={}, device__memory_bytes=None),
        make_result(
            environment__power=dict.fromkeys(("source", "battery_percent", "low_power_mode", "governor")),
            environment__thermal_before={"status": None, "temperature_c": None},
            environment__thermal_after={"status": None, "temperature_c": None},
            environment__load_average=None,
        ),
        make_result(slower=1e-7),
        make_result(slower=1e9),
    ],
    ids=["no cold load", "one run", "no runs", "no files", "nothing known", "tiny", "huge"],
)
def test_what_is_missing_or_extreme(result: Result) -> None:
    for results in ([result], [make_result(), result], [result, make_result()]):
        parse(page(results))
        assert markdown(results).count("\n| ") == len(results) + 1
        for drawing in re.findall(r"<svg.*?</svg>", page(results), re.DOTALL):
            assert "nan" not in drawing
            assert "inf" not in drawing.replace("information", "")


def test_a_metric_that_nobody_measured_is_no_zero() -> None:
    row = rows(parse(page([make_result(runs=[])])), "headline")[1]
    assert [bool(re.search("—", cell)) for cell in row[1:]] == [True] * 5 + [False] * 2


def test_the_page_gives_each_result_back(tmp_path: Path) -> None:
    results = [make_result(), make_result(name="\ud800 other")]
    links = [a for a in parse(page(results)).iter(f"{HTML}a") if a.get("download")]
    assert len(links) == 2
    for link, result in zip(links, results, strict=True):
        file = tmp_path / link.get("download", "")
        file.write_bytes(base64.b64decode(link.get("href", "").partition(",")[2]))
        assert read_result(file) == result


@pytest.mark.parametrize("n", [0, MAX_RESULTS + 1])
def test_the_number_of_results(n: int) -> None:
    for render in (page, markdown):
        with pytest.raises(MvgptError, match="results"):
            render([make_result(repeats=1)] * n)


def test_labels_tell_results_apart() -> None:
    def labels(*results: Result) -> list[str]:
        return [entry.label for entry in entries(results)]

    assert labels(make_result()) == ["Pixel 8 · mobile"]
    assert labels(make_result(), make_result(name="vm")) == ["Pixel 8 · mobile", "vm · mobile"]
    assert labels(make_result(), make_result(protocol__n_threads=2)) == [
        "Pixel 8 · mobile · threads 4",
        "Pixel 8 · mobile · threads 2",
    ]


# The command


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{i}.json" for i in range(3)]
    for path, result in zip(paths, three(), strict=True):
        path.write_text(result.model_dump_json())
    return paths


def run(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*MVGPT, *map(str, args)], capture_output=True, text=True, timeout=60, check=False)


def test_report_writes_the_page(files: list[Path], tmp_path: Path) -> None:
    output = tmp_path / "report.html"
    done = run(*files, "-o", output)
    assert done.returncode == 0, done.stderr
    assert output.read_text(encoding="utf-8") == page(three())
    assert "3 results" in done.stdout
    assert "warning: Memory metric" in done.stderr
    as_json = json.loads(run(*files, "-o", output, "--json").stdout)
    assert as_json["results"] == 3
    assert as_json["bytes"] == output.stat().st_size
    assert any("Memory metric" in text for text in as_json["warnings"])


def test_report_writes_markdown(files: list[Path], tmp_path: Path) -> None:
    printed = run(*files, "--markdown")
    assert printed.returncode == 0, printed.stderr
    assert printed.stdout == markdown(three())
    assert run(*files, "--markdown", "-o", tmp_path / "t.md").returncode == 0
    assert (tmp_path / "t.md").read_text(encoding="utf-8") == printed.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["0.json"], "nowhere to write"),
        (["0.json", "-o", "1.json"], "ends in .html"),
        (["0.json", "-o", "README.md"], "add --markdown"),
        (["0.json", "--markdown", "-o", "report.html"], "ends in .md"),
        (["0.json", "none.json", "-o", "report.html"], "none.json"),
        (["0.json", "broken.json", "-o", "report.html"], "broken.json"),
        (["0.json", "other.json", "-o", "report.html"], "other.json"),
        (["0.json"] * 13 + ["-o", "report.html"], "1 to 12"),
        (["0.json", "-o", "no/folder/report.html"], "cannot write"),
    ],
)
def test_report_refuses(files: list[Path], args: list[str], message: str) -> None:
    folder = files[0].parent
    (folder / "broken.json").write_text("{")
    (folder / "other.json").write_text('{"schema_version": 99}')
    before = {path: path.read_bytes() for path in folder.iterdir()}
    done = run(*(arg if arg.startswith("-") else folder / arg for arg in args))
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
