"""Bundles: what export leaves behind, and every way in which one is refused."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mvgpt_export import bundle as export
from mvgpt_export.backends import LoweredMethod, LoweredUnit
from mvgpt_export.config import NAMED_CONFIGS
from mvgpt_export.quant import Recipe
from mvgpt_export.sources import Source
from mvgpt_runtime import MvgptError, Session, contract
from mvgpt_runtime.contract import Geometry
from mvgpt_runtime.engines import open_engine
from mvgpt_runtime.manifest import Bundle, Manifest, read_manifest

Json = dict[str, Any]


@pytest.fixture
def copy(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle to damage."""
    return Path(shutil.copytree(tiny_bundle.folder, tmp_path / "bundle"))


def edit_manifest(folder: Path, change: Callable[[Json], object]) -> None:
    path = folder / contract.MANIFEST_NAME
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(MvgptError) as caught:
        Session(folder)
    for word in words:
        assert word in str(caught.value)


def test_contents(tiny_bundle: Bundle) -> None:
    units = {f"{stage.unit}.pte" for stage in contract.STAGES}
    assert {p.name for p in tiny_bundle.folder.iterdir()} == units | {contract.MANIFEST_NAME, contract.TOKENIZER_NAME}
    manifest = tiny_bundle.manifest
    assert tuple(manifest.stages) == contract.STAGE_NAMES
    assert manifest.source.checkpoint == "random:tiny"
    assert manifest.source.weights.keys() == {
        name for name in contract.STAGE_NAMES if "encoder" in name or "proj" in name
    } | {"language_model"}
    assert manifest.verified is not None
    assert manifest.verified.inputs == ("seeded", "clip")
    assert min(manifest.verified.sqnr_db[name] for name in contract.STAGE_NAMES) > 100
    assert manifest.verified.argmax_agreement == 1
    assert manifest.tools["executorch"] == "1.5.1"
    assert manifest.stop_ids == (manifest.special_ids["<|im_end|>"], manifest.special_ids["<|endoftext|>"])
    assert manifest.memory.low_memory < manifest.memory.all_loaded
    assert read_manifest(tiny_bundle.folder) == manifest


def test_nothing_is_left_beside_the_bundle(tiny_bundle: Bundle) -> None:
    assert [p.name for p in tiny_bundle.folder.parent.iterdir()] == [tiny_bundle.folder.name]


def test_stages_are_where_the_contract_says(tiny_bundle: Bundle) -> None:
    """Every program has the shapes and dtypes of the contract, and says whose it is."""
    from executorch.extension.pybindings import portable_lib

    for stage in contract.STAGES:
        program = portable_lib._load_program(str(tiny_bundle.path(stage.name)))
        stamp = json.loads(program.load_method(contract.METADATA_METHOD)([])[0])
        assert stamp["contract_version"] == contract.CONTRACT_VERSION
        assert stage.name in stamp["stages"]
        assert stamp["geometry"] == tiny_bundle.manifest.geometry
        meta = program.method_meta(stage.name)
        sizes = [tuple(meta.input_tensor_meta(i).sizes()) for i in range(meta.num_inputs())]
        assert sizes == [tuple(most for _, most in t.shape(tiny_bundle.geometry)) for t in stage.inputs]
        assert meta.num_outputs() == len(stage.outputs)


@pytest.mark.parametrize("unit", ["image_encoder.pte", "slm.pte", contract.TOKENIZER_NAME])
def test_a_flipped_byte(copy: Path, unit: str) -> None:
    data = bytearray((copy / unit).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / unit).write_bytes(data)
    refused(copy, unit, "sha256")


def test_a_missing_file(copy: Path) -> None:
    (copy / "video_encoder.pte").unlink()
    refused(copy, "missing", "video_encoder.pte")


def test_a_short_file(copy: Path) -> None:
    data = (copy / "slm.pte").read_bytes()
    (copy / "slm.pte").write_bytes(data[:-1])
    refused(copy, "slm.pte", f"{len(data)} bytes", f"{len(data) - 1} bytes")


@pytest.mark.parametrize("key", ["contract_version", "schema_version"])
def test_another_version(copy: Path, key: str) -> None:
    edit_manifest(copy, lambda m: m.update({key: 99}))
    refused(copy, key, "99", "export the checkpoint again")


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a//b", "a/./b", "a/../../b", "a/", "a\\b", "..", "", "C:x", "x\0"]
)
def test_a_file_name_that_leaves_the_folder(copy: Path, name: str) -> None:
    def change(m: Json) -> None:
        m["files"][name] = m["files"].pop("slm.pte")
        for stage in ("token_embedding", "text_decoder"):
            m["stages"][stage]["file"] = name

    edit_manifest(copy, change)
    refused(copy, "leaves the bundle folder")


