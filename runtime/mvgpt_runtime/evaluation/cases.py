"""Clips with questions: drawn ones of a seed, or a folder's videos."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..contract import Geometry
from ..errors import MvgptError
from ..synthetic import ask_about, draw, scene
from ..synthetic.scenes import MAX_SEED

QUESTIONS_NAME = "questions.jsonl"


@dataclass(frozen=True)
class Item:
    """`chance`: share of right answers of who does not see the clip, if known."""

    type: str
    question: str
    answer: str
    chance: float | None = None


@dataclass(frozen=True)
class Case:
    """`video`: a file, or decoded frames uint8 [n, H, W, 3] RGB."""

    video: Path | np.ndarray
    items: list[Item] = field(default_factory=list)


def drawn_cases(seed: int, clips: int, geometry: Geometry) -> Iterator[Case]:
    """Drawn clips 0 … clips − 1 of a seed, which training never used, at the size the bundle's encoders see.

    Raises:
        MvgptError: a seed of training's, or no seed.
    """
    if not 0 <= seed < MAX_SEED or clips < 1:
        raise MvgptError(
            "bad seed or number of clips", stage="eval", expected=f"0 ≤ seed < {MAX_SEED}, ≥ 1 clip", got=(seed, clips)
        )
    for index in range(clips):
        what = scene(seed, index)
        frames = draw(what, geometry.image_size)
        if len(frames) > geometry.num_frames:
            frames = frames[np.linspace(0, len(frames) - 1, geometry.num_frames, dtype=int)]
        yield Case(frames, [Item(q.type, q.text, q.answer, 1 / q.choices) for q in ask_about(what, seed, index)])


def folder_cases(folder: Path) -> list[Case]:
    """A folder's videos with the questions of its questions.jsonl: one JSON object per line with the strings "video" (a
    file in the folder), "question" and "answer", and perhaps "type" and a number "chance".

    Raises:
        MvgptError: no such file, a line that is not so, a video that is not there.
    """
    path = folder / QUESTIONS_NAME
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as e:
        raise MvgptError("cannot read the questions", stage="eval", expected=path, got=e) from None
    cases: dict[str, Case] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, item = _read(line, f"line {number} of {path.name}")
        video = folder / name
        if name not in cases and not video.is_file():
            raise MvgptError("no such video", stage="eval", expected=f"a file in {folder}", got=name)
        cases.setdefault(name, Case(video)).items.append(item)
    if not cases:
        raise MvgptError(f"{path.name} has no questions", stage="eval")
    return list(cases.values())


def _read(line: str, where: str) -> tuple[str, Item]:
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError) as e:
        raise MvgptError(f"{where} is no JSON", stage="eval", got=e) from None
    known = ("video", "question", "answer", "type", "chance")
    if not isinstance(raw, dict) or not {*known[:3]} <= raw.keys() <= {*known}:
        raise MvgptError(
            f"{where} is no question", stage="eval", expected=f"an object with {', '.join(known)}", got=line[:80]
        )
    chance = raw.get("chance")
    texts = [raw[name] for name in known[:3]] + [raw.get("type", "all")]
    if not all(isinstance(t, str) and t.strip() for t in texts) or not isinstance(chance, (int, float, type(None))):
        raise MvgptError(f"{where} has a value that is no text", stage="eval", got=line[:80])
    video, question, answer, kind = texts
    if Path(video).name != video:
        raise MvgptError(f"{where} names a file outside the folder", stage="eval", got=video)
    return video, Item(kind, question, answer, chance)
