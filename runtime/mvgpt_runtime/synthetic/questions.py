"""Questions about a scene and their answers.

A question's text says nothing about its answer: of every template, all answers are equally likely given the text. Where
a scene makes one likelier (yes and no, which of two), the answer is drawn first and the question made for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .scenes import COLOURS, DIRECTIONS, FRAMES, SHAPES, Object, Scene, generator

TYPES = ("appearance", "counting", "direction", "speed", "order", "event", "action")
NUMBERS = ("one", "two", "three", "four")


@dataclass(frozen=True)
class Question:
    """`template`: what it was made from; `choices`: how many answers are equally likely to who sees no clip."""

    type: str
    template: str
    text: str
    answer: str
    choices: int


@dataclass(frozen=True)
class _Draft:
    """A question before it is put freely or as multiple choice; `wrong` are the other options."""

    type: str
    template: str
    texts: tuple[str, ...]
    answer: str
    wrong: tuple[str, ...]
    free: int  # choices when put freely


def ask_about(scene: Scene, seed: int, index: int, limit: int | None = None) -> list[Question]:
    """Questions about clip `index` of `seed`, at most `limit`, in random order."""
    rng = generator(seed, index, 1)
    drafts = list(_DRAFTS[scene.kind](scene, rng))
    return [_put(drafts[i], rng) for i in rng.permutation(len(drafts))[:limit]]


def _put(draft: _Draft, rng: np.random.Generator) -> Question:
    text = draft.texts[int(rng.integers(len(draft.texts)))]
    if len(draft.wrong) < 2 or rng.random() < 0.6:
        return Question(draft.type, draft.template, text, draft.answer, draft.free)
    wrong = [draft.wrong[i] for i in rng.permutation(len(draft.wrong))[:3]]
    options = [draft.answer, *wrong]
    *first, last = (options[i] for i in rng.permutation(len(options)))
    listed = f"{text[:-1]}: {', '.join(first)} or {last}?"
    return Question(draft.type, f"{draft.template}/choice", listed, draft.answer, len(options))


def _others(values: Sequence[str], answer: str) -> tuple[str, ...]:
    return tuple(v for v in values if v != answer)


def _colour(scene: Scene, thing: Object, kind: str, template: str, *texts: str) -> _Draft:
    return _Draft(kind, template, texts, thing.colour, _others(tuple(COLOURS), thing.colour), len(COLOURS))


def _shape(scene: Scene, thing: Object, kind: str, template: str, *texts: str) -> _Draft:
    return _Draft(kind, template, texts, thing.shape, _others(SHAPES, thing.shape), len(SHAPES))


def _pick(rng: np.random.Generator, things: Sequence[Object]) -> Object:
    return things[int(rng.integers(len(things)))]


def _name(thing: Object) -> str:
    return f"{thing.colour} {thing.shape}"


def _two(rng: np.random.Generator, a: Object, b: Object) -> tuple[str, str]:
    """Their names in random order."""
    names = [f"the {_name(a)}", f"the {_name(b)}"]
    first = int(rng.integers(2))
    return names[first], names[1 - first]


def _appearance(scene: Scene, rng: np.random.Generator) -> Iterator[_Draft]:
    """Of objects that are there all the time."""
    things = [o for o in scene.objects if o.visible.all()]
    for thing in things:
        if sum(o.shape == thing.shape for o in scene.objects) == 1:
            s = thing.shape
            yield _colour(
                scene, thing, "appearance", "colour", f"What colour is the {s}?", f"Which colour does the {s} have?"
            )
        if sum(o.colour == thing.colour for o in scene.objects) == 1:
            c = thing.colour
            yield _shape(scene, thing, "appearance", "shape", f"What shape is the {c} object?", f"Which shape is {c}?")
    if len({o.colour for o in things}) > 1 and len({o.shape for o in things}) > 1:
        there = {(o.colour, o.shape) for o in scene.objects}
        mixed = [(a.colour, b.shape) for a in things for b in things if (a.colour, b.shape) not in there]
        if mixed:
            yes = bool(rng.integers(2))
            c, s = (lambda o: (o.colour, o.shape))(_pick(rng, things)) if yes else mixed[rng.integers(len(mixed))]
            texts = (f"Is there a {c} {s}?", f"Do you see a {c} {s}?")
            yield _Draft("appearance", "exists", texts, "yes" if yes else "no", (), 2)


def _count(scene: Scene, rng: np.random.Generator) -> Iterator[_Draft]:
    what = scene.counted
    n = sum(what in ("object", o.colour, o.shape) for o in scene.objects)
    plural = f"{what} objects" if what in COLOURS else "crosses" if what == "cross" else f"{what}s"
    texts = (f"How many {plural} are there?", f"Count the {plural}.")
    answer = NUMBERS[n - 1]
    yield _Draft(
        "counting",
        f"count {'object' if what == 'object' else 'colour' if what in COLOURS else 'shape'}",
        texts,
        answer,
        _others(NUMBERS, answer),
        len(NUMBERS),
    )
    text = f"Are there more than two {plural}?"
    yield _Draft("counting", "more than two", (text,), "yes" if n > 2 else "no", (), 2)
    yield from _appearance(scene, rng)


def _direction(thing: Object, rng: np.random.Generator) -> Iterator[_Draft]:
    d, names = thing.does, (thing.shape, f"{thing.colour} object", _name(thing))
    name = names[rng.integers(len(names))]
    texts = (f"Which way does the {name} move?", f"In which direction does the {name} go?")
    yield _Draft("direction", "direction", texts, d, _others(tuple(DIRECTIONS), d), len(DIRECTIONS))
    pair = ["left", "right"] if d in ("left", "right") else ["up", "down"]
    if rng.integers(2):
        pair.reverse()
    yield _Draft("direction", "which of two", (f"Does the {name} move {pair[0]} or {pair[1]}?",), d, (), 2)


def _motion(scene: Scene, rng: np.random.Generator) -> Iterator[_Draft]:
    moving = [o for o in scene.objects if o.does in DIRECTIONS]
    still = [o for o in scene.objects if o.does == "stand"]
    for thing in moving:
        yield from _direction(thing, rng)
        texts = (f"Is the {_name(thing)} slow or fast?", f"Does the {_name(thing)} move slow or fast?")
        yield _Draft("speed", "slow or fast", texts, thing.speed, (), 2)
    slow, fast = ([o for o in moving if o.speed == s] for s in ("slow", "fast"))
    if slow and fast:
        a, b = _pick(rng, slow), _pick(rng, fast)
        for template, right in (("faster", b), ("slower", a)):
            first, second = _two(rng, a, b)
            texts = (f"Which moves {template}, {first} or {second}?", f"Which one is {template}, {first} or {second}?")
            yield _Draft("speed", template, texts, f"the {_name(right)}", (), 2)
    if still and moving:
        yes = bool(rng.integers(2))
        name = _name(_pick(rng, moving if yes else still))
        yield _Draft("speed", "moves at all", (f"Does the {name} move?",), "yes" if yes else "no", (), 2)
    yield from _appearance(scene, rng)


def _order(scene: Scene, rng: np.random.Generator) -> Iterator[_Draft]:
    things = sorted(scene.objects, key=lambda o: o.at)
    verb = things[0].does
    for i, a in enumerate(things):
        for b in things[i + 1 :]:
            for word, right in (("first", a), ("last", b)):
                first, second = _two(rng, a, b)
                texts = (f"Which {VERBS[verb]} {word}, {first} or {second}?",)
                yield _Draft("order", word, texts, f"the {_name(right)}", (), 2)
            x, y = (a, b) if rng.integers(2) else (b, a)
            text = f"Does the {_name(x)} {verb} before or after the {_name(y)}?"
            yield _Draft("order", "before or after", (text,), "before" if x is a else "after", (), 2)
    for word, thing in (("first", things[0]), ("last", things[-1])):
        yield _colour(
            scene, thing, "order", f"colour of {word}", f"What colour is the object that {VERBS[verb]} {word}?"
        )
        yield _shape(scene, thing, "order", f"shape of {word}", f"What shape is the object that {VERBS[verb]} {word}?")


def _event(scene: Scene, rng: np.random.Generator) -> Iterator[_Draft]:
    (flash,) = (o for o in scene.objects if o.does == "flash")
    yield _colour(
        scene,
        flash,
        "event",
        "colour of flash",
        "What colour is the object that flashes up?",
        "Which colour flashes up?",
    )
    yield _shape(
        scene, flash, "event", "shape of flash", "What shape is the object that flashes up?", "Which shape flashes up?"
    )
    half = ("first", "second")[int(flash.at >= FRAMES // 2)]
    texts = ("In which half does something flash up, the first or the second?",)
    yield _Draft("event", "half of flash", texts, half, (), 2)
    looks = len(COLOURS) * len(SHAPES)
    yield _Draft("event", "flash", ("What flashes up?", "What appears for a moment?"), f"a {_name(flash)}", (), looks)
    yield from _appearance(scene, rng)


VERBS = {
    "stand": "stands still",
    "turn": "turns around",
    "swap": "swaps places",
    **{v: f"{v}s" for v in ("grow", "shrink", "appear")},
    "vanish": "vanishes",
    **{d: f"moves {d}" for d in DIRECTIONS},
}


def _action(scene: Scene, rng: np.random.Generator) -> Iterator[_Draft]:
    for thing in scene.objects:
        answer = VERBS[thing.does]
        names = (thing.shape, f"{thing.colour} object", _name(thing))
        texts = tuple(f"What does the {name} do?" for name in names)
        yield _Draft("action", "what does it do", texts, answer, _others(tuple(VERBS.values()), answer), len(VERBS))
    if len(scene.objects) == 1:
        (thing,) = scene.objects
        texts = ("What happens?", "What happens in this video?", "Describe the video.")
        choices = len(COLOURS) * len(SHAPES) * (len(VERBS) - 1)  # it takes two to swap
        yield _Draft("action", "what happens", texts, f"a {_name(thing)} {VERBS[thing.does]}", (), choices)
    yield from _appearance(scene, rng)


_DRAFTS: dict[str, Callable[[Scene, np.random.Generator], Iterator[_Draft]]] = {
    "count": _count,
    "motion": _motion,
    "order": _order,
    "event": _event,
    "action": _action,
}
