"""The frames a clip is sampled at."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mvgpt_runtime.errors import MvgptError
from mvgpt_runtime.video import sample_indices


@pytest.mark.parametrize(
    ("num_frames", "fps", "expected"),
    [
        (120, 30.0, list(range(0, 106, 7))),
        (1000, 25.0, [0, 50, 125, 175, 250, 325, 375, 450, 500, 575, 650, 700, 775, 825, 900, 975]),
        (1, 30.0, [0]),
        (5, 30.0, [0, 1, 2, 3, 4]),
        (16, 30.0, list(range(16))),
        (17, 30.0, list(range(16))),
        (31, 30.0, list(range(0, 31, 2))),
        (16, 1.0, list(range(16))),  # one per second gives sixteen already
        (40, 0.4, [0, 2, 5, 7, 10, 13, 15, 18, 20, 23, 26, 28, 31, 33, 36, 39]),  # round(fps) is 0: every frame
        (80, 2.5, [0, 4, 10, 14, 20, 26, 30, 36, 40, 46, 52, 56, 62, 66, 72, 78]),  # 2.5 rounds to the even 2
    ],
)
def test_known_answers(num_frames: int, fps: float, expected: list[int]) -> None:
    assert sample_indices(num_frames, fps) == expected


@pytest.mark.parametrize(
    ("start_s", "end_s", "expected"),
    [
        (2.0, None, [60 + 3 * i for i in range(16)]),
        (None, 1.0, [2 * i for i in range(16)]),
        (1.0, 1.0, [30]),
        (1.0, 1.2, [30, 31, 32, 33, 34, 35, 36]),
        (0.0, 99.0, [7 * i for i in range(16)]),
        (0.0, 1e308, [7 * i for i in range(16)]),
        (3.99, None, [119]),
    ],
)
def test_a_part_of_a_clip(start_s: float | None, end_s: float | None, expected: list[int]) -> None:
    assert sample_indices(120, 30.0, start_s, end_s) == expected


@pytest.mark.parametrize(
    "arguments",
    [
        (0, 30.0),
        (-1, 30.0),
        (9, 0.0),
        (9, -25.0),
        (9, math.nan),
        (9, math.inf),
        (9, 30.0, 0.3),  # frame 9 of 9
        (9, 30.0, 1e308),
        (9, 30.0, -0.1),
        (9, 30.0, math.nan),
        (9, 30.0, None, math.nan),
        (9, 30.0, None, math.inf),
        (9, 30.0, None, -1.0),
        (9, 30.0, 0.2, 0.1),
        (9, 30.0, None, None, 0),
    ],
)
def test_impossible_requests(arguments: tuple[int, float]) -> None:
    with pytest.raises(MvgptError) as caught:
        sample_indices(*arguments)
    assert caught.value.stage == "video"
    assert caught.value.expected is not None
    assert caught.value.got is not None


def _restated(num_frames: int, fps: float, start: float | None, end: float | None, most: int) -> list[int]:
    """The rule in the order the specification tells it, one frame after the other."""
    first = 0 if start is None else int(start * fps)
    last = num_frames - 1 if end is None else min(int(end * fps), num_frames - 1)
    stride = max(1, round(fps))
    found: list[int] = []
    while first + len(found) * stride <= last:
        found.append(first + len(found) * stride)
    if len(found) > most:
        step = (len(found) - 1) / max(1, most - 1)
        chosen = [found[math.floor(i * step)] for i in range(most)]
        return chosen[:-1] + found[-1:] if most > 1 else chosen
    if len(found) == most:
        return found
    count = min(most, last - first + 1)
    stride = max(1, (last - first) // (count - 1)) if count > 1 else 1
    return [first + i * stride for i in range(count)]


@given(
    num_frames=st.integers(1, 20_000),
    fps=st.one_of(
        st.floats(0.1, 240), st.sampled_from([0.5, 1.5, 2.5, 23.976, 24000 / 1001, 25.0, 30000 / 1001, 60.0])
    ),
    start=st.one_of(st.none(), st.floats(0, 1)),
    length=st.one_of(st.none(), st.floats(0, 1.5)),
    most=st.sampled_from([16, 16, 8, 1, 2, 64]),
)
@settings(max_examples=300, deadline=None)
def test_sampling_properties(num_frames: int, fps: float, start: float | None, length: float | None, most: int) -> None:
    duration = num_frames / fps
    start_s = None if start is None else start * duration
    end_s = None if length is None else (start_s or 0) + length * duration
    if start_s is not None and int(start_s * fps) >= num_frames:
        with pytest.raises(MvgptError):
            sample_indices(num_frames, fps, start_s, end_s, most)
        return
    indices = sample_indices(num_frames, fps, start_s, end_s, most)
    assert indices == _restated(num_frames, fps, start_s, end_s, most)
    assert 1 <= len(indices) <= most
    assert indices[0] >= 0
    assert indices[-1] < num_frames
    assert (np.diff(indices) > 0).all()
    assert all(type(i) is int for i in indices)
