"""`mvgpt eval`: what counts as right, the intervals, key frames by other rules, folders of videos."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mvgpt_runtime.engines import Engine, open_engine
from mvgpt_runtime.errors import MvgptError
from mvgpt_runtime.evaluation.cases import Case, Item, drawn_cases, folder_cases
from mvgpt_runtime.evaluation.score import Score, evaluate, normalised
from mvgpt_runtime.evaluation.selection import SELECTIONS, SelectingEngine, select
from mvgpt_runtime.manifest import Bundle
from mvgpt_runtime.session import Session
from scipy.stats import binomtest
from test_cli import refused, run


class Oracle:
    """In place of a session: says `answers[question]`, and remembers what it was shown and asked."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers, self.shown, self.asked = answers, 0, list[tuple[int, str]]()

    def load_frames(self, frames: np.ndarray) -> None:
        self.shown = int(frames[0, 0, 0, 0])

    def ask(self, question: str, **options: object) -> Answer:
        self.asked.append((self.shown, question))
        return Answer(self.answers[question])


class Answer(SimpleNamespace):
    def __init__(self, text: str) -> None:
        super().__init__(text=text)

    def __iter__(self) -> Iterator[str]:
        return iter(self.text)


CASES = [
    Case(np.full((1, 2, 2, 3), 1, np.uint8), [Item("colour", "a?", "red", 0.5), Item("number", "b?", "two", 0.25)]),
    Case(np.full((1, 2, 2, 3), 2, np.uint8), [Item("colour", "c?", "the blue star", 0.5)]),
]


def test_right_answers_are_counted_by_type() -> None:
    oracle = Oracle({"a?": "Red.", "b?": "three", "c?": "a blue  star"})
    seen = []
    result = evaluate(cast(Session, oracle), CASES, progress=lambda e: seen.append(e.total.questions))
    assert oracle.asked == [(1, "a?"), (1, "b?"), (2, "c?")]
    assert (result.clips, result.total.correct, result.total.questions) == (2, 2, 3)
    assert {name: (s.correct, s.questions) for name, s in result.types.items()} == {"colour": (2, 2), "number": (0, 1)}
    assert result.wrong == [("b?", "two", "three")]
    assert seen == [2, 3]
    values = result.as_dict()
    assert values["accuracy"] == pytest.approx(2 / 3)
    assert values["chance"] == pytest.approx(1.25 / 3)


def test_blind_questions_meet_the_clip_before() -> None:
    oracle = Oracle({"a?": "", "b?": "", "c?": ""})
    result = evaluate(cast(Session, oracle), CASES, blind=True)
    assert oracle.asked == [(1, "c?")]
    assert result.clips == 1


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_intervals_are_wilsons(counts: tuple[int, int]) -> None:
    correct, questions = counts
    ours = Score(correct, questions).interval
    theirs = binomtest(correct, questions).proportion_ci(confidence_level=0.95, method="wilson")
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-6)


@pytest.mark.parametrize(
    ("answer", "same"), [("The red circle.", "red circle"), ("A", "a"), ("B.", "b"), (" up\n", "up"), ("…", "…")]
)
def test_normalised(answer: str, same: str) -> None:
    assert normalised(answer) == normalised(same)
    assert normalised(answer) != normalised("blue")


def test_selections() -> None:
    scores = np.array([3, 1, 5, 2, 2, 9, 0, 4], np.float32)
    attention = np.array([0, 2, 5, 7])
    assert select("attention", scores, attention).tolist() == [0, 2, 5, 7]
    assert select("lowest", scores, attention).tolist() == [1, 3, 4, 6]
    assert select("uniform", scores, attention).tolist() == [1, 3, 5, 7]
    assert select("lowest", np.ones(8, np.float32), attention).tolist() == [0, 1, 2, 3]


def test_the_video_encoder_sees_the_selected_frames(tiny_bundle: Bundle) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (16, 48, 48, 3), dtype=np.uint8)
    key, features = {}, {}
    for selection in SELECTIONS:
        session = Session(tiny_bundle, engine=SelectingEngine(open_engine(tiny_bundle), selection))
        video = session.load_frames(frames)
        key[selection], features[selection] = video.key_frames.tolist(), video.video_features
        order = np.argsort(-video.frame_scores, axis=1, kind="stable")
        if selection == "attention":
            assert sorted(key[selection][:4]) == sorted(order[0, :4].tolist())
        if selection == "lowest":
            assert sorted(key[selection][:4]) == sorted(order[0, 4:].tolist())
    assert key["uniform"] == [1, 3, 5, 7, 9, 11, 13, 15]
    assert not np.array_equal(features["attention"], features["lowest"])


