"""What happens in a drawn clip: objects and their tracks, from a seed and an index.

What a question may ask for (colours, shapes, numbers, directions, speeds, times) is drawn first and from uniform
distributions; positions are then drawn until everything fits. So no answer is likelier because it is easier to place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..errors import MvgptError

FRAMES = 16
COLOURS = {
    "red": (214, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (240, 210, 50),
    "purple": (140, 50, 170),
    "cyan": (60, 210, 220),
    "white": (248, 248, 248),
    "black": (16, 16, 16),
}
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
SPEEDS = {"slow": (0.20, 0.28), "fast": (0.48, 0.60)}  # way from the first frame to the last; a frame's side is 1
SCALES = {"grow": 1.8, "shrink": 0.55}  # last radius over first

Kind = Literal["count", "motion", "order", "event", "action"]
KINDS: tuple[Kind, ...] = ("count", "motion", "order", "event", "action")
MAX_SEED = 2**32
"""Seeds from here on are training's: whoever evaluates gets clips that no training saw."""


@dataclass(frozen=True)
class Plan:
    """What a question may ask about one shape.

    `does`: "stand", a direction, "turn" (there and back), "swap" (places with the scene's other object), "grow",
    "shrink", "appear", "vanish" or "flash", the last three at frame `at`; `speed` is that of a direction.
    """

    colour: str
    shape: str
    does: str = "stand"
    speed: str = ""
    at: int = 0


@dataclass(frozen=True, kw_only=True)
class Object(Plan):
    """One shape with its track: arrays [FRAMES]; places (of its centre) and radius in sides of the frame."""

    x: np.ndarray
    y: np.ndarray
    radius: np.ndarray
    visible: np.ndarray


@dataclass(frozen=True)
class Scene:
    """`counted`: in a "count" scene, the colour, shape or "object" that is to be counted."""

    kind: Kind
    objects: tuple[Object, ...]
    counted: str
    background: int  # seed of what is behind the objects


