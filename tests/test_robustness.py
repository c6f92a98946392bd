"""What holds when things go wrong around it: changed files, kill -9, hundreds of questions, cancelling."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mvgpt_runtime import MvgptError, Session, contract, folders
from mvgpt_runtime.engines import executorch
from mvgpt_runtime.errors import Cancelled
from mvgpt_runtime.manifest import Bundle

# --- Files that are not what the manifest says ------------------------------------------------------------------------


@pytest.fixture
def copy(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle.folder, tmp_path / "bundle"))


@pytest.fixture
def no_executorch(monkeypatch: pytest.MonkeyPatch) -> None:
    def reached() -> None:
        raise AssertionError("ExecuTorch was reached")

    monkeypatch.setattr(executorch, "_runtime", reached)


@pytest.mark.usefixtures("no_executorch")
@pytest.mark.parametrize("unit", sorted({s.unit for s in contract.STAGES}))
def test_a_damaged_program_never_reaches_executorch(copy: Path, unit: str) -> None:
    """One bit at the first, the last and random bytes; a byte less, a byte more, none at all."""
    path = copy / f"{unit}.pte"
    good = path.read_bytes()
    rng = random.Random(unit)
    offsets = [0, len(good) - 1, *(rng.randrange(len(good)) for _ in range(6))]
    flipped = [good[:at] + bytes([good[at] ^ 1 << rng.randrange(8)]) + good[at + 1 :] for at in offsets]
    for bad in [*flipped, good[:-1], good + b"\0", b"", good[::-1]]:
        path.write_bytes(bad)
        with pytest.raises(MvgptError, match=rf"{unit}\.pte has another (size|sha256)"):
            Session(copy)
    path.write_bytes(good)
    with pytest.raises(AssertionError, match="was reached"):
        Session(copy)


@pytest.mark.parametrize("how", ["written to", "replaced", "removed"])
def test_a_program_changed_after_its_check(copy: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Stages are loaded when they are needed: the file may have become another one since the session began."""
    session = Session(copy)
    session.engine.load("frame_scorer")
    path, other = copy / "image_projector.pte", copy / "other"
    good = path.read_bytes()
    if how == "written to":
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    elif how == "replaced":
        other.write_bytes(good)
        other.replace(path)
    else:
        path.unlink()
    monkeypatch.setattr(session.engine._runtime, "_load_program", None)  # type: ignore[attr-defined]
    with pytest.raises(MvgptError, match=r"image_projector\.pte was changed while the bundle was open"):
        session.engine.load("image_projector")
    session.engine.load("frame_scorer")  # what was loaded stays


@pytest.mark.parametrize("name", [contract.MANIFEST_NAME, "slm.pte", contract.TOKENIZER_NAME])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(copy: Path, name: str) -> None:
    (copy / name).unlink()
    os.mkfifo(copy / name)
    with pytest.raises(MvgptError):
        Bundle.open(copy)


def test_a_file_name_that_no_file_can_have(copy: Path) -> None:
    path = copy / contract.MANIFEST_NAME
    path.write_text(path.read_text().replace("slm.pte", "slm." + "x" * 300))
    with pytest.raises(MvgptError, match="cannot be read"):
        Bundle.open(copy)


# --- kill -9 ----------------------------------------------------------------------------------------------------------

# Replaces the folder OUTPUT by a new one, over and over; each holds its number in two files.
_REPLACE = """
import itertools, pathlib, sys
from mvgpt_runtime.folders import folder_in_the_making
for i in itertools.count():
    with folder_in_the_making(pathlib.Path(sys.argv[1])) as folder:
        (folder / "first").write_text(str(i))
        (folder / "last").write_text(str(i))
"""


def _kill(process: subprocess.Popen[bytes]) -> None:
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL


def test_a_folder_is_replaced_in_one_step(tmp_path: Path) -> None:
    """Killed at 20 random moments of writing, exchanging and removing: one whole folder stands under the name."""
    rng, place = random.Random(0), tmp_path / "bundle"
    for _ in range(20):
        process = subprocess.Popen([sys.executable, "-c", _REPLACE, str(place)])
        deadline = time.monotonic() + 60
        before = place.stat().st_ino if place.exists() else None
        while not place.exists() or place.stat().st_ino == before:
            assert time.monotonic() < deadline
            assert process.poll() is None
        # Without a pause the file system would be asked all the time; a replacement takes a millisecond or less.
        time.sleep(rng.uniform(0, 0.01))
        _kill(process)
        assert (place / "first").read_text() == (place / "last").read_text()
        assert len(list(tmp_path.iterdir())) <= 2, "what the one before left was not removed"


