"""Steps 3 to 8, one video into the KV cache: every frame is encoded and its visual tokens prefilled as it arrives."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from . import contract
from .contract import Geometry
from .encode import FINISH_STAGES, EncodedVideo, VideoEncoder
from .engines import Engine
from .frames import FrameClock
from .generate import Check, Generator
from .stats import Stats


def video_blocks(prefix: int, geometry: Geometry) -> list[int]:
    """Rows of every block that a video is prefilled in: the prefix, a frame's image tokens (padding frames too) for
    each frame, and the video encoder's tokens."""
    frames = [geometry.image_tokens] * geometry.num_frames
    return [prefix, *frames, geometry.num_chunks * geometry.video_tokens]


class Ingest:
    """A video on its way into the KV cache: the prefix at once, image tokens frame by frame, the rest at the end.

    Image tokens come first in the prompt and in the order of frames, and the decoder is causal: what is prefilled while
    the video still runs is what would be prefilled afterwards. However frames arrive, the prefill's chunks are
    `chunk_plan` of `video_blocks`: the results are the same to the bit.

    Args:
        low_memory: first all encoders, then the language model, which does not share memory with them: nothing is
            prefilled before `finish`.
        stats: gets the metrics of the video.
        check: called with the stage's name before every step; what it raises ends this video.
        started: `time.perf_counter()` of the beginning, for `video_ready_ms`.

    Raises:
        ContextFull: the video does not fit the KV cache.
    """

    def __init__(
        self,
        engine: Engine,
        geometry: Geometry,
        generator: Generator,
        prefix_ids: Sequence[int],
        *,
        low_memory: bool,
        stats: Stats,
        check: Check,
        started: float,
    ) -> None:
        self._engine, self._generator, self._prefix_ids = engine, generator, prefix_ids
        self._low_memory, self.stats, self._check = low_memory, stats, check
        self._encoder = VideoEncoder(engine, geometry, stats, check)
        self._clock = FrameClock()
        self._prefilled = 0  # of the encoder's blocks
        self._started = self._last_frame = started
        generator.check_room(sum(video_blocks(len(prefix_ids), geometry)))
        generator.rewind(0)
        if low_memory:
            self._unload(contract.LANGUAGE_STAGES)
        else:
            self._prefill()

    def prewarm(self) -> None:
        """Load and run once what only `finish` needs, so that it takes no longer than it must."""
        if self._low_memory:
            return
        with self.stats.timed("model_load_ms"):
            for stage in FINISH_STAGES:
                self._check(stage)
                self._engine.prewarm(stage)

    def takes(self, timestamp_s: float) -> bool:
        """Whether a live stream's frame is to be added; see `FrameClock`."""
        self._last_frame = time.perf_counter()
        return self._clock.takes(timestamp_s)

    def prepare(self, frame: np.ndarray) -> int:
        """Preprocess the next frame, uint8 [H, W, 3] RGB; its index. MvgptError, and no change, if it is none."""
        self._last_frame = time.perf_counter()
        return self._encoder.prepare(frame)

    def encode(self, index: int) -> None:
        """Encode and prefill the frame that was prepared last. A failure ends this video."""
        self._encoder.encode(index)
        if not self._low_memory:
            self._prefill()

    def finish(self) -> EncodedVideo:
        """The KV cache now holds prefix and visual tokens."""
        encoded = self._encoder.finish()
        if self._low_memory:
            self._unload(contract.ENCODER_STAGES)
        self._prefill()
        ready, stats = time.perf_counter(), self.stats
        stats.add("video_ready_ms", (ready - self._started) * 1e3)
        stats.add("last_frame_to_ready_ms", (ready - self._last_frame) * 1e3)
        stats.add("num_video_prefilled_tokens", self._generator.cached)
        stats.rate("video_prefill_tokens_per_s", self._generator.cached, stats.values["video_prefill_ms"])
        return encoded

    def _prefill(self) -> None:
        """Prefill what was encoded since the last time."""
        with self.stats.timed("model_load_ms"):
            for stage in contract.LANGUAGE_STAGES:
                self._engine.load(stage)
        with self.stats.timed("video_prefill_ms"):
            if self._generator.cached == 0 and self._prefix_ids:
                self._append(self._generator.embed(self._prefix_ids))
            for block in self._encoder.blocks[self._prefilled :]:
                self._append(block)
        self._prefilled = len(self._encoder.blocks)

    def _append(self, rows: np.ndarray) -> None:
        self._generator.prefill(rows, self._check)

    def _unload(self, stages: Sequence[str]) -> None:
        for stage in stages:
            self._engine.unload(stage)
