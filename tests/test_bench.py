"""`mvgpt bench`: the result and its schema, the arithmetic, the steps, facts of a machine, the command."""

from __future__ import annotations

import json
import math
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mvgpt_runtime import MvgptError, contract
from mvgpt_runtime.bench import machine, metrics, results
from mvgpt_runtime.bench.measure import STEPS, measure
from mvgpt_runtime.bench.report.entries import entries, warnings
from mvgpt_runtime.bench.summary import rows
from mvgpt_runtime.engines import Engine, open_engine
from mvgpt_runtime.manifest import Bundle, file_sha256
from pydantic import TypeAdapter

REPOSITORY = Path(__file__).parent.parent
SCHEMA = json.loads((REPOSITORY / "runtime" / "mvgpt_runtime" / "bench" / results.SCHEMA_NAME).read_text())
GOLDENS = json.loads((REPOSITORY / "tests" / "goldens" / "benchmark.json").read_text())["cases"]
PROTOCOL = (REPOSITORY / "docs" / "benchmark-protocol.md").read_text()
RUNS = TypeAdapter(tuple[results.Run, ...])


class Watched:
    """An engine that writes down what it is told."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.calls = engine, []

    def load(self, stage: str) -> None:
        self.calls.append(("load", stage, 0, 0))
        self.engine.load(stage)

    def unload(self, stage: str) -> None:
        self.calls.append(("unload", stage, 0, 0))
        self.engine.unload(stage)

    def prewarm(self, stage: str) -> None:
        self.engine.prewarm(stage)

    def run(self, stage: str, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        if stage == "text_decoder":
            self.calls.append(("run", stage, inputs[0].shape[1], int(inputs[1][0])))
        return self.engine.run(stage, inputs)


@pytest.fixture(scope="module")
def tiny_bundle(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A copy: what another process maps stays in the page cache, and loads are not cold."""
    return Bundle.open(shutil.copytree(tiny_bundle.folder, tmp_path_factory.mktemp("bench") / "bundle"))


@pytest.fixture(scope="module")
def measured(tiny_bundle: Bundle) -> tuple[results.Result, Watched, list[tuple[str, int, int]]]:
    """One warm-up and two runs; what the engine did; what progress said."""
    engine, said = Watched(open_engine(tiny_bundle)), []
    result = measure(tiny_bundle, repeats=2, warmup=1, engine=engine, progress=lambda *step: said.append(step))
    return result, engine, said


# --- the schema ---


def test_the_schema_file_is_the_models() -> None:
    assert results.schema() == SCHEMA, "stale: run tools/write_benchmark_files.py"
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_a_result_fits_the_schema(measured: tuple[results.Result, ...], tmp_path: Path) -> None:
    text = measured[0].model_dump_json()
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(text))
    (tmp_path / "result.json").write_text(text)
    assert results.read_result(tmp_path / "result.json") == measured[0]


def test_results_that_are_refused(measured: tuple[results.Result, ...], tmp_path: Path) -> None:
    path = tmp_path / "result.json"

    def refused(change: Any) -> str:
        raw = json.loads(measured[0].model_dump_json())
        change(raw)
        path.write_text(json.dumps(raw))
        with pytest.raises(MvgptError) as error:
            results.read_result(path)
        return str(error.value)

    assert "schema version" in refused(lambda raw: raw.update(schema_version=2))
    assert "got: runs.0.load.warm_ms" in refused(lambda raw: raw["runs"][0]["load"].update(warm_ms=-1))
    assert "got: runs.0.tests.0.samples_ns" in refused(lambda raw: raw["runs"][0]["tests"][0].update(samples_ns=[]))
    assert "got: extra" in refused(lambda raw: raw.update(extra=1))
    for text in ("[]", "{", "[" * 100_000):
        path.write_text(text)
        with pytest.raises(MvgptError):
            results.read_result(path)
    with pytest.raises(MvgptError, match="cannot read"):
        results.read_result(tmp_path / "none.json")


# --- the arithmetic ---