CHANGES: dict[str, Callable[[Json], object]] = {
    "no such stage": lambda m: m["stages"].pop("frame_scorer"),
    "stages out of order": lambda m: m.update(stages=dict(reversed(m["stages"].items()))),
    "an unlisted file": lambda m: m["files"].pop("slm.pte"),
    "a file of no stage": lambda m: m["files"].update(extra=m["files"]["slm.pte"]),
    "no geometry": lambda m: m.pop("geometry"),
    "a size missing": lambda m: m["geometry"].pop("image_size"),
    "a size too many": lambda m: m["geometry"].update(depth=3),
    "a size that is text": lambda m: m["geometry"].update(image_size="64"),
    "chunks that do not divide": lambda m: m["geometry"].update(chunk_frames=7),
    "no chunk at all": lambda m: m["geometry"].update(chunk_frames=0),
    "a video that does not fit": lambda m: m["geometry"].update(max_context=100),
    "an unknown field": lambda m: m.update(surprise=1),
    "a prompt without a question": lambda m: m["prompt"].update(suffix="x"),
    "an answer that never ends": lambda m: m.update(stop_ids=[]),
    "a stage in another unit's file": lambda m: m["stages"]["token_embedding"].update(file="frame_scorer.pte"),
    "a package without a file": lambda m: m["stages"]["text_decoder"].update(file="slm.pte/Data"),
    "a tokenizer that is not listed": lambda m: m["files"].pop(contract.TOKENIZER_NAME),
    "a bad hash": lambda m: m["files"]["slm.pte"].update(sha256="0"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_manifest_that_contradicts_itself(copy: Path, change: Callable[[Json], object]) -> None:
    edit_manifest(copy, change)
    refused(copy, "manifest is malformed")


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "null", '{"schema_version": 1, "contract_version": 1}', "\ud800", "[" * 9999]
)
def test_a_manifest_that_is_none(copy: Path, text: str) -> None:
    (copy / contract.MANIFEST_NAME).write_bytes(text.encode("utf-8", "surrogatepass"))
    refused(copy, "bundle:")


def test_no_bundle(tmp_path: Path) -> None:
    refused(tmp_path, "no manifest.json")
    refused(tmp_path / "none", "no such bundle folder")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_mutated_manifest_is_read_or_refused(tiny_bundle: Bundle, tmp_path: Path, data: st.DataObject) -> None:
    """Any value anywhere replaced by any JSON: never another exception."""
    manifest = json.loads(tiny_bundle.manifest.model_dump_json())
    node, key = manifest, data.draw(st.sampled_from(sorted(manifest)))
    while isinstance(node[key], dict) and node[key] and data.draw(st.booleans()):
        node, key = node[key], data.draw(st.sampled_from(sorted(node[key])))
    leaf = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    node[key] = data.draw(
        st.recursive(leaf, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=3), x), max_leaves=4)
    )
    (tmp_path / contract.MANIFEST_NAME).write_text(json.dumps(manifest))
    with contextlib.suppress(MvgptError):
        assert isinstance(read_manifest(tmp_path), Manifest)


def test_a_program_of_another_bundle(copy: Path, tiny_bundle: Bundle) -> None:
    """Its bytes match the manifest, its stamp does not."""
    edit_manifest(copy, lambda m: m["geometry"].update(max_context=tiny_bundle.geometry.max_context + 64))
    with pytest.raises(MvgptError, match="was exported for another bundle"):
        open_engine(Bundle.open(copy)).load("frame_scorer")


def test_an_operator_this_runtime_lacks(copy: Path) -> None:
    edit_manifest(copy, lambda m: m["files"]["frame_scorer.pte"]["operators"].append("other::kernel.out"))
    with pytest.raises(MvgptError, match=r"lacks operators[\s\S]*other::kernel\.out"):
        open_engine(Bundle.open(copy)).load("frame_scorer")


def test_a_backend_this_runtime_lacks(copy: Path) -> None:
    edit_manifest(copy, lambda m: m["stages"]["text_decoder"].update(backend="npu"))
    refused(copy, "no engine", "npu")


def test_a_bundle_that_fails_verification_is_not_written(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reuse(
        source: Source,
        stages: list[str],
        geometry: Geometry,
        backend: str,
        recipe: Recipe,
        kernels: str,
        path: Path,
        report: object,
    ) -> LoweredUnit:
        """The session's lowered programs: lowering again takes most of a minute."""
        shutil.copy(tiny_bundle.folder / path.name, path)
        infos = {name: tiny_bundle.manifest.stages[name] for name in stages}
        return LoweredUnit({n: LoweredMethod(i.delegates, i.undelegated) for n, i in infos.items()}, 0)

    monkeypatch.setattr(export, "export_unit", reuse)
    assert export.export_bundle("random:tiny", tmp_path / "good").manifest.verified == tiny_bundle.manifest.verified
    config = NAMED_CONFIGS["tiny"]
    other = dataclasses.replace(config, scorer=dataclasses.replace(config.scorer, largest=False))
    monkeypatch.setitem(NAMED_CONFIGS, "tiny", other)
    with pytest.raises(MvgptError, match="frame_scorer"):
        export.export_bundle("random:tiny", tmp_path / "bad")
    assert [p.name for p in tmp_path.iterdir()] == ["good"]
    with pytest.raises(MvgptError, match="frame_scorer"):
        export.export_bundle("random:tiny", tmp_path / "good")
    Bundle.open(tmp_path / "good")  # the bundle that was there is whole
    assert export.export_bundle("random:tiny", tmp_path / "bad", verify=False).manifest.verified is None
    assert Bundle.open(tmp_path / "bad").manifest.verified is None


def test_an_output_that_is_no_bundle_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(MvgptError, match="is no bundle"):
        export.export_bundle("random:tiny", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_bad_options(tmp_path: Path) -> None:
    for options in ({"backend": "npu"}, {"recipe": "int3"}, {"max_context": 328}):
        with pytest.raises(MvgptError):
            export.export_bundle("random:tiny", tmp_path / "bundle", **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_an_interrupted_export_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C while it writes programs; for kill -9 see test_robustness.py."""
    command = [sys.executable, "-m", "mvgpt_export", "export", "tiny", "-o", str(tmp_path / "bundle")]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # a runner in the background may have Ctrl-C ignored, and children would inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob(".bundle.partial-*/image_encoder.pte")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(30) != 0
    finally:
        process.kill()
    assert not list(tmp_path.iterdir())
