"""Drawn clips: always the same, answers that hold in the tracks and the pixels, questions that give nothing away."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from mvgpt_runtime.errors import MvgptError
from mvgpt_runtime.synthetic import TYPES, Question, Scene, ask_about, draw, scene
from mvgpt_runtime.synthetic.questions import VERBS
from mvgpt_runtime.synthetic.scenes import COLOURS, FRAMES, KINDS, SHAPES, Object

CLIPS = 3000


@pytest.fixture(scope="module")
def asked() -> list[tuple[Scene, Question]]:
    scenes = [scene(11, i) for i in range(CLIPS)]
    return [(what, question) for i, what in enumerate(scenes) for question in ask_about(what, 11, i)]


def test_the_same_arguments_give_the_same_clip() -> None:
    for index in range(10):
        first, second = (draw(scene(3, index), 48) for _ in range(2))
        assert np.array_equal(first, second)
        assert ask_about(scene(3, index), 3, index) == ask_about(scene(3, index), 3, index)
        assert not np.array_equal(first, draw(scene(4, index), 48))
    assert draw(scene(0, 0), 50).shape == (FRAMES, 50, 50, 3)
    with pytest.raises(MvgptError, match="bad seed"):
        scene(-1, 0)


# --- Answers, worked out again from the question's words and where objects are in which frame ---
def named(what: Scene, words: str) -> list[Object]:
    """Objects that fit every colour and shape among the words."""
    tokens = re.findall(r"\w+", words)
    colours, shapes = (
        set(tokens) & set(COLOURS),
        {s for s in SHAPES if s in tokens or s + "s" in tokens or s + "es" in tokens},
    )
    return [
        o for o in what.objects if (not colours or o.colour in colours) and (not shapes or o.shape in shapes)
    ]  # fmt: skip


def only(objects: list[Object]) -> Object:
    (one,) = objects
    return one


def way(o: Object) -> tuple[float, float]:
    return float(o.x[-1] - o.x[0]), float(o.y[-1] - o.y[0])


def direction(o: Object) -> str:
    dx, dy = way(o)
    return ("right" if dx > 0 else "left") if abs(dx) > abs(dy) else ("down" if dy > 0 else "up")


def behaviour(o: Object, what: Scene) -> str:
    there = np.flatnonzero(o.visible)
    if len(there) < FRAMES:
        return "appears" if there[-1] == FRAMES - 1 else "vanishes"
    if abs(o.radius[-1] / o.radius[0] - 1) > 0.2:
        return "grows" if o.radius[-1] > o.radius[0] else "shrinks"
    if np.hypot(*way(o)) > 0.1:
        if any(np.allclose((o.x[-1], o.y[-1]), (other.x[0], other.y[0])) for other in what.objects):
            return "swaps places"
        return f"moves {direction(o)}"
    return "turns around" if np.ptp(o.x) + np.ptp(o.y) > 0.1 else "stands still"


def change(o: Object) -> int:
    """The frame in which it appears or vanishes."""
    return int(np.flatnonzero(np.diff(o.visible.astype(int)))[0])


def flash(what: Scene) -> Object:
    return only([o for o in what.objects if o.visible.sum() <= 2])


def solve(what: Scene, text: str) -> str:
    """What is right, in the words of a free answer."""

    def said(word: str) -> bool:
        return re.search(rf"\b{word}\b", text) is not None

    def pair() -> list[Object]:
        return [only(named(what, part)) for part in re.findall(r"the (\w+ \w+)", text)]

    if said("half"):
        return "first" if flash(what).visible[: FRAMES // 2].any() else "second"
    if said("flashes") or said("moment"):
        o = flash(what)
        return (
            o.colour
            if re.search("colour", text)
            else o.shape
            if re.search("shape", text)
            else f"a {o.colour} {o.shape}"
        )
    if said("object that"):
        o = sorted(what.objects, key=change)[0 if said("first") else -1]
        return o.colour if said("colour") else o.shape
    if said("before or after"):
        a, b = pair()
        return "before" if change(a) < change(b) else "after"
    if re.search("(first|last), the", text):
        best = sorted(pair(), key=change)[0 if said("first") else -1]
        return f"the {best.colour} {best.shape}"
    if said("faster") or said("slower"):
        best = sorted(pair(), key=lambda o: np.hypot(*way(o)))[0 if said("slower") else -1]
        return f"the {best.colour} {best.shape}"
    if said("slow or fast"):
        return "fast" if np.hypot(*way(only(named(what, text)))) > 0.38 else "slow"
    if said("How many") or text.startswith("Count"):
        return ("one", "two", "three", "four")[len(named(what, text)) - 1]
    if said("more than"):
        return "yes" if len(named(what, text)) > 2 else "no"
    if text.startswith(("Is there", "Do you see")):
        return "yes" if named(what, text) else "no"
    if said("do") and text.startswith("What does"):
        return behaviour(only(named(what, text)), what)
    if text.startswith("Does") and text.endswith("move?"):
        return "yes" if np.hypot(*way(only(named(what, text)))) > 0.1 else "no"
    if said("direction") or said("way") or text.startswith("Does"):
        return direction(only(named(what, text)))
    if said("colour"):
        return only(named(what, text)).colour
    if said("shape"):
        return only(named(what, text)).shape
    o = only(list(what.objects))
    return f"a {o.colour} {o.shape} {behaviour(o, what)}"


def options(question: Question) -> list[str]:
    """What a multiple choice offers; nothing for other questions."""
    return re.split(r", | or ", question.text[:-1].split(": ")[1]) if ":" in question.text else []


def test_answers_hold_in_the_tracks(asked: list[tuple[Scene, Question]]) -> None:
    for what, question in asked:
        text, colon, _ = question.text.partition(":")
        assert question.answer == solve(what, text + "?" * len(colon)), (question, what)
        assert bool(colon) == question.template.endswith("/choice")
        if colon:
            assert options(question).count(question.answer) == 1
            assert len(set(options(question))) == question.choices


def test_pixels_show_the_objects() -> None:
    """Each visible object's colour is where its track says; where it is not yet or no longer, it is not."""
    for index in range(100):
        what = scene(12, index)
        frames = draw(what, 96).astype(np.float32)
        for o in what.objects:
            if o.shape == "ring":  # nothing in its centre
                continue
            for t in range(FRAMES):
                here = frames[t, int(o.y[t] * 96), int(o.x[t] * 96)]
                if o.visible[t]:
                    assert np.abs(here - COLOURS[o.colour]).max() < 75, (index, o, t)
                else:
                    assert here.max() - here.min() < 60, (index, o, t)  # a background's grey
                    assert 20 < here.mean() < 235