@pytest.mark.parametrize("case", GOLDENS, ids=lambda case: case["name"])
def test_golden_arithmetic(case: dict[str, Any]) -> None:
    """tools/write_benchmark_files.py computed the values with numpy."""
    runs = RUNS.validate_python(case["runs"])
    for run, expected in zip(runs, case["metrics"], strict=True):
        assert metrics.run_metrics(run) == pytest.approx(expected, rel=1e-12)
    found = metrics.aggregate(runs)
    assert found.keys() == case["aggregates"].keys()
    for name, expected in case["aggregates"].items():
        values = found[name].model_dump(exclude={"unit", "better", "outliers"})
        assert values == pytest.approx({k: v for k, v in expected.items() if k != "outliers"}, rel=1e-12), name
        assert list(found[name].outliers) == expected["outliers"], name


numbers = st.floats(0, allow_infinity=False)
tests = st.builds(
    results.Test,
    n_prompt=st.integers(0, 512),
    n_gen=st.integers(0, 512),
    n_depth=st.integers(0, 4096),
    samples_ns=st.lists(st.integers(1), min_size=1).map(tuple),
)
questions = st.builds(
    results.Question, time_to_first_token_ms=numbers, prompt_eval_ms=numbers, num_prefilled_tokens=st.integers(1)
)


@given(
    st.lists(
        st.builds(
            results.Run,
            index=st.integers(0, 99),
            warmup=st.booleans(),
            test_time=st.just(""),
            load=st.builds(results.Load, cold_ms=st.none() | numbers, warm_ms=numbers),
            video=st.dictionaries(st.sampled_from(list(contract.METRICS)), numbers),
            stream=st.dictionaries(st.sampled_from(list(contract.METRICS)), numbers),
            first_question=questions,
            follow_up=questions,
            stream_question=questions,
            tests=st.lists(tests).map(tuple),
            energy_j=st.none() | numbers,
            thermal=st.just(results.Thermal(status=None, temperature_c=None)),
        ),
        max_size=6,
        unique_by=lambda run: run.index,
    )
)
def test_no_clock_makes_a_figure_negative_or_infinite(runs: list[results.Run]) -> None:
    counted = {run.index for run in runs if not run.warmup}
    for run in runs:
        assert all(math.isfinite(v) and v >= 0 for v in metrics.run_metrics(run).values())
    for found in metrics.aggregate(runs).values():
        steps = [found.minimum, found.p25, found.median, found.p75, found.maximum]
        assert all(math.isfinite(v) for v in steps)
        assert all(a <= b or math.isclose(a, b) for a, b in pairwise(steps))
        assert set(found.outliers) <= counted
        assert 1 <= found.n <= len(counted)


def test_depths() -> None:
    assert metrics.depths(2450) == (64, 512, 1024, 2450)
    assert metrics.depths(64) == (64,)


# --- the steps ---


def test_the_steps_of_a_run(measured: tuple[results.Result, Watched, Any], tiny_bundle: Bundle) -> None:
    result, engine, said = measured
    full = result.runs[0].video["num_video_prefilled_tokens"] + result.runs[0].first_question.num_prefilled_tokens
    sizes = tiny_bundle.geometry
    assert result.protocol.n_depths == metrics.depths(int(min(full, sizes.max_context - sizes.image_tokens)))
    # The language model's tests come last in a run: from every depth prefill calls, then a step per position.
    expected = []
    for depth in result.protocol.n_depths:
        expected += [("run", "text_decoder", sizes.image_tokens, depth)] * metrics.PREFILL_CALLS
        expected += [("run", "text_decoder", 1, depth + i) for i in range(metrics.N_GEN)]
    assert engine.calls[-len(expected) :] == expected
    loads = [stage for kind, stage, *_ in engine.calls if kind == "load"]
    loads_of_all = sum(
        loads[i : i + len(contract.STAGE_NAMES)] == list(contract.STAGE_NAMES) for i in range(len(loads))
    )
    assert loads_of_all >= 3 * (2 if result.environment.page_cache_evicted else 1)
    assert [(done, total) for _, done, total in said] == [(i, 3 * len(STEPS)) for i in range(3 * len(STEPS) + 1)]


