"""The embedded default's weights: true answers about three drawn clips, and about clips that training never saw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mvgpt_runtime import Session
from mvgpt_runtime.evaluation.cases import drawn_cases
from mvgpt_runtime.evaluation.score import evaluate
from mvgpt_runtime.manifest import Bundle
from mvgpt_runtime.synthetic import TYPES

ASSETS = Path(__file__).parent.parent / "assets"
# Of what the scenes of tools/make_drawn_clips.py ask; the model card counts the mistakes on others.
ANSWERS = {
    "flash": {
        "What flashes up?": "a yellow square",
        "Which shape flashes up?": "square",
        "In which half does something flash up, the first or the second?": "second",
        "What colour is the circle?": "blue",
        "What shape is the green object: circle, cross, triangle or star?": "triangle",
        "Do you see a blue triangle?": "no",
        "Is there a green triangle?": "yes",
    },
    "motion": {
        "Which way does the yellow square move?": "down",
        "Which colour does the triangle have: green, red, purple or yellow?": "green",
        "Which one is faster, the yellow square or the green triangle?": "the yellow square",
        "Which moves slower, the yellow square or the green triangle?": "the green triangle",
        "In which direction does the triangle go: down, right, left or up?": "left",
        "Does the white object move down or up?": "down",
        "Is the white circle slow or fast?": "slow",
    },
    "still": {
        "What shape is the red object?": "star",
        "Count the objects: three, four, one or two?": "one",
        "Are there more than two objects?": "no",
    },
}


@pytest.fixture(scope="module")
def session(trained_bundle: Bundle) -> Session:
    return Session(trained_bundle)


@pytest.mark.parametrize("clip", ANSWERS)
def test_true_answers(session: Session, clip: str) -> None:
    session.load_video(ASSETS / f"{clip}.mp4")
    answers = {question: session.ask(question) for question in ANSWERS[clip]}
    assert {question: "".join(map(str, answer)) for question, answer in answers.items()} == ANSWERS[clip]
    assert {answer.finish_reason for answer in answers.values()} == {"stop"}


def test_it_sees_what_it_answers(session: Session) -> None:
    """In every type of question 30 points better than without the clip, and 97% in all."""
    seeing, blind = (evaluate(session, drawn_cases(1, 60, session.bundle.geometry), blind=b) for b in (False, True))
    assert seeing.total.accuracy > 0.97
    for kind in TYPES:
        assert seeing.types[kind].accuracy > blind.types[kind].accuracy + 0.3, kind


def test_three_backends_generate_the_same_tokens(session: Session, onnx_bundle: Bundle, coreml_bundle: Bundle) -> None:
    """Greedily in fp32, on clips that training never saw: three implementations that share no arithmetic."""
    others = {bundle.manifest.backends: Session(bundle) for bundle in (onnx_bundle, coreml_bundle)}
    asked = 0
    for case in drawn_cases(2, 3, session.bundle.geometry):
        assert isinstance(case.video, np.ndarray)
        for one in (session, *others.values()):
            one.load_frames(case.video)
        for item in case.items:
            expected, *got = (
                [token.id for token in one.ask(item.question, temperature=0)] for one in (session, *others.values())
            )
            assert dict(zip(others, got, strict=True)) == dict.fromkeys(others, expected), item.question
            asked += 1
    assert asked > 15
