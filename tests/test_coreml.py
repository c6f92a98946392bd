"""Bundles of CoreML packages, run by the evaluator: the eager model's answers, and what is refused."""

from __future__ import annotations

import dataclasses
import gc
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import coremltools as ct
import numpy as np
import pytest
import torch
from mvgpt_export.bundle import export_bundle, export_unit
from mvgpt_export.config import NAMED_CONFIGS
from mvgpt_export.coreml_form import call_rows, stateful
from mvgpt_export.half import LARGEST
from mvgpt_export.models.qwen2 import KVCache, rotary_table
from mvgpt_export.models.video_gpt import VideoGPT
from mvgpt_export.parity import check_parity
from mvgpt_export.parity.floors import FLOORS
from mvgpt_export.parity.metrics import distance
from mvgpt_export.quant import RECIPES
from mvgpt_export.sources import open_source
from mvgpt_runtime import Session, contract, video
from mvgpt_runtime.bench.measure import measure
from mvgpt_runtime.engines import zero_inputs
from mvgpt_runtime.engines.compute_units import UNITS_VARIABLE
from mvgpt_runtime.engines.coreml import EIGHT_FRAMES, LAST_ROW, ONE_ROW, CoreMLEngine
from mvgpt_runtime.engines.mil.program import Package, read_package
from mvgpt_runtime.engines.program import read_program
from mvgpt_runtime.errors import MvgptError
from mvgpt_runtime.manifest import Bundle

NETWORK = NAMED_CONFIGS["tiny"]


@pytest.fixture(scope="module")
def bundle(coreml_bundle: Bundle) -> Bundle:
    return coreml_bundle


def test_every_stage_agrees_with_the_eager_model(bundle: Bundle) -> None:
    report = check_parity(bundle.folder)
    assert report.first_failure is None
    assert {row.step for row in report.rows} >= set(contract.STAGE_NAMES)


def test_a_conversation_is_that_of_the_other_backend(bundle: Bundle, trained_bundle: Bundle) -> None:
    answers = []
    for made in (bundle, trained_bundle):
        session = Session(made)
        session.load_video(video.SAMPLE_CLIP)
        for question, kept in (("What happens?", False), ("And then?", True)):
            answer = session.ask(question, max_new_tokens=8, keep_history=kept)
            list(answer)
            answers.append(answer.token_ids)
    assert answers[:2] == answers[2:]
    assert all(answers)


def test_packages_say_what_they_are(bundle: Bundle) -> None:
    stages = bundle.manifest.stages
    assert {name: info.backend for name, info in stages.items() if info.backend != "coreml"} == {
        "video_encoder": "xnnpack"
    }
    for file in {info.file for info in stages.values() if info.backend == "coreml"}:
        spec, _ = read_package(bundle.folder / file)
        held = [name for name, info in stages.items() if info.file == file]
        functions = {f.name: f for f in spec.description.functions} or {held[0]: spec.description}
        assert set(functions) - {name + end for name in held for end in (ONE_ROW, EIGHT_FRAMES)} == set(held)
        for name in held:
            inputs = [feature.name for feature in functions[name].input]
            assert inputs[: len(contract.stage(name).inputs)] == [t.name for t in contract.stage(name).inputs]
            assert [f.name for f in functions[name].output] == [t.name for t in contract.stage(name).outputs]
        assert spec.description.metadata.author
        assert spec.description.metadata.license == bundle.manifest.model.license != ""
        assert spec.description.metadata.versionString == str(contract.CONTRACT_VERSION)


def test_eight_frames_at_once_give_the_features_of_each(bundle: Bundle) -> None:
    """The last one is padding."""
    package = Package(bundle.folder / bundle.manifest.stages["image_encoder"].file)
    shape = package.shape("image_encoder" + EIGHT_FRAMES, "frames")
    assert shape == (8, *package.shape("image_encoder", "frames")[1:])
    frames = np.random.default_rng(0).integers(256, size=shape).astype(np.float32)
    mask = np.arange(8)[::-1].clip(0, 1).astype(np.float32)
    inputs = {"frames": frames, "frame_mask": mask}
    (together,) = package.predict("image_encoder" + EIGHT_FRAMES, inputs).values()
    each = [package.predict("image_encoder", {name: x[i : i + 1] for name, x in inputs.items()}) for i in range(8)]
    expected = np.concatenate([array for outputs in each for array in outputs.values()])
    np.testing.assert_allclose(together, expected, atol=1e-5 * np.abs(expected).max())


def test_opening_a_bundle_does_not_write_to_it(bundle: Bundle) -> None:
    """coremltools' own loader does."""
    Session(bundle).engine.prewarm("image_projector")
    bundle.file(bundle.manifest.stages["image_projector"].file)
    Bundle.open(bundle.folder)