def test_figures_agree_with_each_other(measured: tuple[results.Result, ...], tiny_bundle: Bundle) -> None:
    result = measured[0]
    assert [run.warmup for run in result.runs] == [True, False, False]
    assert result.aggregates == metrics.aggregate(result.runs)
    assert all(found.n == 2 for found in result.aggregates.values())
    assert result.model.bundle_sha256 == file_sha256(tiny_bundle.folder / contract.MANIFEST_NAME)
    assert result.model.bundle_bytes == sum(
        path.stat().st_size for path in tiny_bundle.folder.iterdir() if path.name != contract.MANIFEST_NAME
    )
    assert result.model.backends.keys() == set(contract.STAGE_NAMES)
    for run in result.runs:
        for video in (run.video, run.stream):
            parts = [f"{stage}_ms" for stage in contract.ENCODER_STAGES] + ["preprocess_ms", "video_prefill_ms"]
            assert sum(video[part] for part in parts) <= video["video_ready_ms"]
            assert video["last_frame_to_ready_ms"] <= video["video_ready_ms"]
        assert run.video["num_video_prefilled_tokens"] == run.stream["num_video_prefilled_tokens"]
        for question in (run.first_question, run.follow_up, run.stream_question):
            assert 0 < question.prompt_eval_ms <= question.time_to_first_token_ms
        # Questions add themselves only; the video is in the KV cache.
        assert run.first_question.num_prefilled_tokens == run.stream_question.num_prefilled_tokens < 64
    names = {name.partition("@")[0] for name in result.aggregates}
    absent = {"energy_j"} if result.runs[0].energy_j is None else set()
    absent |= set() if result.environment.page_cache_evicted else {"model_load_cold_ms"}
    assert names == metrics.METRICS.keys() - absent
    assert result.peak_memory_bytes > 50e6


def test_low_memory(tiny_bundle: Bundle) -> None:
    """Encoders and language model are never loaded together, in the loading that is measured by itself either."""
    engine, loaded = Watched(open_engine(tiny_bundle)), set()
    result = measure(tiny_bundle, repeats=1, warmup=0, low_memory=True, engine=engine)
    assert result.protocol.low_memory
    for kind, stage, *_ in engine.calls:
        if kind == "load":
            loaded.add(stage)
            assert not (loaded & set(contract.ENCODER_STAGES) and loaded & set(contract.LANGUAGE_STAGES))
        elif kind == "unload":
            loaded -= {s.name for s in contract.STAGES if s.unit == contract.stage(stage).unit}


def test_what_spoils_figures_is_said(measured: tuple[results.Result, ...]) -> None:
    result = measured[0]
    environment = result.environment.model_copy(
        update={
            "load_average": 9.0,
            "page_cache_evicted": False,
            "power": results.Power(source="battery", battery_percent=50, low_power_mode=True, governor="powersave"),
        }
    )
    slow = result.aggregates["video_ready_ms"].model_copy(update={"outliers": (1,)})
    text = " | ".join(warnings(*entries([result.model_copy(update={"environment": environment})])))
    for words in ("load average 9.0", "powersave", "on battery", "low-power", "no cold load", "2 counted runs"):
        assert words in text
    (row,) = rows(result.model_copy(update={"aggregates": {"video_ready_ms": slow}}))
    assert row[-1].startswith("run 1: ")


# --- facts of a machine ---


