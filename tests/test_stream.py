"""Videos whose frames arrive one by one: the same as whole files, to the bit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from clips import draw
from hypothesis import given, settings
from hypothesis import strategies as st
from mvgpt_runtime import Cancelled, MvgptError, Session, contract
from mvgpt_runtime.frames import FrameClock
from mvgpt_runtime.manifest import Bundle
from mvgpt_runtime.video import open_clip, sample_indices

QUESTION = "What happens in this video?"
Calls = list[tuple[int, bytes]]


@pytest.fixture(scope="module")
def session(tiny_bundle: Bundle) -> Session:
    return Session(tiny_bundle)


@pytest.fixture(scope="module")
def low_memory(tiny_bundle: Bundle) -> Session:
    return Session(tiny_bundle, low_memory=True)


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 40, 56, 3), np.uint8)


def stream(session: Session, frames: Sequence[np.ndarray], times: Sequence[float]) -> list[int]:
    """Which of the frames were taken."""
    session.begin()
    taken = [i for i, (frame, time) in enumerate(zip(frames, times, strict=True)) if session.add_frame(frame, time)]
    session.finish()
    return taken


def recorded(session: Session, monkeypatch: pytest.MonkeyPatch, load: Callable[[], object]) -> tuple[Calls, list[int]]:
    """What `load` sends to text_decoder, and then a greedy answer."""
    calls: Calls = []
    run = session.engine.run

    def recording(stage: str, inputs: list[np.ndarray]) -> list[np.ndarray]:
        if stage == "text_decoder":
            calls.append((int(inputs[1][0]), inputs[0].tobytes()))
        return run(stage, inputs)

    monkeypatch.setattr(session.engine, "run", recording)
    load()
    monkeypatch.undo()
    return calls, [token.id for token in session.ask(QUESTION, max_new_tokens=12)]


@pytest.mark.parametrize(("fps", "count"), [(1, 10), (1, 16), (30, 480)])
def test_a_stream_equals_its_file(
    session: Session, low_memory: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fps: int, count: int
) -> None:
    """A clip of up to 16 s, at one frame per second or sampled so: chunks with the same bits, the same tokens."""
    path = draw(tmp_path / "clip.mp4", count, fps=fps)
    clip = open_clip(path, max_frames=count)
    assert clip.num_frames == count
    # a camera's clock: not that of the file, whose times went through float32
    times = [7.5 + i / fps for i in range(count)]
    frames = list(clip.frames()) if fps == 1 else _every_frame(path, count)
    taken: list[int] = []
    calls, tokens = recorded(session, monkeypatch, lambda: session.load_video(path))
    assert session.clip is not None
    sampled = list(session.clip.indices)
    streamed = recorded(session, monkeypatch, lambda: taken.extend(stream(session, frames, times)))
    assert taken == sampled == list(range(0, count, fps))
    assert streamed == (calls, tokens)
    given_frames = [frames[i] for i in sampled]
    assert recorded(session, monkeypatch, lambda: session.load_frames(given_frames)) == streamed
    assert recorded(low_memory, monkeypatch, lambda: stream(low_memory, frames, times)) == streamed
    sizes = session.geometry
    starts = [0, len(session.ask("?").prefix_ids)]
    starts += [starts[1] + (i + 1) * sizes.image_tokens for i in range(sizes.num_frames)]
    assert [position for position, _ in calls] == starts


def _every_frame(path: Path, count: int) -> list[np.ndarray]:
    """Only those that may be taken are decoded, the others are blank."""
    clip = open_clip(path)
    frames = dict(zip(clip.indices, clip.frames(), strict=True))
    return [frames.get(i, np.zeros((48, 64, 3), np.uint8)) for i in range(count)]


def test_frames_are_prefilled_as_they_arrive(session: Session, low_memory: Session) -> None:
    """Or, in low memory, at the end, and never both models in memory."""
    frames, sizes = noise(3), session.geometry
    session.begin()
    start = session._generator.cached
    assert start == len(session._prompt.prefix_ids)  # type: ignore[union-attr]
    for i, frame in enumerate(frames):
        assert session.add_frame(frame, float(i))
        assert session._generator.cached == start + (i + 1) * sizes.image_tokens
    session.finish()
    assert session._generator.cached == start + sizes.visual_tokens

    loaded: set[str] = set(low_memory.engine._methods)  # type: ignore[attr-defined]
    low_memory.begin()
    for i, frame in enumerate(frames):
        low_memory.add_frame(frame, float(i))
        loaded = set(low_memory.engine._methods)  # type: ignore[attr-defined]
        assert loaded == {"image_encoder", "image_projector"}
        assert low_memory._generator.cached == 0
    low_memory.finish()
    assert set(low_memory.engine._methods) == set(contract.LANGUAGE_STAGES)  # type: ignore[attr-defined]
    assert low_memory._generator.cached == start + sizes.visual_tokens


def test_metrics_of_a_stream(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """last_frame_to_ready_ms begins with the last add_frame, which here takes long, and video_ready_ms with begin."""
    import time

    session.begin()
    for i, frame in enumerate(noise(3)):
        prepare = session._ingest._encoder.prepare  # type: ignore[union-attr]
        if i == 2:

            def slow(frame: np.ndarray, prepare: Callable[[np.ndarray], int] = prepare) -> int:
                time.sleep(0.2)
                return prepare(frame)

            monkeypatch.setattr(session._ingest._encoder, "prepare", slow)  # type: ignore[union-attr]
        time.sleep(0.1)
        session.add_frame(frame, float(i))
    session.finish()
    stats = session.video_stats
    assert 200 <= stats["last_frame_to_ready_ms"] <= stats["video_ready_ms"] - 300
    assert "video_decode_ms" not in stats
    assert list(stats) == [name for name in contract.METRICS if name in stats]


def test_a_frame_too_many(session: Session) -> None:
    """Says what to do; done so, the answer is that of the frames before."""
    frames = noise(16)
    session.load_frames(frames)
    reference = [t.id for t in session.ask(QUESTION, max_new_tokens=5)]
    session.begin()
    for i, frame in enumerate(frames):
        session.add_frame(frame, float(i))
    assert not session.add_frame(frames[0], 15.4)
    with pytest.raises(MvgptError, match="too many frames") as caught:
        session.add_frame(frames[0], 16.0)
    assert caught.value.remedy is not None
    assert "begin" in caught.value.remedy
    session.finish()
    assert [t.id for t in session.ask(QUESTION, max_new_tokens=5)] == reference


def test_bad_frames_and_timestamps_do_not_end_a_video(session: Session) -> None:
    frames = noise(2)
    session.load_frames(frames)
    reference = [t.id for t in session.ask(QUESTION, max_new_tokens=5)]
    session.begin()
    with pytest.raises(MvgptError, match="timestamp"):
        session.add_frame(frames[0], math.nan)
    session.add_frame(frames[0], -3.0)
    for time in (-3.0, -4.0, math.inf, math.nan):
        with pytest.raises(MvgptError, match="bad timestamp"):
            session.add_frame(frames[1], time)
    with pytest.raises(MvgptError, match="this is not a frame"):
        session.add_frame(frames[1].astype(np.float32), -2.0)
    session.add_frame(frames[1], -1.0)
    session.finish()
    assert [t.id for t in session.ask(QUESTION, max_new_tokens=5)] == reference


def test_out_of_order(session: Session) -> None:
    """Calls that make no sense say which one is missing."""
    session.load_frames(noise(1))
    session.begin()
    assert session.video is None
    with pytest.raises(MvgptError, match="no video is loaded"):
        session.ask(QUESTION)
    with pytest.raises(MvgptError, match="no frames"):
        session.finish()
    for call in (session.finish, lambda: session.add_frame(noise(1)[0], 0.0)):
        with pytest.raises(MvgptError, match="no video was begun"):
            call()


def test_cancelling_a_stream(session: Session) -> None:
    """Between two frames: the next call stops at its first step, and the stream is over."""
    session.begin()
    session.add_frame(noise(1)[0], 0.0)
    session.cancel()
    with pytest.raises(Cancelled):
        session.add_frame(noise(1)[0], 1.0)
    with pytest.raises(MvgptError, match="no video was begun"):
        session.finish()


# --- Which frames are taken ---


def taken(times: Sequence[float]) -> list[int]:
    clock = FrameClock()
    return [i for i, time in enumerate(times) if clock.takes(time)]


@settings(max_examples=200, deadline=None)
@given(
    fps=st.one_of(st.floats(1, 120), st.sampled_from([1.0, 2.5, 23.976, 24.0, 25.0, 30.0, 30000 / 1001, 60.0])),
    extra=st.floats(0, 0.999),
    origin=st.sampled_from([0.0, 1000.0]),
)
def test_a_steady_stream_is_sampled_like_a_clip(fps: float, extra: float, origin: float) -> None:
    """Of sixteen seconds. (Halfway between two whole rates, which of two frames is nearer to a second is a toss-up.)"""
    if abs(fps % 1 - 0.5) < 1e-3:
        return
    stride = round(fps)
    count = 15 * stride + 1 + int(extra * stride)
    assert taken([origin + i / fps for i in range(count)]) == sample_indices(count, fps)


@pytest.mark.parametrize("count", [1, 29, 30, 31, 450, 451, 480])
def test_thirty_per_second(count: int) -> None:
    """Every thirtieth; a clip's sampling is the same when it has sixteen such frames."""
    times = [i / 30 for i in range(count)]
    assert taken(times) == list(range(0, count, 30))
    assert (taken(times) == sample_indices(count, 30.0)) == (count > 450 or count == 1)


@given(jitter=st.lists(st.floats(-0.016, 0.016), min_size=200, max_size=200))
@settings(max_examples=50, deadline=None)
def test_jitter_makes_no_second_a_frame_longer(jitter: list[float]) -> None:
    """By less than half a frame: a second stays 30 frames, give or take one."""
    gaps = np.diff(taken([i / 30 + delta for i, delta in enumerate(jitter)]))
    assert ((gaps >= 29) & (gaps <= 31)).all()


def test_sparse_frames_are_all_taken() -> None:
    assert taken([0, 0.99, 2.01, 7, 8]) == [0, 1, 2, 3, 4]
    assert taken([0, 0.3, 0.6]) == [0]