def test_a_selecting_engine_is_an_engine(tiny_bundle: Bundle) -> None:
    engine: Engine = SelectingEngine(open_engine(tiny_bundle), "uniform")
    engine.load("frame_scorer")
    engine.prewarm("frame_scorer")
    engine.unload("frame_scorer")


def test_drawn_cases_are_held_out(tiny_bundle: Bundle) -> None:
    first, second = drawn_cases(0, 2, tiny_bundle.geometry)
    assert isinstance(first.video, np.ndarray)
    assert first.video.shape == (16, 48, 48, 3)
    assert not np.array_equal(first.video, second.video)
    assert all(0 < item.chance <= 0.5 for item in first.items if item.chance is not None)
    for seed, clips in ((-1, 1), (2**32, 1), (0, 0)):  # from 2³² on they are training's
        with pytest.raises(MvgptError, match="bad seed"):
            next(drawn_cases(seed, clips, tiny_bundle.geometry))


LINE = {"video": "clip.mp4", "question": "What?", "answer": "That."}


def test_a_folders_questions(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").touch()
    lines = [LINE, LINE | {"question": "And?", "type": "second", "chance": 0.5}]
    (tmp_path / "questions.jsonl").write_text("\n\n".join(map(json.dumps, lines)))
    (case,) = folder_cases(tmp_path)
    assert case.video == tmp_path / "clip.mp4"
    assert case.items == [Item("all", "What?", "That."), Item("second", "And?", "That.", 0.5)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no questions"),
        ("{", "line 1 .* is no JSON"),
        ("[]", "line 1 .* is no question"),
        (json.dumps(LINE | {"extra": 1}), "is no question"),
        (json.dumps(LINE | {"answer": 3}), "no text"),
        (json.dumps(LINE | {"question": " "}), "no text"),
        (json.dumps(LINE | {"chance": "half"}), "no text"),
        (json.dumps(LINE | {"video": "../clip.mp4"}), "outside the folder"),
        (json.dumps(LINE | {"video": "other.mp4"}), "no such video"),
    ],
)
def test_bad_questions_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "clip.mp4").touch()
    (tmp_path / "questions.jsonl").write_text(text)
    with pytest.raises(MvgptError, match=message):
        folder_cases(tmp_path)


def test_a_folder_without_questions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MvgptError, match="cannot read the questions"):
        folder_cases(tmp_path)


def test_the_command(tiny_bundle: Bundle, sample_clip: Path, tmp_path: Path) -> None:
    result = run("eval", tiny_bundle.folder, "--seed", "5", "--clips", "2", "--json", "--selection", "uniform")
    assert result.returncode == 0, result.stderr
    values = json.loads(result.stdout)
    items = [item for case in drawn_cases(5, 2, tiny_bundle.geometry) for item in case.items]
    assert values["questions"] == len(items)
    assert values["data"] == {"seed": 5, "clips": 2}
    assert values["selection"] == "uniform"
    assert sum(score["questions"] for score in values["types"].values()) == len(items)
    assert 0 <= values["interval"][0] <= values["accuracy"] <= values["interval"][1] <= 1

    (tmp_path / "clip.mp4").symlink_to(sample_clip.resolve())
    (tmp_path / "questions.jsonl").write_text(json.dumps(LINE))
    result = run("eval", tiny_bundle.folder, "--data", tmp_path)
    assert result.returncode == 0, result.stderr
    assert "1 clips" in result.stdout


def test_the_command_refuses(tiny_bundle: Bundle, tmp_path: Path) -> None:
    assert "unknown selection" in refused("eval", tiny_bundle.folder, "--selection", "best")
    assert "bad seed" in refused("eval", tiny_bundle.folder, "--seed", 2**32)
    assert "cannot read the questions" in refused("eval", tiny_bundle.folder, "--data", tmp_path)
    assert "no manifest.json" in refused("eval", tmp_path)
