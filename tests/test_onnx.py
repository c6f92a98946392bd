"""Bundles for ONNX Runtime: the same numbers and answers, what is refused, and stages of one bundle on two backends."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from eager import generate
from mvgpt_export import bundle as export
from mvgpt_export.models.video_gpt import VideoGPT
from mvgpt_export.parity.floors import FLOORS
from mvgpt_export.parity.metrics import distance
from mvgpt_export.quant import RECIPES, Recipe, Rule
from mvgpt_export.sources import open_source
from mvgpt_runtime import MvgptError, Session, contract
from mvgpt_runtime.engines import MixedEngine, open_engine
from mvgpt_runtime.engines.onnx import read_operators
from mvgpt_runtime.inspection import show, stage_graphs
from mvgpt_runtime.manifest import Bundle, read_manifest

QUESTION, SECOND = "What happens in this video?", "What flashes up?"


@pytest.fixture(scope="module")
def trained() -> VideoGPT:
    """The model in `onnx_bundle`."""
    return open_source("tiny").model


@pytest.fixture(scope="module")
def session(onnx_bundle: Bundle, sample_clip: Path) -> Session:
    session = Session(onnx_bundle)
    session.load_video(sample_clip)
    return session


@pytest.fixture
def copy(onnx_bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle to damage."""
    return Path(shutil.copytree(onnx_bundle.folder, tmp_path / "bundle"))


def ids(session: Session, question: str, *, keep_history: bool = False) -> list[int]:
    return [token.id for token in session.ask(question, max_new_tokens=12, keep_history=keep_history)]


# --- the bundle -------------------------------------------------------------------------------------------------------


def test_contents(onnx_bundle: Bundle, trained: VideoGPT) -> None:
    """Verified to the floors of fp32; the frame scorer has no weights, the language model two graphs."""
    manifest = onnx_bundle.manifest
    graphs = {f"{unit}.onnx" for unit in contract.UNITS if unit != "slm"}
    data = {f"{unit}.onnx.data" for unit in contract.UNITS if unit != "frame_scorer"}
    language = {"slm.token_embedding.onnx", "slm.text_decoder.onnx"}
    assert manifest.files.keys() == graphs | data | language | {contract.TOKENIZER_NAME}
    assert manifest.backends == ("onnx",)
    assert manifest.kernels == "stock"
    assert manifest.own_operators == []
    assert manifest.verified is not None
    assert min(manifest.verified.sqnr_db[name] for name in contract.STAGE_NAMES) > 100
    assert manifest.verified.argmax_agreement == 1
    assert {"onnx", "onnxscript", "onnxruntime"} <= manifest.tools.keys()
    text = trained.config.text
    cache = 2 * 4 * text.layers * text.kv_heads * text.head_dim * manifest.sizes.max_context
    assert sum(f.planned_bytes for f in manifest.files.values()) == cache
    assert manifest.bytes_of("text_decoder") == sum(manifest.files[f].bytes for f in {*language, "slm.onnx.data"})
    # Embedding and head are one table: another would be more than the rotary tables and paddings.
    weights = 4 * sum(p.numel() for p in trained.language_model.parameters())
    assert manifest.files["slm.onnx.data"].bytes - weights < 4 * text.vocab_size * text.hidden_size


def test_graphs_have_the_contracts_tensors_and_no_paths(onnx_bundle: Bundle) -> None:
    for stage in contract.STAGES:
        path = onnx_bundle.path(stage.name)
        model = onnx.load(str(path), load_external_data=False)
        graph = model.graph
        assert {p.key: p.value for p in model.metadata_props}["license"] == onnx_bundle.manifest.model.license
        for values, tensors in ((graph.input, stage.inputs), (graph.output, stage.outputs)):
            named = [v for v in values if not v.name.startswith(("past_key_values.", "present."))]
            assert [v.name for v in named] == [t.name for t in tensors]
            for value, tensor in zip(named, tensors, strict=True):
                kind = value.type.tensor_type
                assert onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type) == tensor.dtype
                for dim, (least, most) in zip(kind.shape.dim, tensor.shape(onnx_bundle.geometry), strict=True):
                    assert dim.dim_value == most if least == most else dim.dim_param
        assert b"/export/mvgpt_export" not in path.read_bytes()


