"""Damaged input of every kind: what is not understood is refused with an `MvgptError`; nothing crashes, nothing hangs.

The default suite runs a few cases of each kind, `make fuzz` over ten thousand, always the same ones.
"""

from __future__ import annotations

import json
import re
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import clips
import fuzz_targets
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mutations import damaged_bytes, damaged_json
from mvgpt_export.checkpoint import save_checkpoint
from mvgpt_export.models.video_gpt import VideoGPT
from mvgpt_runtime import contract
from mvgpt_runtime.goldens import write_goldens
from mvgpt_runtime.manifest import Bundle
from sandbox import Sandbox, Target

Open = Callable[..., Sandbox]


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Open]:
    opened: list[Sandbox] = []

    def make(target: Callable[..., Target], *args: object) -> Sandbox:
        opened.append(Sandbox(target, tmp_path, *args))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def cases(few: int, many: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("count", [few, pytest.param(many, marks=[pytest.mark.slow, pytest.mark.timeout(0)])])


def fuzz(what: str, valid: object, damaged: st.SearchStrategy[Any], sandbox: Sandbox, count: int) -> None:
    """`count` damaged cases; the valid one is accepted."""
    assert sandbox(valid) == "accepted"
    outcomes: Counter[str] = Counter()
    started = time.perf_counter()

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(damaged)
    def run(case: object) -> None:
        outcomes[sandbox(case)] += 1

    run()
    assert outcomes["refused"] > count / 10, outcomes
    print(f"{what}: {outcomes.total()} cases, {dict(outcomes)}, {time.perf_counter() - started:.0f} s")


@cases(60, 3000)
def test_manifests(tiny_bundle: Bundle, sandbox: Open, count: int) -> None:
    valid = (tiny_bundle.folder / contract.MANIFEST_NAME).read_bytes()
    run = sandbox(fuzz_targets.bundle, tiny_bundle.folder)
    fuzz("manifests", valid, damaged_json(json.loads(valid)), run, count)


@cases(60, 3000)
def test_tokenizers(tiny_bundle: Bundle, sandbox: Open, count: int) -> None:
    valid = (tiny_bundle.folder / contract.TOKENIZER_NAME).read_bytes()
    run = sandbox(fuzz_targets.tokenizer, tiny_bundle.folder)
    fuzz("tokenizers", valid, damaged_json(json.loads(valid)), run, count)


_PIECES = ["<|im_end|>", "<|im_start|>system\n", "<|endoftext|>", "{question}", "\0", "\ud800", "\udcff", "\ufffe"]
_PIECES += ["\u202e", "e" + "\u0301" * 50, "👩\u200d👩\u200d👧", "\U0010ffff", "\r\n", " ", "\t", "a", "1", "!", "北"]


@st.composite
def questions(draw: st.DrawFn) -> str:
    """Any code points, lone surrogates too, and pieces that mean something to somebody; one in ten is long."""
    text = st.text(st.characters(exclude_categories=()), max_size=40)
    parts = draw(st.lists(st.sampled_from(_PIECES) | text, max_size=6))
    repeat = draw(st.sampled_from([1] * 36 + [100, 1_000, 10_000, 100_000]))
    return ("".join(parts) * repeat)[: 1 << 20]


@cases(60, 2000)
def test_questions(tiny_bundle: Bundle, sandbox: Open, count: int) -> None:
    fuzz("questions", "What?", questions(), sandbox(fuzz_targets.question, tiny_bundle.folder), count)


def test_a_megabyte_of_question(tiny_bundle: Bundle, sandbox: Open) -> None:
    ask = sandbox(fuzz_targets.question, tiny_bundle.folder)
    for piece in ("a", " ", "\n", "a ", "\u0301", "<|im_end|>", "🎬", "\0"):
        assert ask(piece * ((1 << 20) // len(piece.encode()))) == "refused"


@cases(60, 1500)
def test_golden_vectors(tiny_bundle: Bundle, tmp_path: Path, sandbox: Open, count: int) -> None:
    """The manifest, arrays (.npy) and tables, each with its right hash."""
    folder = tmp_path / "vectors"
    write_goldens(tiny_bundle, folder)
    files = {p.name: p.read_bytes() for p in sorted(folder.iterdir())}
    listed = files.pop(contract.VECTORS_NAME)
    damaged = [
        damaged_bytes(data, [0, 6, 8, data.index(b"\n")]).map(lambda bad, name=name: (name, bad))
        for name, data in files.items()
    ]
    manifests = damaged_json(json.loads(listed)).map(lambda bad: (contract.VECTORS_NAME, bad))
    run = sandbox(fuzz_targets.golden_vectors, tiny_bundle.folder, folder)
    fuzz("golden vectors", (contract.VECTORS_NAME, listed), manifests | st.one_of(damaged), run, count)


# --- Videos -----------------------------------------------------------------------------------------------------------

_X265 = ("-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-x265-params", "log-level=error")
_VP9 = ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-g", "15")
_FORMATS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "h264, index first": ("mp4", clips.H264, ("-g", "15", "-bf", "2", "-movflags", "+faststart")),
    "h264, index last": ("mp4", clips.H264, ("-g", "15", "-bf", "2")),
    "h264, fragmented": ("mp4", clips.H264, ("-g", "15", "-movflags", "frag_keyframe+empty_moov")),
    "h264, mkv": ("mkv", clips.H264, ("-g", "15", "-bf", "2")),
    "h265, mp4": ("mp4", _X265, ("-g", "15")),
    "mpeg4, mp4": ("mp4", ("-c:v", "mpeg4", "-q:v", "2", "-g", "15", "-bf", "2"), ()),
    "mjpeg, mov": ("mov", ("-c:v", "mjpeg", "-q:v", "8", "-pix_fmt", "yuvj420p"), ()),
    "vp9, webm": ("webm", _VP9, ()),
}
_CONTAINERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"mvex", b"moof", b"traf", b"dinf")
_SAMPLE_TABLES = (b"stts", b"ctts", b"stss", b"stsc", b"stsz", b"stco", b"elst", b"mdhd", b"tkhd", b"mvhd", b"trun")


def boxes(data: bytes, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, int, bytes]]:
    """(start, length, kind) of every box of an MP4 or MOV file, containers before what is in them."""
    stop = len(data) if stop is None else stop
    while start + 8 <= stop:
        length, kind = struct.unpack_from(">I4s", data, start)
        assert 8 <= length <= stop - start
        yield start, length, kind
        if kind in _CONTAINERS:
            yield from boxes(data, start + 8, start + length)
        start += length