@pytest.mark.parametrize("start", [0, 700])
def test_rows_in_any_pieces_give_the_same_logits(bundle: Bundle, start: int) -> None:
    """More rows than a call takes, a part of a call, one; and the cache's last positions, where padding hangs over."""
    geometry = bundle.geometry
    rows = np.random.default_rng(0).standard_normal((1, geometry.max_context - start, geometry.hidden_size), np.float32)
    rows = rows[:, : 2 * call_rows(geometry) + 3] if start == 0 else rows[:, -(call_rows(geometry) + 2) :]
    first = start if start == 0 else geometry.max_context - rows.shape[1]
    engine = Session(bundle).engine

    def run(pieces: list[int]) -> np.ndarray:
        at, logits = 0, np.empty(0)
        for count in pieces:
            start_pos = np.array([first + at], np.int64)
            (logits,) = engine.run("text_decoder", [rows[:, at : at + count], start_pos])
            at += count
        assert at == rows.shape[1]
        return logits

    whole = run([rows.shape[1]])
    np.testing.assert_allclose(run([5, *[1] * 3, rows.shape[1] - 8]), whole, atol=1e-4 * np.abs(whole).max())


def test_attention_keeps_clear_of_a_wrong_kernel(bundle: Bundle) -> None:
    """Apple's GPU kernel of products around a softmax, wherever they come from, is wrong from 10 on in the first
    dimension (coremltools #2650)."""
    for file in {info.file for info in bundle.manifest.stages.values() if info.backend == "coreml"}:
        for function in Package(bundle.folder / file)._functions.values():
            for op, _ in function._steps:
                assert op.op_type != "scaled_dot_product_attention"
                assert op.op_type != "softmax" or op.outputs[0].shape[0] < 10
    decoder = Package(bundle.path("text_decoder"))._functions["text_decoder"]
    firsts = {op.outputs[0].shape[0] for op, _ in decoder._steps if op.op_type == "softmax"}
    assert firsts == {NETWORK.text.kv_heads}  # not its query heads, of which the published models have more than 10
    many = SimpleNamespace(config=dataclasses.replace(NETWORK.text, kv_heads=10))
    with pytest.raises(MvgptError, match="wrong with so many key/value heads"):
        stateful(many, NETWORK.geometry(), RECIPES["fp32"])  # type: ignore[arg-type]


class Evaluated:
    """coremltools' model on a Mac, with the evaluator for Apple's runtime."""

    _framework_error = None
    fails = False
    loaded: ClassVar[list[tuple[str | None, str]]] = []
    packages: ClassVar[dict[str, Package]] = {}

    def __init__(self, path: str, *, compute_units: ct.ComputeUnit, function_name: str | None) -> None:
        self.loaded.append((function_name, compute_units.name))
        self.path, self.function = path, function_name or "main"

    def make_state(self) -> Package:
        return Package(Path(self.path))

    def predict(self, inputs: dict[str, np.ndarray], state: Package | None = None) -> dict[str, np.ndarray]:
        if self.fails:
            raise Exception("Unable to compile")  # as coremltools does
        package = state or self.packages.setdefault(self.path, Package(Path(self.path)))
        return package.predict(self.function, inputs)


