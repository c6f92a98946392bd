"""A scene as frames: shapes with smooth edges on a textured background, some frames disturbed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from .scenes import COLOURS, FRAMES, Scene

Distance = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(x, y) from the centre, in radii, y downwards → signed distance from the edge, negative inside."""


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    fifth = 2 * np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + fifth / 2) % fifth - fifth / 2)  # from the nearest ray; one points up
    distance: np.ndarray = np.hypot(x, y) - (1.0 - 0.62 * angle / (fifth / 2)) * 1.05
    return distance * 0.8


_DISTANCES: dict[str, Distance] = {
    "circle": lambda x, y: np.hypot(x, y) - 0.92,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) - 0.80,
    "triangle": lambda x, y: np.maximum(np.abs(x) * 0.866 - y * 0.5, y) - 0.56,
    "star": _star,
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.72) - 0.23,
    "cross": lambda x, y: np.minimum(
        np.maximum(np.abs(x) - 0.95, np.abs(y) - 0.3), np.maximum(np.abs(y) - 0.95, np.abs(x) - 0.3)
    ),
}


def draw(scene: Scene, size: int, only: Sequence[int] = range(FRAMES)) -> np.ndarray:
    """uint8 [FRAMES or frames in `only`, size, size, 3] RGB."""
    rng = np.random.default_rng(scene.background)
    centres = (np.arange(size, dtype=np.float32) + 0.5) / size
    frames = np.repeat(_background(rng, centres)[None], len(only), axis=0)
    edge = rng.uniform(0.6, 1.2) * max(1.0, size / 64)  # pixels from full to no cover
    for thing in scene.objects:
        colour = np.array(COLOURS[thing.colour], np.float32) + rng.uniform(-14, 14, 3).astype(np.float32)
        for i, t in enumerate(only):
            if not thing.visible[t]:
                continue
            radius = np.float32(thing.radius[t])
            columns = _near(thing.x[t], radius, size)
            rows = _near(thing.y[t], radius, size)
            x = (centres[columns] - np.float32(thing.x[t])) / radius
            y = (centres[rows] - np.float32(thing.y[t])) / radius
            distance = _DISTANCES[thing.shape](x[None, :], y[:, None]) * radius * size
            cover = np.clip(0.5 - distance / edge, 0, 1)[..., None].astype(np.float32)
            patch = frames[i, rows, columns]
            patch += cover * (colour - patch)
    if rng.random() < 0.3:  # frames that differ and mean nothing
        for t in rng.integers(0, FRAMES, 2):
            brightness = rng.uniform(0.75, 1.2)
            frames[[i for i, other in enumerate(only) if other == t]] *= brightness
    noise = rng.standard_normal((FRAMES, size // 2, size // 2, 1), np.float32) * np.float32(rng.uniform(0, 5))
    frames[:, : size // 2 * 2, : size // 2 * 2] += noise[list(only)].repeat(2, axis=1).repeat(2, axis=2)
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)


def _near(centre: float, radius: float, size: int) -> slice:
    """Pixels that an object may touch."""
    reach = 1.12 * float(radius) + 1.5 / size
    return slice(max(0, int((centre - reach) * size)), min(size, int((centre + reach) * size) + 1))


def _background(rng: np.random.Generator, centres: np.ndarray) -> np.ndarray:
    """Pale and greyish, float32 [size, size, 3]: a slope of brightness, waves or tiles on it."""
    x, y = centres[None, :, None], centres[:, None, None]
    colour = rng.uniform(85, 165) + rng.uniform(-18, 18, 3).astype(np.float32)
    picture = colour + np.float32(rng.uniform(-25, 25)) * (x - 0.5) + np.float32(rng.uniform(-25, 25)) * (y - 0.5)
    angle, waves, height = rng.uniform(0, np.pi), rng.uniform(2, 7), rng.uniform(0, 9)
    along = np.sin(2 * np.pi * waves * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 6))
    pattern = np.sign(along) if rng.random() < 0.5 else along
    textured: np.ndarray = (picture + height * pattern).astype(np.float32)
    return textured