def test_the_graph_is_the_networks(onnx_bundle: Bundle, trained: VideoGPT, capsys: pytest.CaptureFixture[str]) -> None:
    graphs = stage_graphs(onnx_bundle)
    layers = {name: trained.config.layers(name) for name in contract.STAGE_NAMES}
    assert graphs["text_decoder"].nodes["com.microsoft::GroupQueryAttention"] == layers["text_decoder"]
    # Two a layer, of the last one's queries besides, and the head's.
    assert graphs["text_decoder"].nodes["RMSNormalization"] == 2 * layers["text_decoder"] + 2
    assert graphs["video_encoder"].nodes["Scan"] == 2 * layers["video_encoder"]
    assert graphs["image_encoder"].nodes["Softmax"] == layers["image_encoder"]
    show(onnx_bundle, graph=True, profiled=False, threads=None, as_json=True)
    assert json.loads(capsys.readouterr().out)["graph"]["text_decoder"]["nodes"] == graphs["text_decoder"].nodes
    with pytest.raises(MvgptError, match="only ExecuTorch programs can be profiled"):
        show(onnx_bundle, graph=False, profiled=True, threads=None, as_json=False)


# --- running it -------------------------------------------------------------------------------------------------------


def test_greedy_answers_equal_the_eager_model_and_xnnpack(
    session: Session, trained: VideoGPT, trained_bundle: Bundle, sample_clip: Path
) -> None:
    answer = session.ask(QUESTION, max_new_tokens=24)
    tokens = [token.id for token in answer]
    assert answer.token_ids == generate(trained, session, answer, 24)
    other = Session(trained_bundle)
    other.load_video(sample_clip)
    assert tokens == [token.id for token in other.ask(QUESTION, max_new_tokens=24)]


def test_follow_ups_and_cold_starts(session: Session, onnx_bundle: Bundle, sample_clip: Path) -> None:
    """A follow-up reads the rows of the turn before; a question after it rewinds past them."""
    cold = ids(session, QUESTION)
    follow_up = ids(session, SECOND, keep_history=True)
    assert follow_up != ids(session, SECOND)
    assert ids(session, QUESTION) == cold
    low = Session(onnx_bundle, low_memory=True)
    for _ in range(2):  # the second load drops the language model again
        low.load_video(sample_clip)
        assert ids(low, QUESTION) == cold
        assert ids(low, SECOND, keep_history=True) == follow_up


def test_results_belong_to_the_caller(onnx_bundle: Bundle) -> None:
    engine, hidden = open_engine(onnx_bundle, threads=1), onnx_bundle.geometry.hidden_size
    rows = np.random.default_rng(0).standard_normal((2, 1, 3, hidden)).astype(np.float32)
    (first,) = engine.run("text_decoder", [rows[0], np.array([0])])
    before = first.copy()
    (other,) = engine.run("text_decoder", [rows[1], np.array([0])])
    assert np.array_equal(first, before)
    assert not np.array_equal(first, other)
    (again,) = engine.run("text_decoder", [rows[0], np.array([0])])
    assert np.array_equal(first, again)
    engine.unload("token_embedding")  # the whole unit, its cache too
    engine.prewarm("text_decoder")
    (after,) = engine.run("text_decoder", [rows[0, :, 2:], np.array([2])])
    assert not np.array_equal(first, after)


def test_positions_outside_the_cache_are_refused(onnx_bundle: Bundle) -> None:
    """The operator would write past its end."""
    engine, sizes = open_engine(onnx_bundle), onnx_bundle.geometry
    rows = np.zeros((1, 2, sizes.hidden_size), np.float32)
    for start in (-1, sizes.max_context - 1):
        with pytest.raises(MvgptError, match="not in the KV cache"):
            engine.run("text_decoder", [rows, np.array([start])])
    with pytest.raises(MvgptError, match="wrong input 'embeddings'"):
        engine.run("text_decoder", [rows[..., :-1], np.array([0])])


# --- what is refused --------------------------------------------------------------------------------------------------


def test_a_model_of_another_bundle(copy: Path, onnx_bundle: Bundle) -> None:
    path = copy / contract.MANIFEST_NAME
    manifest = json.loads(path.read_text())
    manifest["geometry"]["max_context"] = onnx_bundle.geometry.max_context + 64
    path.write_text(json.dumps(manifest))
    with pytest.raises(MvgptError, match="was exported for another bundle"):
        open_engine(Bundle.open(copy)).load("frame_scorer")