def elements(data: bytes) -> list[int]:
    """Where the larger elements of a Matroska file may begin; a few are coincidences, which does no harm."""
    return [
        m.start() for m in re.finditer(rb"\x1a\x45\xdf\xa3|[\x18\x15\x16\x1f\x1c\x12][\x4d\x49\x54\x43\x53]..", data)
    ]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("videos")
    files = {}
    for name, (ending, codec, options) in _FORMATS.items():
        path = folder / f"clip.{ending}"
        files[name] = clips.draw(path, 40, codec=codec, options=options).read_bytes()
    return files


def damaged_videos(name: str, data: bytes) -> st.SearchStrategy[bytes]:
    places = [at for at, _, _ in boxes(data)] if _FORMATS[name][0] in ("mp4", "mov") else [0, *elements(data)]
    return damaged_bytes(data, places)


@cases(80, 4000)
def test_videos(videos: dict[str, bytes], sandbox: Open, count: int) -> None:
    run = sandbox(fuzz_targets.video)
    for name, data in videos.items():
        assert run(data) == "accepted", name
    damaged = st.one_of([damaged_videos(name, data) for name, data in videos.items()])
    fuzz("videos", videos["h265, mp4"], damaged, run, count)


@pytest.mark.parametrize(
    "name",
    ["h264, index first", *(pytest.param(n, marks=pytest.mark.slow) for n in _FORMATS if n != "h264, index first")],
)
def test_videos_cut_at_every_box(videos: dict[str, bytes], sandbox: Open, name: str) -> None:
    """Before a box, inside its header, after it, and in the middle of it; then with every box's length made a lie."""
    data, run = videos[name], sandbox(fuzz_targets.video)
    if _FORMATS[name][0] in ("mp4", "mov"):
        found = list(boxes(data))
        cuts = {at + offset for at, length, _ in found for offset in (0, 4, 8, 12, length // 2, length - 1)}
        lies = [
            data[:at] + value.to_bytes(4, "big") + data[at + 4 :]
            for at, length, _ in found
            for value in (0, 1, 7, 8, length - 1, length + 1, 0x7FFFFFFF, 0xFFFFFFFF)
        ]
    else:
        cuts = {at + offset for at in elements(data) for offset in (0, 1, 4, 5, 12)}
        lies = []
    results = [run(data[:cut]) for cut in sorted(cuts) if cut < len(data)]
    assert "accepted" not in results or not name.endswith(("mp4", "index first"))
    results += [run(lie) for lie in lies]
    print(f"{name}, cut and lied about: {len(results)} cases, {dict(Counter(results))}")


# --- Checkpoints ------------------------------------------------------------------------------------------------------


@cases(40, 1000)
def test_checkpoints(eager: VideoGPT, tmp_path: Path, sandbox: Open, count: int) -> None:
    folder = tmp_path / "checkpoint"
    save_checkpoint(eager, folder)
    config = (folder / "config.json").read_bytes()
    weights = (folder / "model.safetensors").read_bytes()
    (size,) = struct.unpack_from("<Q", weights)
    header, rest = json.loads(weights[8 : 8 + size]), weights[8 + size :]

    def with_header(text: bytes) -> bytes:
        return struct.pack("<Q", len(text)) + text + rest

    damaged = st.one_of(
        damaged_json(json.loads(config)).map(lambda text: ("config.json", text)),
        damaged_json(header).map(lambda text: ("model.safetensors", with_header(text))),
        damaged_bytes(weights, [0, 8, 8 + size]).map(lambda data: ("model.safetensors", data)),
    )
    fuzz("checkpoints", ("config.json", config), damaged, sandbox(fuzz_targets.checkpoint, folder), count)
