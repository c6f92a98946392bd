"""Draws the sample clip: a red ball rolls in, hits a blue tower, the tower falls over, a green balloon rises.

    python tools/make_sample_clip.py assets/sample.mp4

12 seconds, 320 x 240, 25 frames per second. The same ffmpeg gives the same bytes.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Iterator
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import numpy.typing as npt

Plane = npt.NDArray[np.float32]  # [HEIGHT, WIDTH]
Picture = npt.NDArray[np.float32]  # [HEIGHT, WIDTH, 3], 0 .. 255

WIDTH, HEIGHT, FPS, SECONDS = 320, 240, 25, 12
GROUND = 190.0  # y of the floor, pixels from the top
TOWER_X, TOWER_WIDTH, TOWER_HEIGHT = 205.0, 26.0, 84.0
RADIUS = 20.0
HIT_S, FALLEN_S, BALLOON_S = 5.0, 6.2, 7.5  # the ball reaches the tower; it lies flat; the balloon starts

X, Y = np.meshgrid(np.arange(WIDTH, dtype=np.float32), np.arange(HEIGHT, dtype=np.float32))


def background() -> Picture:
    """Evening sky over a chequered floor, both with grain."""
    sky = np.array([[250, 190, 120]]) + (np.array([[90, 130, 215]]) - [[250, 190, 120]]) * (1 - Y[:, :1] / GROUND)
    picture = np.repeat(sky[:, None], WIDTH, axis=1)
    depth = (Y - GROUND + 8) / 12
    tiles = (
        np.floor((X - WIDTH / 2) / (18 * np.maximum(depth, 0.1))) + np.floor(np.sqrt(np.maximum(depth, 0)) * 5)
    ) % 2
    floor = np.where(tiles[..., None] > 0, [150, 125, 95], [120, 98, 75])
    picture = np.where((Y >= GROUND)[..., None], floor, picture)
    grain = np.random.default_rng(7).normal(0, 5, (HEIGHT, WIDTH, 1))
    grainy: Picture = (picture + grain).astype(np.float32)
    return grainy


def paint(picture: Picture, distance: Plane, colour: tuple[int, int, int] | Picture) -> None:
    """Colour the inside of a shape, whose signed distance (pixels, negative inside) gives it smooth edges."""
    cover = np.clip(0.5 - distance, 0, 1)[..., None]
    picture += cover * (np.asarray(colour, np.float32) - picture)


def disc(x: float, y: float, radius: float) -> Plane:
    distance: Plane = np.hypot(X - x, Y - y) - radius
    return distance


def box(x: float, y: float, width: float, height: float, turn: float) -> Plane:
    """A rectangle that stands on (x, y), its lower right corner, turned clockwise around it by `turn` radians."""
    across = np.cos(turn) * (X - x) + np.sin(turn) * (Y - y) + width / 2
    up = np.sin(turn) * (X - x) - np.cos(turn) * (Y - y) - height / 2
    distance: Plane = np.maximum(np.abs(across) - width / 2, np.abs(up) - height / 2)
    return distance


def frames() -> Iterator[npt.NDArray[np.uint8]]:
    """uint8 [HEIGHT, WIDTH, 3], one per 1 / FPS seconds."""
    still = background()
    left = TOWER_X - TOWER_WIDTH
    for i in range(FPS * SECONDS):
        seconds = i / FPS
        picture = still.copy()

        fall = float(np.clip((seconds - HIT_S) / (FALLEN_S - HIT_S), 0, 1)) ** 2
        for storey in range(3):
            shade = (40 + 25 * storey, 70 + 25 * storey, 190 + 25 * storey)
            height = TOWER_HEIGHT * (3 - storey) / 3
            paint(picture, box(TOWER_X, GROUND, TOWER_WIDTH, height, fall * np.pi / 2), shade)

        travelled = min(seconds / HIT_S, 1.0)
        x = -RADIUS + travelled * left
        y = GROUND - RADIUS
        paint(picture, disc(x, y, RADIUS), (205, 40, 35))
        turn = (x + RADIUS) / RADIUS
        paint(picture, disc(x + 0.55 * RADIUS * np.cos(turn), y + 0.55 * RADIUS * np.sin(turn), 5), (250, 235, 220))

        if seconds >= BALLOON_S:
            rise = (seconds - BALLOON_S) * 42
            sway = 70 + 10 * np.sin(2 * seconds)
            paint(picture, (np.maximum(np.abs(X - sway), np.abs(Y - (GROUND + 20 - rise)) - 22) - 1), (60, 60, 60))
            paint(picture, disc(sway, GROUND - 18 - rise, 18), (50, 160, 70))
        yield np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    path: Path = parser.parse_args().path
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", str(FPS), "-i", "-"]
    # One thread and no encoder's name or date in the file: the bytes depend on nothing but the pictures.
    codec = ["-c:v", "libx264", "-preset", "slow", "-crf", "26", "-pix_fmt", "yuv420p", "-g", "50", "-threads", "1"]
    plain = ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", "-1", "-movflags", "+faststart"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *source, *codec, *plain, str(path)]
    subprocess.run(command, input=b"".join(frame.tobytes() for frame in frames()), check=True)


if __name__ == "__main__":
    main()