def test_a_model_of_another_stage(onnx_bundle: Bundle) -> None:
    stages = dict(onnx_bundle.manifest.stages)
    stages["token_embedding"], stages["text_decoder"] = stages["text_decoder"], stages["token_embedding"]
    swapped = Bundle(onnx_bundle.folder, onnx_bundle.manifest.model_copy(update={"stages": stages}))
    with pytest.raises(MvgptError, match="was exported for another bundle"):
        open_engine(swapped).load("text_decoder")


def test_weights_beside_a_graph_are_checked_as_it_is(copy: Path) -> None:
    opened, weights = Bundle.open(copy), copy / "slm.onnx.data"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(MvgptError, match=r"slm\.onnx\.data was changed while the bundle was open"):
        open_engine(opened).load("text_decoder")
    with pytest.raises(MvgptError, match=r"slm\.onnx\.data has another sha256"):
        Bundle.open(copy)
    weights.unlink()
    with pytest.raises(MvgptError, match=r"missing[\s\S]*slm\.onnx\.data"):
        Bundle.open(copy)


def test_a_file_that_is_no_model(copy: Path) -> None:
    (copy / "frame_scorer.onnx").write_text("I am a text file.")
    bundle = Bundle(copy, read_manifest(copy))  # its hash is not asked for
    with pytest.raises(MvgptError, match=r"ONNX Runtime cannot load frame_scorer\.onnx"):
        open_engine(bundle).load("frame_scorer")


def test_without_the_packages(onnx_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MvgptError, match=r"onnxruntime[\s\S]*pip install 'mvgpt\[onnx\]'"):
        open_engine(onnx_bundle)
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(MvgptError, match=r"expected: onnxscript[\s\S]*pip install 'mvgpt\[onnx\]'"):
        export.export_bundle("random:tiny", tmp_path / "bundle", backend="onnx")


def test_kernels_are_xnnpacks(tmp_path: Path) -> None:
    with pytest.raises(MvgptError, match="has no choice of kernels"):
        export.export_bundle("random:tiny", tmp_path / "bundle", backend="onnx", kernels="stock")
    with pytest.raises(MvgptError, match=r"unknown kernels[\s\S]*expected: fused\n"):
        export.export_bundle("random:tiny", tmp_path / "bundle", backend="android", kernels="stock")
    assert not list(tmp_path.iterdir())


# --- two backends in one bundle ---------------------------------------------------------------------------------------


def test_stages_on_two_backends(
    trained_bundle: Bundle, onnx_bundle: Bundle, session: Session, sample_clip: Path, tmp_path: Path
) -> None:
    """The encoders on XNNPACK, the language model on ONNX Runtime, which is not touched before its first stage is."""
    ours = {"slm": onnx_bundle} | {unit: trained_bundle for unit in contract.UNITS if unit != "slm"}
    stages = {s.name: ours[s.unit].manifest.stages[s.name] for s in contract.STAGES}
    files = {
        name: info for unit, b in ours.items() for name, info in b.manifest.files.items() if contract.unit(name) == unit
    }
    files[contract.TOKENIZER_NAME] = trained_bundle.manifest.files[contract.TOKENIZER_NAME]
    for name in files:
        shutil.copy(ours.get(contract.unit(name), trained_bundle).folder / name, tmp_path / name)
    manifest = trained_bundle.manifest.model_copy(update={"backend": "mixed", "stages": stages, "files": files})
    (tmp_path / contract.MANIFEST_NAME).write_text(manifest.model_dump_json())
    mixed = Session(tmp_path)
    assert isinstance(mixed.engine, MixedEngine)
    mixed.engine.load("image_encoder")
    assert mixed.engine._engines.keys() == {"xnnpack"}
    mixed.engine.unload("text_decoder")
    mixed.load_video(sample_clip)
    assert mixed.engine._engines.keys() == {"xnnpack", "onnx"}
    assert ids(mixed, QUESTION) == ids(session, QUESTION)


# --- recipes ----------------------------------------------------------------------------------------------------------