def test_what_a_mac_is_asked_for(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions, compute units, and one KV cache for both functions of the text decoder."""
    rows = np.random.default_rng(0).standard_normal((1, 5, bundle.geometry.hidden_size), np.float32)

    def answers() -> Iterator[np.ndarray]:
        engine = CoreMLEngine(bundle)
        yield from engine.run("image_projector", zero_inputs("image_projector", bundle.geometry))
        yield from engine.run("text_decoder", [rows[:, :4], np.array([0])])
        yield from engine.run("text_decoder", [rows[:, 4:], np.array([4])])

    expected = list(answers())
    monkeypatch.setattr("mvgpt_runtime.engines.coreml.sys.platform", "darwin")
    monkeypatch.setattr("coremltools.models.MLModel", Evaluated)
    monkeypatch.setattr(Evaluated, "loaded", [])
    monkeypatch.setenv(UNITS_VARIABLE, "cpu_only")
    for got, wanted in zip(answers(), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert Evaluated.loaded == [(name, "CPU_ONLY") for name in (None, "text_decoder", "text_decoder" + ONE_ROW)]
    monkeypatch.setattr(Evaluated, "fails", True)
    with pytest.raises(MvgptError, match="CoreML could not run image_projector") as failed:
        list(answers())
    assert "Unable to compile" in str(failed.value.got)


def test_both_functions_of_a_language_stage_are_warmed(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    original = Package.predict

    def watched(package: Package, name: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        called.append(name)
        return original(package, name, inputs)

    monkeypatch.setattr(Package, "predict", watched)
    CoreMLEngine(bundle).prewarm("text_decoder")
    assert called == ["text_decoder" + ONE_ROW, "text_decoder"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_weight_file_is_opened_once(bundle: Bundle) -> None:
    gc.collect()  # other tests' packages
    folder = Path("/proc/self/fd")
    before = len(list(folder.iterdir()))
    package = Package(bundle.path("image_encoder"))
    assert len(list(folder.iterdir())) - before == 1
    assert package.shape("image_encoder", "frame_mask") == (1,)


def test_compute_units_that_are_none(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(UNITS_VARIABLE, "ane")
    with pytest.raises(MvgptError, match=UNITS_VARIABLE) as refused:
        Session(bundle).engine.load("frame_scorer")
    assert refused.value.got == "ane"
    monkeypatch.setenv(UNITS_VARIABLE, "cpu_only")
    with pytest.raises(MvgptError, match="do not tell compute units apart"):
        measure(bundle)


def test_positions_outside_the_cache_are_refused(bundle: Bundle, trained_bundle: Bundle) -> None:
    """CoreML's states have room for padding behind it."""
    sizes = bundle.geometry
    rows = np.zeros((1, 2, sizes.hidden_size), np.float32)
    for engine in (Session(bundle).engine, Session(trained_bundle).engine):
        for start in (-1, sizes.max_context - 1):
            with pytest.raises(MvgptError, match="not in the KV cache"):
                engine.run("text_decoder", [rows, np.array([start])])


@pytest.mark.parametrize("recipe", [pytest.param("fp16", marks=pytest.mark.slow), "mobile"])
def test_small_recipes(recipe: str, eager: VideoGPT, bundle: Bundle, tmp_path: Path) -> None:
    """The language model with random weights: less to store, and logits as near as the recipe promises."""
    chosen = dataclasses.replace(RECIPES[recipe], calibrated=False)
    made = export_unit(
        open_source("random:tiny"), list(contract.LANGUAGE_STAGES), NETWORK.geometry(), "coreml", chosen, "coreml",
        tmp_path / "slm.mlpackage",
    )  # fmt: skip
    assert set(made.methods) == set(contract.LANGUAGE_STAGES)
    _, weights = read_package(tmp_path / "slm.mlpackage")
    _, full = read_package(bundle.path("text_decoder"))
    share = (weights / "weight.bin").stat().st_size / (full / "weight.bin").stat().st_size
    # Rotary tables, norms and paddings of 64 bytes are small only beside a larger network's linear layers.
    assert share < {"fp16": 0.55, "mobile": 0.3}[recipe]

    ids, package = np.arange(7, 7 + call_rows(bundle.geometry))[np.newaxis], Package(tmp_path / "slm.mlpackage")
    rows = package.predict("token_embedding", {"token_ids": ids.astype(np.int32)})["embeddings"]
    given = {"embeddings": rows.astype(np.float32), "start_pos": np.array([0]), LAST_ROW: np.array([ids.size - 1])}
    got = package.predict("text_decoder", {name: np.asarray(x) for name, x in given.items()})["logits"]
    network = eager.language_model
    with torch.no_grad():
        expected = network.embed_tokens(torch.from_numpy(ids))
        tables, caches = rotary_table(network.config, ids.size), [KVCache() for _ in network.layers]
        logits = network(expected, *tables, caches)
    bits = chosen.bits("text_decoder")
    assert distance(rows, expected.numpy())["sqnr_db"] > FLOORS[chosen.bits("token_embedding")].at(1)  # type: ignore[operator]
    assert distance(got, logits.numpy())["sqnr_db"] > FLOORS[bits].at(network.config.layers)  # type: ignore[operator]
    # As trained models', whose residual stream may pass the end of float16.
    given["embeddings"] = given["embeddings"].copy()
    given["embeddings"][:, :, 3] = 2 * LARGEST
    for function, n in (("text_decoder", ids.size), ("text_decoder" + ONE_ROW, 1)):
        part = {"embeddings": given["embeddings"][:, :n], "start_pos": np.array([0]), LAST_ROW: np.array([n - 1])}
        assert np.isfinite(package.predict(function, part)["logits"]).all()


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle.folder, tmp_path / "copy"))


def test_a_damaged_package_is_refused(copy: Path) -> None:
    path = copy / "slm.mlpackage" / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(MvgptError, match="sha256"):
        Bundle.open(copy)