def test_where_folders_cannot_be_exchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An older C library, or a file system that cannot: two renames."""
    monkeypatch.setattr(folders.ctypes, "CDLL", lambda *args, **options: object())
    place = tmp_path / "bundle"
    for text in ("old", "new"):
        with folders.folder_in_the_making(place) as folder:
            (folder / "file").write_text(text)
        assert (place / "file").read_text() == text
        assert list(tmp_path.iterdir()) == [place]


def test_leftovers_are_removed_and_running_exports_are_not(tmp_path: Path) -> None:
    place = tmp_path / "b[un]dle"
    stale, other = tmp_path / ".b[un]dle.partial-abcdefgh", tmp_path / ".bundle.partial-abcdefgh"
    for folder in (stale, other):
        folder.mkdir()
        (folder / "slm.pte").write_bytes(b"half")
    with folders.folder_in_the_making(place) as running:
        assert not stale.exists()
        assert other.exists(), "another bundle's"
        with folders.folder_in_the_making(place) as second:
            assert running.exists()
            (second / "by").write_text("second")
        assert (place / "by").read_text() == "second"
        (running / "by").write_text("first")
    assert (place / "by").read_text() == "first"


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for place in (tmp_path / "file" / "bundle", tmp_path / ("x" * 250), tmp_path / ("slm." + "x" * 300)):
        with pytest.raises(MvgptError, match="cannot write"), folders.folder_in_the_making(place):
            pass
    with pytest.raises(MvgptError, match="cannot write"):
        folders.check_output(place, "bundle", lambda folder: False)


def test_only_a_disk_s_errors_are_the_output_s(tmp_path: Path) -> None:
    """What the block reads may fail, too: that is not said of the output. Either way nothing is left."""
    with pytest.raises(MvgptError, match="cannot write"), folders.folder_in_the_making(tmp_path / "full"):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(FileNotFoundError), folders.folder_in_the_making(tmp_path / "other"):
        (tmp_path / "shard.safetensors").read_bytes()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_an_export_killed_at_any_moment(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """20 random moments of an export: no folder that loads, or, where one is replaced, the old one."""
    rng = random.Random(0)
    command = [sys.executable, "-m", "mvgpt_export", "export", "tiny", "-o", str(tmp_path / "new")]
    started = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    whole = time.monotonic() - started
    shutil.rmtree(tmp_path / "new")
    old = Path(shutil.copytree(tiny_bundle.folder, tmp_path / "old"))
    moments = sorted(rng.uniform(0, whole) for _ in range(20))
    for i, moment in enumerate(moments):
        place = old if i % 2 else tmp_path / "new"
        command[-1] = str(place)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(moment)
        if process.poll() is None:
            _kill(process)
        elif place != old:  # it was faster this time
            shutil.rmtree(place)
        for folder in tmp_path.iterdir():
            if folder == old:
                Bundle.open(folder)
            else:
                assert folder.name.startswith("."), "a new folder under its name"
                with pytest.raises(MvgptError, match=r"no manifest\.json"):
                    Bundle.open(folder)
    print(f"exports killed after {', '.join(f'{m:.1f}' for m in moments)} of {whole:.1f} s")


# --- One process, for long --------------------------------------------------------------------------------------------

# 40 questions to warm up, a video for every eight, then 300; prints the resident set size after each 20.
_ASK = """
import itertools, pathlib, random, sys
from mvgpt_runtime import Session
session, clip, rng = Session(sys.argv[1]), sys.argv[2], random.Random(0)
def resident():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096
for i in range(340):
    if i % (8 if i < 40 else 25) == 0:
        session.load_video(clip, start_s=i / 100)
    follow_up = i % 3 == 2
    answer = session.ask(f"Question {i}: " + "why? " * rng.randrange(20), keep_history=follow_up,
                         max_new_tokens=rng.randrange(1, 6), temperature=rng.choice([0, 1]), seed=i)
    for n, token in enumerate(answer):
        if i % 7 == 3 and n == 1:
            session.cancel()
        if i % 11 == 5:
            break
    if i >= 39 and i % 20 == 19:
        print(resident(), flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_300_questions_need_no_more_memory(tiny_bundle: Bundle, sample_clip: Path) -> None:
    command = [sys.executable, "-c", _ASK, str(tiny_bundle.folder), str(sample_clip)]
    sizes = [int(line) for line in subprocess.check_output(command, text=True).split()]
    growth = statistics.median(sizes[-5:]) / sizes[0] - 1  # loading a video takes a few megabytes for a moment
    print(f"resident: {sizes[0] / 1e6:.1f} MB after 40 questions, then {growth:+.2%}")
    assert len(sizes) == 16
    assert growth < 0.02, sizes


# --- Cancelling -------------------------------------------------------------------------------------------------------


@contextmanager
def _cancelling(session: Session) -> Iterator[list[float]]:
    """Cancels from another thread every 20 ms; the value is when it first did."""
    done, times = threading.Event(), []

    def cancel() -> None:
        while not done.wait(0.02):
            times.append(time.monotonic())
            session.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    try:
        yield times
    finally:
        done.set()
        thread.join()


def test_cancel_from_another_thread(tiny_bundle: Bundle, sample_clip: Path) -> None:
    """While it loads a video, and in an answer that nothing else ends before the KV cache is full."""
    endless = tiny_bundle.manifest.model_copy(update={"stop_ids": ()})
    session = Session(Bundle(tiny_bundle.folder, endless))
    session.load_video(sample_clip)
    for _ in range(3):
        answer = session.ask("Go on?", max_new_tokens=10**9, repetition_penalty=1000.0)
        with _cancelling(session) as times:
            list(answer)
        assert answer.finish_reason == "cancelled"
        assert time.monotonic() - times[0] < 2
    for _ in range(3):
        with _cancelling(session) as times, pytest.raises(Cancelled):
            session.load_video(sample_clip)
        assert time.monotonic() - times[0] < 2
        assert session.video is None
