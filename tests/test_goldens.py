"""Golden vectors: what is written, and the runtime held to them as apps are, through a reader of its own."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mvgpt_export.quant import RECIPES
from mvgpt_runtime import MvgptError, Session, contract
from mvgpt_runtime.contract import Geometry
from mvgpt_runtime.engines import Engine, open_engine
from mvgpt_runtime.frames import FrameClock
from mvgpt_runtime.generate import chunk_plan
from mvgpt_runtime.goldens import check_goldens, write_goldens
from mvgpt_runtime.goldens.host import host_cases
from mvgpt_runtime.goldens.vectors import write_vectors
from mvgpt_runtime.ingest import video_blocks
from mvgpt_runtime.manifest import Bundle
from mvgpt_runtime.preprocess import resize_clip, resize_video
from mvgpt_runtime.prompt import Prompt, TextStream
from mvgpt_runtime.sampler import Sampler, SamplingOptions
from mvgpt_runtime.stats import Stats
from mvgpt_runtime.video import sample_indices
from tolerances import VECTORS
from vector_reader import assert_equal, cases, make, manifest, numbers, optional, read_tsv, splitmix64, table

COMMITTED = Path(__file__).parent / "goldens" / "vectors"

# --- What is written ---


@pytest.fixture(scope="module")
def vectors(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("goldens") / "vectors"
    write_goldens(tiny_bundle, folder)
    return folder


def test_files(vectors: Path, tiny_bundle: Bundle) -> None:
    listed = manifest(vectors)
    outputs = [output for case in listed["cases"] for output in case["outputs"]]
    assert {p.name for p in vectors.iterdir()} == {o["file"] for o in outputs} | {"vectors.json"}
    for output in outputs:
        data = (vectors / output["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == output["sha256"]
        assert (output["compare"] == "close") == (output["tolerance"] > 0)
    assert len({case["id"] for case in listed["cases"]}) == len(listed["cases"])
    assert sum(p.stat().st_size for p in vectors.iterdir()) <= 2e6
    bundle_manifest = (tiny_bundle.folder / contract.MANIFEST_NAME).read_bytes()
    assert listed["provenance"]["bundle_sha256"] == hashlib.sha256(bundle_manifest).hexdigest()
    assert {case["stage"] for case in listed["cases"]} >= set(contract.STAGE_NAMES)


def test_the_same_bytes_every_time(vectors: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(COMMITTED, again)  # older vectors, which are replaced
    write_goldens(tiny_bundle, again)
    assert {p.name: p.read_bytes() for p in again.iterdir()} == {p.name: p.read_bytes() for p in vectors.iterdir()}


def test_the_committed_part_is_up_to_date(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """The host's part depends on no machine, so apps are tested with it where no bundle is."""
    write_vectors(host_cases(Prompt(tiny_bundle)), tmp_path / "host", {})
    assert manifest(tmp_path / "host")["cases"] == manifest(COMMITTED)["cases"], "run tools/write_host_vectors.py"
    for path in set(COMMITTED.iterdir()) - {COMMITTED / "vectors.json"}:
        assert path.read_bytes() == (tmp_path / "host" / path.name).read_bytes(), path.name
    assert sum(p.stat().st_size for p in COMMITTED.iterdir()) <= 300e3


def test_stages_said_to_be_float32_are() -> None:
    for stage in VECTORS.UNQUANTIZED:
        assert all(recipe.bits(stage) == 32 for recipe in RECIPES.values())


# --- The runtime, held to them: a host's part as committed, the model's as this machine wrote it ---


def test_generator() -> None:
    for row in table(COMMITTED, "splitmix64"):
        draw = splitmix64(int(row["seed"]))
        assert [next(draw) for _ in range(4)] == numbers(row["draws"])
    for case in cases(COMMITTED, "generator"):
        assert_equal(COMMITTED, case["outputs"][0], make(case["inputs"][0]))


def test_sample_indices() -> None:
    for row in table(COMMITTED, "sample_indices"):
        start, end = optional(row["start_s"]), optional(row["end_s"])
        got = sample_indices(int(row["num_frames"]), float(row["fps"]), start, end, int(row["max_frames"]))
        assert got == numbers(row["indices"])


def test_frame_clock() -> None:
    for row in table(COMMITTED, "frame_clock"):
        clock = FrameClock()
        times = map(float, row["timestamps_s"].split())
        assert [i for i, time in enumerate(times) if clock.takes(time)] == numbers(row["taken"])


@pytest.mark.parametrize("resize", [resize_clip, resize_video])
def test_resizes(resize: Callable[[np.ndarray, int], np.ndarray]) -> None:
    for case in cases(COMMITTED, resize.__name__):
        (output,) = case["outputs"]
        assert_equal(COMMITTED, output, resize(make(case["inputs"][0])[0], output["shape"][0]))


@pytest.fixture(scope="module")
def engine(tiny_bundle: Bundle) -> Engine:
    return open_engine(tiny_bundle)