def generator(seed: int, index: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng((seed, index, purpose))


def scene(seed: int, index: int, kind: Kind | None = None) -> Scene:
    """Clip `index` of `seed`; the same arguments give the same scene. Without `kind`, kinds take turns."""
    if seed < 0 or index < 0:
        raise MvgptError("bad seed", stage="synthetic", expected="seed and index ≥ 0", got=(seed, index))
    rng = generator(seed, index, 0)
    kind = kind or KINDS[index % len(KINDS)]
    planned, counted = _PLANS[kind](rng)
    while True:
        placed = _place(planned, rng)
        if placed is not None:
            return Scene(kind, placed, counted, int(rng.integers(2**31)))


def _choose(rng: np.random.Generator, values: Sequence[str], n: int) -> list[str]:
    """n different ones."""
    return [values[i] for i in rng.permutation(len(values))[:n]]


def _looks(rng: np.random.Generator, n: int) -> list[tuple[str, str]]:
    """n objects of which no two have colour or shape in common."""
    return list(zip(_choose(rng, tuple(COLOURS), n), _choose(rng, SHAPES, n), strict=True))


def _plan_count(rng: np.random.Generator) -> tuple[list[Plan], str]:
    """One to four that share a colour or a shape (or nothing), and at most two that do not."""
    what, n = rng.integers(3), int(rng.integers(1, 5))
    if what == 2:
        looks = [(str(rng.choice(tuple(COLOURS))), str(rng.choice(SHAPES))) for _ in range(n)]
        return [Plan(*look) for look in looks], "object"
    values = (tuple(COLOURS), SHAPES)[what]
    counted = str(rng.choice(values))
    objects = []
    for i in range(n + int(rng.integers(0, 3))):
        value = counted if i < n else str(rng.choice([v for v in values if v != counted]))
        other = str(rng.choice((SHAPES, tuple(COLOURS))[what]))
        objects.append(Plan(value, other) if what == 0 else Plan(other, value))
    return objects, counted


def _plan_motion(rng: np.random.Generator) -> tuple[list[Plan], str]:
    """Two or three; most move, each in its own direction, slowly or fast."""
    objects = []
    for look in _looks(rng, int(rng.integers(2, 4))):
        direction, speed = str(rng.choice(tuple(DIRECTIONS))), str(rng.choice(tuple(SPEEDS)))
        objects.append(Plan(*look, does=direction, speed=speed) if rng.random() < 0.8 else Plan(*look))
    return objects, ""


def _plan_order(rng: np.random.Generator) -> tuple[list[Plan], str]:
    """Two or three that all appear, or all vanish, one after the other."""
    looks = _looks(rng, int(rng.integers(2, 4)))
    does = ("appear", "vanish")[rng.integers(2)]
    slack = FRAMES - 4 - 3 * (len(looks) - 1)
    gaps = np.sort(rng.integers(0, slack + 1, len(looks)))
    return [
        Plan(*look, does=does, at=2 + 3 * i + int(gap)) for i, (look, gap) in enumerate(zip(looks, gaps, strict=True))
    ], ""


def _plan_event(rng: np.random.Generator) -> tuple[list[Plan], str]:
    """One or two that stand still, and one that is there for one or two frames of one half."""
    *still, flash = _looks(rng, int(rng.integers(2, 4)))
    at = int(rng.integers(2)) * FRAMES // 2 + int(rng.integers(FRAMES // 2 - 1))
    return [*(Plan(*look) for look in still), Plan(*flash, does="flash", at=at)], ""


ACTIONS = ("stand", "turn", "grow", "shrink", "appear", "vanish", *DIRECTIONS)


def _plan_action(rng: np.random.Generator) -> tuple[list[Plan], str]:
    """One or two, each with something of its own to do, or two that swap places: of all objects, as many do one thing
    as any other."""
    looks = _looks(rng, int(rng.integers(1, 3)))
    if len(looks) == 2 and rng.random() < 1.5 / (len(ACTIONS) + 1):
        return [Plan(*look, does="swap") for look in looks], ""
    objects = []
    for look in looks:
        does = str(rng.choice(ACTIONS))
        speed = str(rng.choice(tuple(SPEEDS))) if does in DIRECTIONS else ""
        objects.append(Plan(*look, does=does, speed=speed, at=int(rng.integers(4, FRAMES - 4))))
    return objects, ""


_PLANS = {
    "count": _plan_count,
    "motion": _plan_motion,
    "order": _plan_order,
    "event": _plan_event,
    "action": _plan_action,
}


def _place(planned: list[Plan], rng: np.random.Generator) -> tuple[Object, ...] | None:
    """Tracks for all objects, inside the frame and never touching; None if these did not work out."""
    placed: list[Object] = []
    for plan in planned:
        for _ in range(12):
            candidate = _track(plan, rng, placed)
            if candidate is not None and all(_apart(candidate, other) for other in placed):
                placed.append(candidate)
                break
        else:
            return None
    order = rng.permutation(len(placed))  # which one was planned first must not show
    return tuple(placed[i] for i in order)


def _apart(a: Object, b: Object) -> bool:
    distance = np.hypot(a.x - b.x, a.y - b.y)
    return bool((distance > 1.02 * (a.radius + b.radius)).all())


def _track(plan: Plan, rng: np.random.Generator, placed: Sequence[Object]) -> Object | None:
    """`placed`: the scene's objects that have their tracks."""
    time = np.linspace(0, 1, FRAMES)
    radius = np.full(FRAMES, rng.uniform(0.125, 0.165))
    way_x, way_y = np.zeros(FRAMES), np.zeros(FRAMES)
    visible = np.ones(FRAMES, bool)
    if plan.does in DIRECTIONS:
        way = rng.uniform(*SPEEDS[plan.speed])
        way_x, way_y = (way * time * d for d in DIRECTIONS[plan.does])
    elif plan.does == "turn":
        dx, dy = DIRECTIONS[str(rng.choice(tuple(DIRECTIONS)))]
        there_and_back = rng.uniform(0.3, 0.5) * (1 - np.abs(2 * time - 1))
        way_x, way_y = there_and_back * dx, there_and_back * dy
    elif plan.does == "swap" and placed:  # the other half of the first one's circle
        way_x, way_y = (way[0] + way[-1] - way for way in (placed[0].x, placed[0].y))
    elif plan.does == "swap":
        angle = rng.uniform(0, 2 * np.pi) + rng.choice((-np.pi, np.pi)) * time
        way_x, way_y = rng.uniform(0.18, 0.25) * np.stack([np.cos(angle), np.sin(angle)])
    elif plan.does in SCALES:
        first = rng.uniform(0.10, 0.12) if plan.does == "grow" else rng.uniform(0.17, 0.20)
        radius = first * SCALES[plan.does] ** time
    elif plan.does == "appear":
        visible = np.arange(FRAMES) >= plan.at
    elif plan.does == "vanish":
        visible = np.arange(FRAMES) < plan.at
    elif plan.does == "flash":
        visible = (np.arange(FRAMES) >= plan.at) & (np.arange(FRAMES) < plan.at + int(rng.integers(1, 3)))
    margin = float(radius.max()) + 0.01
    low_x, high_x = margin - way_x.min(), 1 - margin - way_x.max()
    low_y, high_y = margin - way_y.min(), 1 - margin - way_y.max()
    if low_x > high_x or low_y > high_y:
        return None
    if plan.does == "swap" and placed:  # nothing left to choose: both ways lead through the same two places
        if low_x > 0 or high_x < 0 or low_y > 0 or high_y < 0:
            return None
        low_x = high_x = low_y = high_y = 0.0
    x, y = rng.uniform(low_x, high_x) + way_x, rng.uniform(low_y, high_y) + way_y
    return Object(**vars(plan), x=x, y=y, radius=radius, visible=visible)