# `mobile`'s, without the calibration that takes most of its time.
NIBBLES = dataclasses.replace(RECIPES["mobile"], calibrated=False)


def lowered(stages: list[str], recipe: Recipe, folder: Path, bundle: Bundle) -> Bundle:
    """A bundle with these stages lowered anew: enough for an engine."""
    source, unit = open_source("random:tiny"), contract.stage(stages[0]).unit
    made = export.export_unit(source, stages, bundle.geometry, "onnx", recipe, "onnx", folder / f"{unit}.onnx")
    assert {m.file for m in made.methods.values()} == {bundle.manifest.stages[name].file for name in stages}
    return Bundle(folder, bundle.manifest)


def test_four_bits(onnx_bundle: Bundle, eager: VideoGPT, tmp_path: Path) -> None:
    """The language model: MatMulNBits and one 8-bit product a layer; embedding and head are one table."""
    bundle = lowered(list(contract.LANGUAGE_STAGES), NIBBLES, tmp_path, onnx_bundle)
    text = eager.config.text
    operators = read_operators(bundle.path("text_decoder"))
    assert operators["com.microsoft::MatMulNBits"] == 5 * text.layers + 1
    assert operators["com.microsoft::DynamicQuantizeMatMul"] == text.layers
    assert "MatMul" not in operators
    assert read_operators(bundle.path("token_embedding")) == {"com.microsoft::GatherBlockQuantized": 1}
    # Half a byte and an eighth for the scales of every weight; what an embedding stored again would add is more than
    # the rest of the file.
    rotary = 2 * 4 * onnx_bundle.geometry.max_context * text.head_dim // 2
    weights = sum(p.numel() for p in eager.language_model.parameters()) * 5 / 8
    size = (tmp_path / "slm.onnx.data").stat().st_size
    assert size - rotary - weights < text.vocab_size * text.hidden_size * 5 / 8
    engine, token_ids = open_engine(bundle), np.arange(7, 31)[np.newaxis]
    (rows,) = engine.run("token_embedding", [token_ids])
    with torch.no_grad():
        expected = eager.language_model.embed_tokens(torch.from_numpy(token_ids))
    assert distance(rows, expected.numpy())["sqnr_db"] > FLOORS[4].sqnr_db  # type: ignore[operator]
    (logits,) = engine.run("text_decoder", [rows, np.array([0])])
    assert distance(logits, reference(eager, rows))["sqnr_db"] > FLOORS[4].at(text.layers)  # type: ignore[operator]


def reference(eager: VideoGPT, rows: np.ndarray) -> np.ndarray:
    """Logits [1, vocab] of the eager model."""
    from mvgpt_export.models.qwen2 import KVCache, rotary_table

    network = eager.language_model
    with torch.no_grad():
        tables = rotary_table(network.config, rows.shape[1])
        return network(torch.from_numpy(rows), *tables, [KVCache() for _ in network.layers]).numpy()


@pytest.mark.parametrize("recipe", ["int8", "fp16"])
def test_a_projector_in_fewer_bits(onnx_bundle: Bundle, eager: VideoGPT, recipe: str, tmp_path: Path) -> None:
    """Seeded features, of any stage with two linear layers."""
    bundle = lowered(["image_projector"], RECIPES[recipe], tmp_path, onnx_bundle)
    size, full = ((b.folder / "image_projector.onnx.data").stat().st_size for b in (bundle, onnx_bundle))
    assert size < {"int8": 0.35, "fp16": 0.6}[recipe] * full
    shape = [most for _, most in contract.stage("image_projector").inputs[0].shape(bundle.geometry)]
    features = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    (got,) = open_engine(bundle).run("image_projector", [features])
    with torch.no_grad():
        expected = eager.image_projector(torch.from_numpy(features)).numpy()
    floor = FLOORS[RECIPES[recipe].bits("image_projector")].at(2)
    assert distance(got, expected)["sqnr_db"] > floor  # type: ignore[operator]


def test_groups_that_do_not_divide(onnx_bundle: Bundle, tmp_path: Path) -> None:
    odd = Recipe((Rule("image_projector", ".*", "8da4w-112"),))
    with pytest.raises(MvgptError, match="multiple of 112 columns"):
        lowered(["image_projector"], odd, tmp_path, onnx_bundle)
