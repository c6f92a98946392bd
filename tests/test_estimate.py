"""`mvgpt estimate`: counts against torch's own counter on the eager networks, then rates, floors, the command line."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from mvgpt_export import cli, limits
from mvgpt_export.bundle import export_unit
from mvgpt_export.config import NAMED_CONFIGS
from mvgpt_export.models.video_gpt import VideoGPT
from mvgpt_export.models.videomamba import VideoMamba
from mvgpt_export.quant import RECIPES
from mvgpt_export.random_weights import random_model
from mvgpt_export.sources import Source
from mvgpt_export.stages import example_inputs, stage_module
from mvgpt_runtime import MvgptError, contract
from mvgpt_runtime.bench import metrics
from mvgpt_runtime.bench.estimate.counts import EXP_OPERATIONS, Counts, Work, count
from mvgpt_runtime.bench.estimate.devices import PHONES, phone, phones
from mvgpt_runtime.bench.estimate.roofline import LABEL, estimate, seconds
from mvgpt_runtime.engines.program import Plan, read_plans
from mvgpt_runtime.manifest import Bundle
from test_cli import refused, run
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

TINY = NAMED_CONFIGS["tiny"]


def eager_macs(network: nn.Module, *inputs: torch.Tensor) -> int:
    """By torch, which counts matrix products and convolutions, two operations each."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*inputs)
    return int(counter.get_total_flops()) // 2


@pytest.mark.parametrize("stage", contract.ENCODER_STAGES)
def test_encoders_multiply_as_torch_counts(stage: str, tiny_bundle: Bundle, eager: VideoGPT) -> None:
    expected = eager_macs(getattr(eager, stage), *example_inputs(stage, tiny_bundle.geometry))
    if stage == "video_encoder":  # eager convolutions go on into their padding, d_conv - 1 rows that are cut off
        video = TINY.video
        expected -= 2 * video.depth * (video.d_conv - 1) * video.d_inner * video.d_conv
        expected += (video.depth + 1) * (1 + video.frames * video.patches) * video.width  # a norm's mean is a product
    elif stage == "image_encoder":  # where layer norms have two, before each block's halves and before the first
        norms = sum(isinstance(module, nn.LayerNorm) for module in eager.image_encoder.modules())
        expected += 2 * norms * (1 + TINY.clip.patches) * TINY.clip.width
    assert Counts(tiny_bundle).work(stage).macs == {"fp32": expected}


@pytest.mark.parametrize(("rows", "start_pos"), [(1, 0), (1, 300), (5, 7), (512, 100)])
def test_text_decoder_multiplies_as_torch_counts(
    rows: int, start_pos: int, tiny_bundle: Bundle, eager: VideoGPT
) -> None:
    """torch does not know our attention, which is counted here query by query; the last layer has only the last."""
    geometry, text = tiny_bundle.geometry, TINY.text
    module = stage_module(eager, "text_decoder", geometry, "fused", RECIPES["fp32"])
    inputs = torch.zeros(1, rows, geometry.hidden_size), torch.tensor([start_pos])
    pairs = 0
    for layer in range(text.layers):
        queries = range(rows) if layer < text.layers - 1 else [rows - 1]
        pairs += text.heads * sum(start_pos + query + 1 for query in queries)
    work = Counts(tiny_bundle).work("text_decoder", rows, start_pos)
    assert work.macs == {"fp32": eager_macs(module, *inputs) + 2 * pairs * text.head_dim}
    silu = (rows * (text.layers - 1) + 1) * text.mlp_width
    assert work.vector_operations == EXP_OPERATIONS * (pairs + silu)
    assert work.cache_bytes == 2 * text.layers * (start_pos + rows) * text.kv_heads * text.head_dim * 4


