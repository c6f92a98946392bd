"""Draws the clips that the embedded model is asked about in `make demo`, the README and tests.

    python tools/make_drawn_clips.py assets

Scenes of `mvgpt_runtime.synthetic` that training never saw: 16 frames, 4 a second, of 240 x 240 pixels. The same ffmpeg
gives the same bytes.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

import imageio_ffmpeg
from mvgpt_runtime.synthetic import draw, scene

SEED, SIZE, FPS = 2026, 240, 4
CLIPS = {"flash": 18, "motion": 11, "still": 0}  # name → index of the scene


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{SIZE}x{SIZE}", "-r", str(FPS), "-i", "-"]
    # One thread and no encoder's name or date in the file: the bytes depend on nothing but the pictures.
    codec = ["-c:v", "libx264", "-preset", "slow", "-crf", "24", "-pix_fmt", "yuv420p", "-threads", "1"]
    plain = ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", "-1", "-movflags", "+faststart"]
    for name, index in CLIPS.items():
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", *source, *codec, *plain]
        frames = draw(scene(SEED, index), SIZE)
        subprocess.run([*command, str(folder / f"{name}.mp4")], input=frames.tobytes(), check=True)


if __name__ == "__main__":
    main()
