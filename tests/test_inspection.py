"""`mvgpt inspect --graph` and `--profile`: read from the programs, and measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from mvgpt_runtime import MvgptError, contract
from mvgpt_runtime.engines import profile
from mvgpt_runtime.engines.flatbuffer import read
from mvgpt_runtime.engines.program import read_program
from mvgpt_runtime.inspection import show, stage_graphs
from mvgpt_runtime.manifest import Bundle
from test_cli import run


def test_the_graph_is_the_programs(tiny_bundle: Bundle) -> None:
    """XNNPACK's nodes are the network's layers, which the eager configuration knows by number."""
    graphs = stage_graphs(tiny_bundle)
    assert tuple(graphs) == contract.STAGE_NAMES
    decoder = graphs["text_decoder"]
    assert decoder.own == {"mvgpt::grouped_query_attention.out": 4}
    assert decoder.nodes["Sigmoid"] == 4  # a SiLU a layer
    assert graphs["image_encoder"].nodes["Softmax"] == 3  # an attention a layer
    assert graphs["image_projector"].nodes["FullyConnected"] == 2
    for name, info in tiny_bundle.manifest.files.items():
        if info.operators:
            called = {op for method in read_program(tiny_bundle.folder / name).values() for op in method.outside}
            assert called == set(info.operators)


def test_a_manifest_that_claims_another_graph(tiny_bundle: Bundle) -> None:
    stages = dict(tiny_bundle.manifest.stages)
    stages["video_encoder"] = stages["video_encoder"].model_copy(update={"delegates": 1})
    wrong = Bundle(tiny_bundle.folder, tiny_bundle.manifest.model_copy(update={"stages": stages}))
    with pytest.raises(MvgptError, match=r"video_encoder: [\s\S]*expected: 1 delegates\n  got: 8 delegates\n"):
        show(wrong, graph=True, profiled=False, threads=None, as_json=False)


def test_files_that_are_no_programs(tiny_bundle: Bundle, tmp_path: Path) -> None:
    text, cut = tmp_path / "text.pte", tmp_path / "cut.pte"
    text.write_text("I am a text file." * 10)
    with pytest.raises(MvgptError, match="not an ExecuTorch program"):
        read_program(text)
    shutil.copy(tiny_bundle.path("frame_scorer"), cut)
    with cut.open("r+b") as file:
        file.truncate(600)
    with pytest.raises(MvgptError, match="not a readable program"):
        read_program(cut)
    with pytest.raises(MvgptError, match="not a readable etdump"):
        read("etdump", [b"neither"])


def test_the_command_line(tiny_bundle: Bundle) -> None:
    text = run("inspect", tiny_bundle.folder, "--graph")
    assert text.returncode == 0, text.stderr
    assert all(name in text.stdout for name in (*contract.STAGE_NAMES, "6 mvgpt::selective_scan.out", "FullyConnected"))
    result = run("inspect", tiny_bundle.folder, "--graph", "--profile", "--threads", "1", "--json")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    parts = json.loads(result.stdout)
    graph, profiles = parts["graph"], parts["profile"]
    assert [p["stage"] for p in profiles] == [*contract.STAGE_NAMES, "text_decoder"]  # prefill and decode
    for p in profiles:
        operators = {row["name"]: row for row in p["operators"]}
        assert sum(row["ms"] for row in p["operators"]) == pytest.approx(p["wall_ms"], abs=1e-3)
        assert 0 < p["execute_ms"] < p["wall_ms"]
        outside = graph[p["stage"]]["own"] | graph[p["stage"]]["portable"]
        assert {name: row["calls"] for name, row in operators.items() if "::" in name} == outside
        rest = operators.get(profile.REST_OF_DELEGATES, {"calls": 0})
        assert rest["calls"] == graph[p["stage"]]["delegates"]
        nodes = sum(row["calls"] for name, row in operators.items() if name.startswith("XNNPACK Fully Connected"))
        assert nodes == graph[p["stage"]]["nodes"].get("FullyConnected", 0)
    scan = next(p for p in profiles if p["stage"] == "video_encoder")["operators"]
    assert scan[0]["name"] in ("mvgpt::selective_scan.out", "XNNPACK Fully Connected (NC, F32) GEMM")


def test_a_runtime_without_a_tracer(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def untraced(self: profile.TracingEngine, path: Path) -> object:
        return self._runtime._load_program(str(path))

    monkeypatch.setattr(profile.TracingEngine, "_open", untraced)
    with pytest.raises(MvgptError, match="records no events"):
        profile.profile(tiny_bundle, None, lambda what: None)