def test_the_scan_is_counted_by_its_definition(tiny_bundle: Bundle, eager: VideoGPT) -> None:
    """exp(Δ·A)·h + (Δ·u)·B and the sum with C: four multiplications and an exponential a state, both directions."""
    network, video = eager.video_encoder, TINY.video
    assert isinstance(network, VideoMamba)
    length = 1 + video.frames * video.patches
    states = 2 * video.depth * length * video.d_inner * video.d_state
    elements = states // video.d_state
    expected = states * (4 + EXP_OPERATIONS) + elements * (3 + 2 * EXP_OPERATIONS)  # softplus and the gate's SiLU
    expected += elements * EXP_OPERATIONS  # the convolution's SiLU
    assert Counts(tiny_bundle).work("video_encoder").vector_operations == expected


def test_weights_are_the_checkpoints(tiny_bundle: Bundle, eager: VideoGPT) -> None:
    counts = Counts(tiny_bundle)
    for stage in (*contract.ENCODER_STAGES, "text_decoder"):
        network = eager.language_model if stage == "text_decoder" else getattr(eager, stage)
        parameters = sum(p.numel() for p in network.parameters()) * 4
        work = counts.work(stage)
        # Besides: class tokens and positions are in it; pooling matrices and rotary rows are no parameters.
        assert work.weight_bytes == pytest.approx(parameters, rel=0.01, abs=3000), stage
        assert work.weight_bytes <= tiny_bundle.manifest.files[tiny_bundle.manifest.stages[stage].file].bytes
    assert counts.work("token_embedding", 7).weight_bytes == 7 * TINY.text.hidden_size * 4


@pytest.fixture(scope="module")
def source() -> Source:
    """One layer each that runs: lowering takes time by the layer."""
    text, clip = dataclasses.replace(TINY.text, layers=1), dataclasses.replace(TINY.clip, layers=2)
    return Source("one layer", "none", random_model(dataclasses.replace(TINY, text=text, clip=clip)), None)


