"""Asking a bundle every question of every clip, and counting right answers with confidence intervals."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from ..session import Session
from .cases import Case, Item

MAX_NEW_TOKENS = 24
Z = 1.959964  # a normal distribution's 97.5 % quantile: intervals hold 95 %


@dataclass
class Score:
    correct: int = 0
    questions: int = 0
    chances: list[float] = field(default_factory=list)

    def add(self, right: bool, item: Item) -> None:
        self.correct += right
        self.questions += 1
        if item.chance is not None:
            self.chances.append(item.chance)

    @property
    def accuracy(self) -> float:
        return self.correct / self.questions

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval, 95 % (Wilson 1927, J. Am. Stat. Assoc. 22): also near 0 and 1, unlike the normal."""
        n, p = self.questions, self.accuracy
        middle = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
        reach = Z / (1 + Z * Z / n) * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
        low, high = middle - reach, middle + reach
        return low if self.correct else 0.0, high if self.correct < n else 1.0  # which rounding would miss

    @property
    def chance(self) -> float | None:
        """Accuracy of answers that are drawn from the possible ones without seeing the clips."""
        return sum(self.chances) / len(self.chances) if len(self.chances) == self.questions else None

    def as_dict(self) -> dict[str, object]:
        return {
            "accuracy": self.accuracy,
            "interval": list(self.interval),
            "correct": self.correct,
            "questions": self.questions,
            "chance": self.chance,
        }


@dataclass
class Evaluation:
    """`wrong`: (question, right answer, given answer) of every wrong one, in order."""

    clips: int = 0
    total: Score = field(default_factory=Score)
    types: dict[str, Score] = field(default_factory=dict)
    wrong: list[tuple[str, str, str]] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        types = {name: score.as_dict() for name, score in sorted(self.types.items())}
        return {"clips": self.clips, **self.total.as_dict(), "types": types}


def evaluate(
    session: Session,
    cases: Iterable[Case],
    *,
    blind: bool = False,
    progress: Callable[[Evaluation], None] = lambda evaluation: None,
) -> Evaluation:
    """Every question of every clip, decoded greedily; `progress` is called after each clip.

    Args:
        blind: ask about the clip before instead (the first clip's questions are left out): what a model scores that
            knows the questions and does not see their clips.
    """
    evaluation = Evaluation()
    shown = False
    for case in cases:
        if not blind:
            _load(session, case)
        if not blind or shown:
            for item in case.items:
                _ask(session, item, evaluation)
            evaluation.clips += 1
            progress(evaluation)
        if blind:
            _load(session, case)
            shown = True
    return evaluation


def _load(session: Session, case: Case) -> None:
    if isinstance(case.video, np.ndarray):
        session.load_frames(case.video)
    else:
        session.load_video(case.video)


def _ask(session: Session, item: Item, evaluation: Evaluation) -> None:
    answer = session.ask(item.question, max_new_tokens=MAX_NEW_TOKENS, temperature=0, repetition_penalty=1)
    for _ in answer:
        pass
    right = normalised(answer.text) == normalised(item.answer)
    for score in (evaluation.total, evaluation.types.setdefault(item.type, Score())):
        score.add(right, item)
    if not right:
        evaluation.wrong.append((item.question, item.answer, answer.text))


def normalised(text: str) -> str:
    """Words in lower case, without articles and punctuation: "The red circle." is "red circle"."""
    return " ".join(w for w in re.findall(r"\w+", text.lower()) if w not in ("a", "an", "the")) or text.strip().lower()