def folder(root: Path, files: dict[str, object]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")


def test_energy_is_counted_over_a_wrap(tmp_path: Path) -> None:
    package, core, dram = (f"sys/class/powercap/intel-rapl:{n}" for n in ("0", "0:0", "0:1"))
    files = {f"{package}/name": "package-0", f"{core}/name": "core", f"{dram}/name": "dram"}
    files |= {f"{d}/max_energy_range_uj": 10_000_000 for d in (package, core, dram)}
    folder(tmp_path, files | {f"{package}/energy_uj": 9_000_000, f"{core}/energy_uj": 5, f"{dram}/energy_uj": 100})
    meter = machine.EnergyMeter(tmp_path)
    folder(tmp_path, {f"{package}/energy_uj": 2_000_000, f"{core}/energy_uj": 9, f"{dram}/energy_uj": 500_100})
    assert meter.joules() == pytest.approx(3.5)
    (tmp_path / package / "energy_uj").unlink()
    assert meter.joules() is None
    assert machine.EnergyMeter(tmp_path / "none").joules() is None


def test_power_and_heat(tmp_path: Path) -> None:
    assert machine.power(tmp_path).model_dump() == dict.fromkeys(
        ("source", "battery_percent", "low_power_mode", "governor")
    )
    assert machine.thermal(tmp_path).temperature_c is None
    supply = "sys/class/power_supply"
    files = {
        f"{supply}/BAT0/type": "Battery",
        f"{supply}/BAT0/status": "Discharging",
        f"{supply}/BAT0/capacity": 80,
        f"{supply}/mouse/type": "Battery",
        f"{supply}/mouse/scope": "Device",
        f"{supply}/mouse/capacity": 3,
        f"{supply}/AC/type": "Mains",
        f"{supply}/AC/online": 0,
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil",
        "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "schedutil",
        "sys/class/thermal/thermal_zone0/temp": 41_500,
        "sys/class/thermal/thermal_zone1/temp": 67_000,
        "sys/class/thermal/thermal_zone2/temp": -274_000,
    }
    folder(tmp_path, files)
    power = machine.power(tmp_path)
    assert (power.source, power.battery_percent, power.governor) == ("battery", 80, "schedutil")
    assert machine.thermal(tmp_path).temperature_c == 67
    folder(tmp_path, {f"{supply}/AC/online": 1})
    assert machine.power(tmp_path).source == "ac"


@pytest.mark.skipif(sys.platform != "linux", reason="mincore tells other things elsewhere")
def test_the_page_cache_is_emptied_or_said_not_to_be(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(4 << 20))

    def resident() -> float:
        with path.open("rb") as f:
            pages = machine._resident(f.fileno(), 4 << 20)
        assert pages is not None
        return sum(page & 1 for page in pages) / len(pages)

    path.read_bytes()
    assert resident() == 1
    assert machine.evict([path]) == (resident() < machine.STILL_CACHED)


# --- the command ---


def mvgpt(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mvgpt_export", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_command(tiny_bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    done = mvgpt("bench", tiny_bundle.folder, "--repeats", 1, "--warmup", 0, "--threads", 1, "--json", path)
    assert done.returncode == 0, done.stderr
    result = results.read_result(path)
    assert (result.protocol.n_threads, result.protocol.repeats, len(result.runs)) == (1, 1, 1)
    for name in result.aggregates:
        assert name in done.stdout
    assert "warning: only 1 counted run" in done.stdout
    assert "[1/5] run 1 of 1, video" in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_bad_input_is_refused_before_anything_runs(tiny_bundle: Bundle, tmp_path: Path) -> None:
    def refused(*arguments: object) -> str:
        done = mvgpt("bench", *arguments)
        assert done.returncode == 2, done.stderr
        assert not done.stdout
        return done.stderr

    folder = tiny_bundle.folder
    assert "cannot write" in refused(folder, "--json", tmp_path)
    assert "none.mp4" in refused(folder, "--video", tmp_path / "none.mp4")
    assert "no such bundle" in refused(tmp_path / "none")
    assert "too long for the KV cache" in refused(folder, "--prompt", "why? " * 2000)
    assert "repeats" in refused(folder, "--repeats", 0)


def test_a_bundle_without_a_tokenizer(tiny_bundle: Bundle) -> None:
    manifest = tiny_bundle.manifest.model_copy(update={"tokenizer": None})
    with pytest.raises(MvgptError, match="tokenizer"):
        measure(Bundle(tiny_bundle.folder, manifest))


def test_ctrl_c_leaves_no_result(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """In the middle of the first run, as progress tells."""
    path = tmp_path / "result.json"
    command = [sys.executable, "-m", "mvgpt_export", "bench", str(tiny_bundle.folder), "--json", str(path)]
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    process = subprocess.Popen([*command, "--repeats", "1000"], stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    assert process.stderr is not None
    assert any("stream" in line for line in iter(process.stderr.readline, ""))
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert rest.endswith("interrupted\n")
    assert "Traceback" not in rest
    assert not list(tmp_path.iterdir())


# --- the documentation ---


def test_the_protocol_names_every_metric_and_field() -> None:
    missing = [name for name in metrics.METRICS if f"`{name}`" not in PROTOCOL]
    assert not missing
    fields = {name for part in SCHEMA["$defs"].values() for name in part["properties"]} | SCHEMA["properties"].keys()
    assert not [name for name in fields if f"`{name}`" not in PROTOCOL]
    for constant in (metrics.PROMPT, metrics.FOLLOW_UP, f"{metrics.N_GEN} steps", f"{metrics.PREFILL_CALLS} calls"):
        assert constant in PROTOCOL
