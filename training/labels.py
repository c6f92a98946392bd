"""What a scene's description says of its frames' patches and of its questions' words: what networks learn to say."""

from __future__ import annotations

import numpy as np
from mvgpt_runtime.synthetic.scenes import COLOURS, DIRECTIONS, FRAMES, SHAPES, SPEEDS, Object, Scene

LOOKS = (len(COLOURS), len(SHAPES))
DOES = (
    *("stand", "turn", "swap", "grow", "shrink", "appear", "vanish", "flash"),
    *(f"{speed} {direction}" for speed in SPEEDS for direction in DIRECTIONS),
)
TURNS = ("always", "first", "second", "last")
"""When an object appears or vanishes among those that do; of one that flashes up, the half of the clip."""
MOST = 6  # objects in a clip
NOTHING = -100  # torch's ignore_index


def patch_labels(what: Scene, grid: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Which object each patch of each frame shows, int64 [FRAMES, patches], −1 where it shows the background; of each
    object colour, shape, what it does, its turn, and how many objects have its colour, its shape, are there at all,
    int64 [MOST, 7], indices and numbers less 1; its place: x, y and log radius, around 0, a quarter of a side as one,
    float32 [FRAMES, MOST, 3]; whether something flashes up, bool [FRAMES]."""
    centres = (np.arange(grid) + 0.5) / grid
    y, x = (c.reshape(-1) for c in np.meshgrid(centres, centres, indexing="ij"))
    things, nearest = np.full((FRAMES, grid * grid), -1), np.full((FRAMES, grid * grid), np.inf)
    objects, tracks = np.zeros((MOST, 7), np.int64), np.zeros((FRAMES, MOST, 3), np.float32)
    for i, thing in enumerate(what.objects):
        from_edge = np.maximum(np.abs(thing.x[:, None] - x), np.abs(thing.y[:, None] - y)) - thing.radius[:, None]
        here = (from_edge < 0.1 / grid) & thing.visible[:, None] & (from_edge < nearest)
        nearest[here] = from_edge[here]
        things[here] = i
        alike = np.sum([(o.colour == thing.colour, o.shape == thing.shape, True) for o in what.objects], axis=0)
        looks = list(COLOURS).index(thing.colour), SHAPES.index(thing.shape)
        objects[i] = (*looks, DOES.index(f"{thing.speed} {thing.does}".strip()), turn(thing, what), *(alike - 1))
        tracks[:, i] = np.stack([thing.x - 0.5, thing.y - 0.5, np.log(thing.radius / 0.145)], axis=-1) / 0.25
    flashes = [o.visible for o in what.objects if o.does == "flash"]
    return things, objects, tracks, np.any(flashes, axis=0) if flashes else np.zeros(FRAMES, bool)


def turn(thing: Object, what: Scene) -> int:
    """Index into TURNS."""
    if thing.does == "flash":
        return 1 + thing.at // (FRAMES // 2)
    if what.kind != "order":
        return 0
    others = sorted(o.at for o in what.objects)
    return 1 if thing.at == others[0] else 3 if thing.at == others[-1] else 2


def key_frames(flashes: np.ndarray, chunk: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """int64 [key frames]: k of each chunk in time order, those with flashes, then any."""
    wish = (rng.random(FRAMES) + flashes).reshape(-1, chunk)
    picked = np.sort(np.argsort(-wish, axis=1)[:, :k], axis=1)
    return (picked + chunk * np.arange(len(picked))[:, None]).reshape(-1)


def mentions(words: list[str], template: str, what: Scene) -> list[tuple[int, int, int]]:
    """Of each word of a question: which object it, with the word before it, stands for, MOST if none is like that,
    NOTHING if several are; how many are, NOTHING for other words; and whether it is named, not described by a deed."""
    plural = {f"{shape}s": shape for shape in SHAPES} | {"crosses": "cross"}
    stand = []
    for before, word in zip(["", *words], words, strict=False):
        one, named = plural.get(word, word), 1
        if one in SHAPES and before in COLOURS:
            meant = [(o.colour, o.shape) == (before, one) for o in what.objects]
        elif one in SHAPES or one in COLOURS:
            meant = [one in (o.colour, o.shape) for o in what.objects]
        elif word == "objects" and before not in COLOURS:
            meant = [True] * len(what.objects)
        elif f"{before} {word}" in ("flash up", "flashes up", "a moment"):
            meant, named = [o.does == "flash" for o in what.objects], 0
        elif word in ("first", "last") and f" of {word}" in template:
            meant, named = [turn(o, what) == TURNS.index(word) for o in what.objects], 0
        else:
            stand.append((NOTHING, NOTHING, 1))
            continue
        n = sum(meant)
        stand.append((NOTHING if n > 1 else meant.index(True) if n else MOST, n, named))
    return stand