# --- Questions give nothing away ---
def test_answers_are_balanced(asked: list[tuple[Scene, Question]]) -> None:
    """Of every template, the likeliest answer is not likelier than chance (by more than five standard deviations)."""
    answers: dict[str, Counter[str]] = defaultdict(Counter)
    choices = {}
    for _, q in asked:
        key = q.template if q.choices != 2 or q.template in ("slow or fast", "exists") else ""
        if key:
            place = str(options(q).index(q.answer)) if ":" in q.text else q.answer
            answers[key][place] += 1
            choices[key] = q.choices
    for template, counts in answers.items():
        n, chance = counts.total(), 1 / choices[template]
        if choices[template] <= len(VERBS):
            assert len(counts) == choices[template]
        assert max(counts.values()) / n < chance + 5 * np.sqrt(chance * (1 - chance) / n) + 1 / n, (template, counts)


def test_a_blind_reader_is_at_chance(asked: list[tuple[Scene, Question]]) -> None:
    """A naive Bayes classifier over words and pairs of words, learned from half of the questions, on the other half."""

    def words(text: str) -> set[tuple[str, ...]]:
        tokens = re.findall(r"\w+", text)
        return {(a,) for a in tokens} | set(itertools.pairwise(tokens))

    half = len(asked) // 2
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    pairs: dict[str, dict[str, Counter[tuple[str, ...]]]] = defaultdict(lambda: defaultdict(Counter))
    for _, q in asked[:half]:
        seen[q.template][q.answer] += 1
        pairs[q.template][q.answer].update(words(q.text))

    def guess(q: Question) -> str:
        """One of the answers that the question offers by itself, the likeliest by what was learned."""
        counts, have = seen[q.template], words(q.text)
        candidates = [a for a in counts if q.choices != 2 or a in ("yes", "no") or a in q.text] or list(counts)
        candidates = [a for a in counts if a in options(q)] or candidates

        def score(answer: str) -> float:
            n, found = counts[answer], pairs[q.template][answer]
            return float(np.log(n) + sum(np.log((found[w] + 0.5) / (n + 1)) for w in have))

        return max(candidates, key=score)

    right, chance = defaultdict(list), defaultdict(list)
    for _, q in asked[half:]:
        right[q.type].append(guess(q) == q.answer)
        chance[q.type].append(1 / q.choices)
    assert set(right) == set(TYPES)
    for kind in TYPES:
        expected = float(np.mean(chance[kind]))
        tolerance = 4 * np.sqrt(expected * (1 - expected) / len(right[kind])) + 0.01
        assert np.mean(right[kind]) < expected + tolerance, (kind, np.mean(right[kind]), expected)


def test_all_kinds_and_types_occur(asked: list[tuple[Scene, Question]]) -> None:
    assert {what.kind for what, _ in asked} == set(KINDS)
    assert {q.type for _, q in asked} == set(TYPES)
    texts = {q.text for _, q in asked}
    assert len(texts) > 2000