def test_a_package_that_is_none_is_refused(copy: Path, bundle: Bundle) -> None:
    for content in ("{}", "[", json.dumps({"rootModelIdentifier": "a", "itemInfoEntries": {"a": {"path": "b"}}})):
        (copy / "frame_scorer.mlpackage" / "Manifest.json").write_text(content)
        with pytest.raises(MvgptError, match="cannot be read as a CoreML package"):
            Session(Bundle(copy, bundle.manifest)).engine.load("frame_scorer")


def test_a_package_of_another_export_is_refused(copy: Path, bundle: Bundle) -> None:
    manifest = bundle.manifest.model_copy(update={"geometry": {**bundle.manifest.geometry, "max_context": 999}})
    with pytest.raises(MvgptError, match="exported for another bundle"):
        Session(Bundle(copy, manifest)).engine.load("image_encoder")


def test_a_recipe_that_is_not_offered(tmp_path: Path) -> None:
    with pytest.raises(MvgptError, match="fp32, fp16, mobile") as refused:
        export_bundle("random:tiny", tmp_path / "bundle", backend="coreml", recipe="int8")
    assert refused.value.got == "int8"


# --- CoreML inside ExecuTorch programs --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def delegated(tmp_path_factory: pytest.TempPathFactory, bundle: Bundle) -> Bundle:
    """`bundle` with the small units as programs."""
    folder, geometry = tmp_path_factory.mktemp("delegated"), NETWORK.geometry()
    stages = dict(bundle.manifest.stages)
    for names in (["frame_scorer"], ["image_projector"], ["token_embedding"]):
        path = folder / f"{contract.stage(names[0]).unit}.pte"
        made = export_unit(
            open_source("tiny"), names, geometry, "coreml-delegate", RECIPES["fp32"], "coreml", path
        )  # fmt: skip
        for name, method in made.methods.items():
            assert (method.delegates, method.undelegated) == (1, {})
            stages[name] = stages[name].model_copy(update={"backend": "coreml-delegate", "file": method.file})
    return Bundle(folder, bundle.manifest.model_copy(update={"stages": stages}))


def test_a_delegate_computes_what_the_package_does(bundle: Bundle, delegated: Bundle) -> None:
    rng = np.random.default_rng(0)
    for stage in ("frame_scorer", "image_projector", "token_embedding"):
        (tensor,), ours = contract.stage(stage).inputs, CoreMLEngine(delegated)
        shape = [most for _, most in tensor.shape(bundle.geometry)]
        given = rng.integers(0, 500, shape) if tensor.dtype == "int64" else rng.standard_normal(shape, np.float32)
        for rows in (shape[1], 1) if stage == "token_embedding" else (shape[1],):
            part = given[:, :rows] if stage == "token_embedding" else given
            for got, expected in zip(ours.run(stage, [part]), CoreMLEngine(bundle).run(stage, [part]), strict=True):
                np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_a_unit_of_several_files_is_unloaded_whole(delegated: Bundle) -> None:
    engine = CoreMLEngine(delegated)
    for stage in ("token_embedding", "image_projector"):
        engine.load(stage)
    engine.unload("text_decoder")
    assert [Path(file).name for file in engine._models] == [delegated.manifest.stages["image_projector"].file]


def test_a_program_says_what_it_is(delegated: Bundle) -> None:
    """To an app, by ExecuTorch's own means."""
    import torch  # noqa: F401
    from executorch.extension.pybindings import _C

    path = delegated.path("image_projector")
    (text,) = _C._load_program(str(path)).load_method(contract.METADATA_METHOD)([])
    assert json.loads(text) == contract.stamp(["image_projector"], delegated.geometry)
    graph = read_program(path)["image_projector"]
    assert graph.instructions == ("delegate",)


def test_a_program_without_coreml_is_refused(delegated: Bundle, trained_bundle: Bundle, tmp_path: Path) -> None:
    info = delegated.manifest.stages["image_projector"]
    shutil.copy(trained_bundle.path("image_projector"), tmp_path / info.file)
    with pytest.raises(MvgptError, match="is not one CoreML delegate"):
        CoreMLEngine(Bundle(tmp_path, delegated.manifest)).load("image_projector")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["fp32", "mobile"])
def test_a_whole_bundle_of_delegates(recipe: str, tmp_path: Path, trained_bundle: Bundle) -> None:
    made = export_bundle("tiny", tmp_path / "bundle", backend="coreml-delegate", recipe=recipe)
    assert {info.backend for info in made.manifest.stages.values()} == {"coreml-delegate", "xnnpack"}
    if recipe == "fp32":
        test_a_conversation_is_that_of_the_other_backend(made, trained_bundle)