def test_every_stage_alone(vectors: Path, engine: Engine) -> None:
    """In the order of the file: the text_decoder's cases go on from each other."""
    for case in manifest(vectors)["cases"]:
        if case["stage"] in contract.STAGE_NAMES:
            outputs = engine.run(case["stage"], [make(i) for i in case["inputs"]])
            for output, got in zip(case["outputs"], outputs, strict=True):
                assert_equal(vectors, output, got)


def test_prompt(tiny_bundle: Bundle) -> None:
    prompt = Prompt(tiny_bundle)
    pieces = {"suffix": prompt.suffix_ids, "next_turn": prompt.next_turn_ids}
    rows = table(COMMITTED, "prompt")
    assert numbers(rows[0]["ids"]) == prompt.prefix_ids
    for row in rows[1:]:
        question = json.loads(row["text"]) * int(row["repeat"])
        if row["ids"] == "refused":
            with pytest.raises(MvgptError):
                pieces[row["piece"]](question)
        else:
            assert pieces[row["piece"]](question) == numbers(row["ids"])


def test_text_stream(tiny_bundle: Bundle) -> None:
    for row in table(COMMITTED, "text_stream"):
        stream = TextStream(Prompt(tiny_bundle).tokenizer)
        assert [*map(stream.push, numbers(row["ids"])), stream.finish()] == json.loads(row["pieces"])


def test_chunk_plan(tiny_bundle: Bundle) -> None:
    for row in table(COMMITTED, "chunk_plan"):
        sizes = {name: int(row[name]) for name in ("num_frames", "image_tokens", "video_tokens")}
        chunk_frames = sizes["num_frames"] // int(row["num_chunks"])
        geometry = Geometry(**{**tiny_bundle.manifest.geometry, **sizes, "chunk_frames": chunk_frames})
        blocks = [*video_blocks(int(row["prefix"]), geometry), int(row["question"])]
        plan = chunk_plan(blocks, int(row["prefill_chunk"]))
        assert [f"{start}:{rows}" for start, rows in plan] == row["plan"].split()