@pytest.mark.parametrize(
    ("recipe", "stages", "kinds"),
    [
        ("mobile", ["token_embedding", "text_decoder"], {"fp32", "8da8w", "8da4w-32"}),
        ("mobile", ["image_projector"], {"fp32", "8da8w"}),
        ("fp16", ["image_encoder"], {"fp32", "16a16w"}),
    ],
)
def test_recipes_change_arithmetic_and_bytes_only(
    recipe: str, stages: list[str], kinds: set[str], source: Source, tmp_path: Path
) -> None:
    geometry, stage = source.model.config.geometry(), stages[-1]

    def plan(name: str) -> Plan:
        path = tmp_path / f"{name}.pte"
        quick = dataclasses.replace(RECIPES[name], calibrated=False)  # weights take as many bytes, however rounded
        export_unit(source, stages, geometry, "xnnpack", quick, "fused", path)
        return read_plans(path)[stage]

    whole, packed = (count(stage, plan(name), geometry, 3, 40) for name in ("fp32", recipe))
    assert set(packed.macs) == kinds
    assert packed.macs.total() == whole.macs.total()
    assert packed.vector_operations == whole.vector_operations
    assert packed.cache_bytes * 2 == whole.cache_bytes
    bits = {"fp32": 16 if recipe == "fp16" else 32, "16a16w": 16, "8da8w": 8, "8da4w-32": 4}
    numbers = {kind: size * 8 // bits[kind] for kind, size in packed.weights.items()}
    if stage == "image_projector":  # its depthwise convolution stays float32
        assert sum(numbers.values()) * 4 == whole.weights["fp32"]
    elif stage == "text_decoder":  # and the ones that sums of squares are multiplied by
        assert sum(numbers.values()) * 4 == whole.weights["fp32"]
        assert packed.weight_bytes < whole.weight_bytes / 5
    else:  # float16 that is multiplied in float32 is widened at load; the row of the means is float32
        row = 4 * TINY.clip.width
        assert packed.widened_bytes + row == packed.weights["fp32"]
        assert (packed.weights.total() - row) * 2 == whole.weights["fp32"] - row


def test_a_floor_is_the_larger_of_computing_and_reading(tiny_bundle: Bundle) -> None:
    device = phone("Apple A16")
    work = Counts(tiny_bundle).work("image_encoder")
    computing, reading = seconds(work, device)
    pipes = 2 * 4 * 4 * 3.46e9  # cores, pipes, lanes, clock
    assert computing == pytest.approx((work.macs["fp32"] + work.vector_operations) / pipes)
    assert reading == pytest.approx(work.bytes_read / 51.2e9)
    found = estimate(tiny_bundle, device)
    by_stage = {row.stage: row for row in found.stages}
    encoder = by_stage["image_encoder"]
    assert encoder.floor_ms == pytest.approx(tiny_bundle.geometry.num_frames * max(computing, reading) * 1e3)
    assert encoder.calls == tiny_bundle.geometry.num_frames
    heads = found.headlines
    assert heads["first_time_to_first_token_ms"] > heads["stream_time_to_first_token_ms"]
    assert heads["stream_time_to_first_token_ms"] > heads["follow_up_time_to_first_token_ms"]
    short, full = (value for name, value in heads.items() if name.startswith("decode"))
    assert short > full
    assert all(metrics.metric(name) for name in heads)


def test_every_phone_has_sources_and_sane_figures() -> None:
    table = json.loads(PHONES.read_text())
    known = phones()
    assert 10 <= len(known) <= 16
    titles = [title.lower() for device, names in known for title in (device.name, *names)]
    assert len(titles) == len(set(titles))
    for soc, (device, _) in zip(table["socs"], known, strict=True):
        assert len(soc["source"]) > 40
        assert 20e9 < device.bandwidth < 100e9
        assert 1 <= device.threads <= 8
        assert 50e9 < device.rate("fp32") < 600e9
        assert device.rate("8da8w") == device.rate("8da4w-32") == 8 * device.rate("fp32") == 4 * device.rate("16a16w")
        assert all(1.5 < core["ghz"] < 5 for core in soc["cores"])
    used = {core["core"] for soc in table["socs"] for core in soc["cores"]}
    assert used == set(table["cores"])
    assert all(core["source"] and core["pipes"] in (2, 4, 6) for core in table["cores"].values())


def test_names_and_threads() -> None:
    assert phone("pixel 9") == phone("Tensor-G4") == phone(" tensor_g4 ")
    one, both = (phone("Apple A15", n).rate("fp32") for n in (1, 2))
    assert both == 2 * one
    assert phone("Snapdragon 8 Gen 3", 1).rate("fp32") == pytest.approx(4 * 4 * 3.3e9)  # the prime core
    with pytest.raises(MvgptError, match="1 … 2 threads"):
        phone("Apple A15", 3)


def test_what_cannot_be_counted_is_an_error(tiny_bundle: Bundle) -> None:
    plans = read_plans(tiny_bundle.path("video_encoder"))
    plan, graphs = plans["video_encoder"].plan, plans["video_encoder"].graphs
    chain = plan["chains"][0]

    def changed(**changes: object) -> Plan:
        return Plan({**plan, **changes}, graphs)

    loop = {"instr_args_type": "JumpFalseCall", "instr_args": {}}
    unknown = [{"name": "aten::bmm", "overload": "out"}] * len(plan["operators"])
    cases = {
        "a loop[\\s\\S]*--kernels fused": changed(chains=[{**chain, "instructions": [*chain["instructions"], loop]}]),
        "aten::bmm.out": changed(operators=unknown),
        "not XNNPACK's": Plan(plan, tuple(None for _ in graphs)),
    }
    for message, method in cases.items():
        with pytest.raises(MvgptError, match=message):
            count("video_encoder", method, tiny_bundle.geometry)
    stages = {n: s.model_copy(update={"backend": "coreml"}) for n, s in tiny_bundle.manifest.stages.items()}
    other = tiny_bundle.manifest.model_copy(update={"stages": stages})
    with pytest.raises(MvgptError, match=r"expected: xnnpack\n  got: coreml"):
        Counts(Bundle(tiny_bundle.folder, other))


def test_the_command_line(tiny_bundle: Bundle, tmp_path: Path) -> None:
    text = run("estimate", tiny_bundle.folder, "--device", "pixel 9")
    assert text.returncode == 0, text.stderr
    assert all(name in text.stdout for name in (*contract.ENCODER_STAGES, "Tensor G4", "no device reaches", "≥", "≤"))
    result = run("estimate", tiny_bundle.folder, "--device", "iphone 16", "--json", "--threads", 1)
    parts = json.loads(result.stdout)
    assert parts["label"] == LABEL
    assert parts["device"]["name"] == "Apple A18"
    assert parts["device"]["threads"] == 1
    assert parts["headlines"] == estimate(tiny_bundle, phone("Apple A18", 1)).headlines
    one = Counts(tiny_bundle).work("image_encoder").macs["fp32"]
    assert parts["stages"][0]["work"]["macs"] == {"fp32": one * tiny_bundle.geometry.num_frames}
    table = run("estimate", tiny_bundle.folder, "--device", "list")
    assert all(device.name in table.stdout for device, _ in phones())
    listed = json.loads(run("estimate", tiny_bundle.folder, "--device", "list", "--json").stdout)
    assert [entry["name"] for entry in listed] == [device.name for device, _ in phones()]
    assert "Snapdragon 8 Elite" in refused("estimate", tiny_bundle.folder, "--device", "nokia 3310")
    bare = tmp_path / "bare"
    shutil.copytree(tiny_bundle.folder, bare)
    manifest = json.loads((bare / "manifest.json").read_text())
    del manifest["files"][manifest.pop("tokenizer")]
    (bare / "manifest.json").write_text(json.dumps({**manifest, "tokenizer": None}))
    assert "no tokenizer" in refused("estimate", bare, "--device", "pixel 9")


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured, as soon as it can be."""
    for name, value in {"BUFFER_BYTES": 1 << 26, "ROUNDS": 2, "RATE_BUDGET_S": 0.05, "TIME_BUDGET_S": 0.05}.items():
        monkeypatch.setattr(limits, name, value)
    monkeypatch.setattr(limits, "SHAPES", limits.SHAPES[:1])
    monkeypatch.setattr(cli, "_quiet_imports", lambda: None)  # for the rest of the process


@pytest.mark.usefixtures("hurried")
def test_here(tiny_bundle: Bundle) -> None:
    options = [str(tiny_bundle.folder), "--device", "here", "--threads", "1"]
    result = CliRunner().invoke(cli.app, ["estimate", *options, "--json"])
    assert result.exit_code == 0, result.output
    parts = json.loads(result.stdout)
    assert [row["stage"] for row in parts["stages"]] == [*contract.STAGE_NAMES, "text_decoder"]
    assert parts["device"]["name"] == "here"
    assert set(parts["device"]["macs_per_s"]) == {"fp32"}
    for row in parts["stages"]:
        assert row["measured_over_floor"] == pytest.approx(row["measured_ms"] / row["floor_ms"])
        # Rates and times are of other moments on a machine that others share.
        assert row["measured_over_floor"] > 0.3, row["stage"]
    text = CliRunner().invoke(cli.app, ["estimate", *options]).stdout
    assert all(name in text for name in (*contract.STAGE_NAMES, "× limit", "prefill, 16 rows at 240"))


@pytest.mark.usefixtures("hurried")
def test_measured_rates_are_rates() -> None:
    """numpy's own product is the same order of magnitude as XNNPACK's, and memory is slower than 1 TB/s."""
    a = np.ones((1024, 1024), np.float32)
    start = time.perf_counter()
    for _ in range(5):
        a @ a
    blas = 5 * 1024**3 / (time.perf_counter() - start)
    assert blas / 20 < limits.Layer("fp32", 896, 4864).rate() < blas * 20
    assert 1e9 < limits.read_bandwidth(1) < 1e12


def test_work_adds_up() -> None:
    one = Work(macs=Counter(fp32=3), weight_bytes=5, cache_bytes=7)
    assert (one + one).macs == {"fp32": 6}
    assert (one + one).bytes_read == 2 * one.bytes_read == 24