def test_sampler() -> None:
    for row in table(COMMITTED, "sampler"):
        vocab, levels = int(row["vocab"]), int(row["levels"])
        draw = splitmix64(int(row["logits_seed"]))
        logits = np.array([((next(draw) >> 33) % levels - levels // 2) / 4 for _ in range(vocab)], np.float32)
        options = SamplingOptions(
            temperature=float(row["temperature"]),
            top_p=float(row["top_p"]),
            top_k=int(row["top_k"]),
            repetition_penalty=float(row["repetition_penalty"]),
            seed=int(row["seed"]),
        )
        sampler = Sampler(options, numbers(row["seen"]))
        assert [sampler(logits) for _ in range(16)] == numbers(row["tokens"])


def test_statistics() -> None:
    for row in table(COMMITTED, "rate"):
        stats = Stats()
        stats.rate("decode_tokens_per_s", float(row["count"]), float(row["ms"]))
        assert stats.values.get("decode_tokens_per_s") == optional(row["per_second"])
    for row in table(COMMITTED, "sum"):
        stats = Stats()
        for value in row["values"].split():
            stats.add("preprocess_ms", float(value))
        assert stats.values["preprocess_ms"] == float(row["total"])


@pytest.mark.parametrize("name", ["whole", "padded"])
def test_pipeline(vectors: Path, tiny_bundle: Bundle, name: str) -> None:
    """As an app runs it: a session, which also shows that the chunk plan is what happens."""
    (case,) = [c for c in cases(vectors, "pipeline") if c["id"] == f"pipeline-{name}"]
    video, question = case["inputs"]
    outputs = {output["name"]: output for output in case["outputs"]}
    session = Session(tiny_bundle)
    calls: list[tuple[int, int]] = []
    run = session.engine.run

    def recording(stage: str, inputs: list[np.ndarray]) -> list[np.ndarray]:
        if stage == "text_decoder":
            calls.append((int(inputs[1][0]), inputs[0].shape[1]))
        return run(stage, inputs)

    session.engine.run = recording  # type: ignore[method-assign, assignment]
    encoded = session.load_frames(make(video))
    for array in ("clip_features", "frame_scores", "video_features", "visual_tokens"):
        assert_equal(vectors, outputs[array], getattr(encoded, array))
    for row, selected in zip(read_tsv(vectors / outputs["selected"]["file"]), encoded.selected, strict=True):
        assert float(row["margin"]) > float(row["tie_below"]), "a tie: another seed would test more"
        assert numbers(row["selected"]) == selected.tolist()

    rows = read_tsv(vectors / outputs["tokens"]["file"])
    assert len(rows) == 32
    assert all(float(row["margin"]) > float(row["tie_below"]) for row in rows)
    tokens = [int(row["token_id"]) for row in rows]
    stops = [i for i, token in enumerate(tokens) if token in tiny_bundle.manifest.stop_ids]
    answer = session.ask(question["text"], max_new_tokens=32)
    list(answer)
    assert answer.token_ids == tokens[: stops[0] if stops else 32]
    plan = [(int(r["start_pos"]), int(r["rows"])) for r in read_tsv(vectors / outputs["prefill"]["file"])]
    assert calls[: len(plan)] == plan


# --- Checking a bundle against vectors ---


def change(folder: Path, file: str, edit: Callable[[bytes], bytes]) -> None:
    """A file as another machine might have written it."""
    data = edit((folder / file).read_bytes())
    old = hashlib.sha256((folder / file).read_bytes()).hexdigest()
    (folder / file).write_bytes(data)
    path = folder / "vectors.json"
    path.write_text(path.read_text().replace(old, hashlib.sha256(data).hexdigest()))


def test_a_pipe_in_place_of_the_manifest_is_not_waited_for(tiny_bundle: Bundle, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / contract.VECTORS_NAME)
    with pytest.raises(MvgptError, match="no golden vectors"):
        check_goldens(tiny_bundle, tmp_path)


def scaled(factor: float) -> Callable[[bytes], bytes]:
    """Every float times `factor`."""

    def edit(data: bytes) -> bytes:
        return data[:128] + (np.frombuffer(data[128:], "<f4") * np.float32(factor)).tobytes()

    return edit


def test_check_names_the_first_difference(vectors: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(vectors, tmp_path / "vectors"))
    seen: list[str] = []
    assert check_goldens(tiny_bundle, copy, seen.append) is None
    assert seen == [case["id"] for case in manifest(copy)["cases"]]

    change(copy, "video_projector-features-video_tokens.npy", scaled(1 + 5e-5))  # another CPU
    assert check_goldens(tiny_bundle, copy) is None
    change(copy, "video_projector-features-video_tokens.npy", scaled(1 + 5e-4))
    change(copy, "image_encoder-frame-clip_features.npy", scaled(float("nan")))
    assert "image_encoder-frame: clip_features: value 0" in str(check_goldens(tiny_bundle, copy))
    change(
        copy,
        "image_encoder-frame-clip_features.npy",
        lambda _: (vectors / "image_encoder-frame-clip_features.npy").read_bytes(),
    )
    assert "video_projector-features: video_tokens" in str(check_goldens(tiny_bundle, copy))
    change(copy, "sampler-rows.tsv", lambda data: data.replace(b"\t0.95\t", b"\t0.94\t"))
    assert "sampler: rows: line 7" in str(check_goldens(tiny_bundle, copy))


def test_check_allows_ties_only(vectors: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(vectors, tmp_path / "vectors"))
    file = "pipeline-whole-tokens.tsv"
    lines = (copy / file).read_text().splitlines()
    step, token, margin, tie_below = lines[3].split("\t")
    for other_margin, fits in ((margin, False), (str(float(tie_below) / 2), True)):
        lines[3] = "\t".join([step, str(int(token) + 1), other_margin, tie_below])
        change(copy, file, lambda _: ("\n".join(lines) + "\n").encode())
        difference = check_goldens(tiny_bundle, copy)
        assert (difference is None) == fits, difference


def test_check_refuses_what_are_no_vectors(vectors: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(MvgptError, match="no golden vectors"):
        check_goldens(tiny_bundle, tmp_path)
    with pytest.raises(MvgptError, match="lack a case"):
        check_goldens(tiny_bundle, COMMITTED)
    copy = Path(shutil.copytree(vectors, tmp_path / "vectors"))
    (copy / "rate-rows.tsv").write_text("count\n")
    with pytest.raises(MvgptError, match=r"rate-rows\.tsv is missing or was changed"):
        check_goldens(tiny_bundle, copy)


def test_command(tiny_bundle: Bundle, tmp_path: Path) -> None:
    def mvgpt(*args: object) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).parent / "mvgpt"), "goldens", str(tiny_bundle.folder), *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    folder = tmp_path / "vectors"
    written = mvgpt("-o", folder, "--json")
    assert written.returncode == 0, written.stderr
    summary = json.loads(written.stdout)
    assert summary["files"] + 1 == len(list(folder.iterdir()))
    assert summary["bytes"] == sum(p.stat().st_size for p in folder.iterdir())
    change(folder, "video_encoder-padding-video_features.npy", scaled(1.1))
    checked = mvgpt("--check", folder)
    assert checked.returncode == 1, checked.stderr
    assert checked.stdout.startswith("video_encoder-padding: video_features: ")
    refused = mvgpt("-o", tiny_bundle.folder)
    assert refused.returncode == 2
    assert "is no folder of golden vectors" in refused.stderr
    assert mvgpt().returncode == 2


@pytest.mark.parametrize("shape", ["(8,(,", "(8,}", "(8, None)", "(-1,)", "(9" + 99 * "9" + ",)", "'a'"])
def test_an_array_whose_header_says_nothing(tiny_bundle: Bundle, vectors: Path, tmp_path: Path, shape: str) -> None:
    """numpy reads a header as a Python expression, and lets errors of doing so through."""
    folder = tmp_path / "vectors"
    shutil.copytree(vectors, folder)
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
    bad = b"\x93NUMPY\x01\x00v\x00" + header.encode().ljust(117)[:117] + b"\n" + bytes(32)
    change(folder, "video_encoder-padding-video_features.npy", lambda _: bad)
    with pytest.raises(MvgptError, match="no array"):
        check_goldens(tiny_bundle, folder)
