"""The pipeline as a user holds it: a session on a bundle loads a video once and answers questions about it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from . import contract, preprocess, video
from .answer import Answer
from .conversation import Conversation, Snapshot
from .encode import EncodedVideo
from .engines import Engine, open_engine
from .errors import Cancelled, MvgptError
from .generate import Generator
from .ingest import Ingest
from .manifest import Bundle
from .prompt import Prompt
from .sampler import SamplingOptions
from .stats import Stats

Progress = Callable[[str], None]


def _silent(stage: str) -> None:
    pass


class Session:
    """One bundle, one video at a time, any number of questions. Not thread-safe, except for `cancel`.

    A video is paid for once: loading it leaves prefix and visual tokens in the KV cache, and a question adds only
    itself. It is loaded whole (`load_video`, `load_frames`) or as its frames arrive (`begin`, `add_frame`, `finish`);
    both are the same steps. These overwrite the KV cache: from their beginning the previous video is gone, and if they
    fail or are cancelled, no video is loaded.

    Args:
        bundle: folder made by `mvgpt export`, or an opened `Bundle`.
        low_memory: unload the encoders before the language model runs, and it before them. All of a video is then
            prefilled at its end, frames that arrive live too.
        threads: size of the process-wide thread pool (None: the backend's choice).
        engine: runs the stages (None: the bundle's backend), to watch or replace them.

    Attributes:
        clip: where `load_video` sampled the loaded video's frames.

    Raises:
        MvgptError: a bundle that is damaged, of another version, or unfit for this runtime.
    """

    def __init__(
        self,
        bundle: str | Path | Bundle,
        *,
        low_memory: bool = False,
        threads: int | None = None,
        engine: Engine | None = None,
    ) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        self.geometry = self.bundle.geometry
        self.engine: Engine = engine or open_engine(self.bundle, threads)
        self.low_memory = low_memory
        self.clip: video.Clip | None = None
        self._generator = Generator(self.engine, self.geometry)
        self._prompt = Prompt(self.bundle) if self.bundle.manifest.tokenizer else None
        self._cancel = threading.Event()
        self._ingest: Ingest | None = None  # of a video that was begun
        self._conversation: Conversation | None = None  # about the loaded video

    @property
    def video(self) -> EncodedVideo | None:
        """The loaded video after all encoders."""
        return self._conversation.video if self._conversation else None

    @property
    def video_stats(self) -> dict[str, float]:
        """Metrics of loading the video, by the contract's names; they are also in every answer's."""
        return self._loaded().stats.as_dict()

    def load_video(
        self,
        path: str | Path,
        start_s: float | None = None,
        end_s: float | None = None,
        *,
        progress: Progress = _silent,
    ) -> EncodedVideo:
        """Load a clip (or its part from start_s to end_s, seconds); questions are then about it.

        `progress(stage)` is called before each step. Which frames were sampled is in `clip`.

        Raises:
            MvgptError: a file that cannot be opened as video (the previous one stays loaded) or decoded (none does).
            Cancelled: `cancel` was called meanwhile; no video is loaded.
        """
        started, stats = time.perf_counter(), Stats()
        with stats.timed("video_decode_ms"):
            clip = video.open_clip(path, start_s, end_s, self.geometry.num_frames)

        def frames() -> Iterator[np.ndarray]:
            source = iter(clip.frames())
            while True:
                with stats.timed("video_decode_ms"):
                    frame = next(source, None)
                if frame is None:
                    return
                yield frame

        self._begin(self._required_prompt().prefix_ids, stats, progress, started)
        encoded = self._load(frames())
        self.clip = clip
        return encoded

    def load_frames(self, frames: Iterable[np.ndarray], *, progress: Progress = _silent) -> EncodedVideo:
        """The same for 1 to num_frames decoded frames, uint8 [H, W, 3] RGB each."""
        self._begin(self._required_prompt().prefix_ids, Stats(), progress, time.perf_counter())
        return self._load(frames)

    def begin(self, *, progress: Progress = _silent) -> None:
        """Begin a video whose frames arrive one by one; one that was begun before is dropped.

        What only `finish` needs is loaded and run once now, when nobody waits yet; not with low_memory.

        Raises:
            MvgptError: the bundle has no tokenizer.
            Cancelled: see `load_video`.
        """
        self._begin(self._required_prompt().prefix_ids, Stats(), progress, time.perf_counter())
        self._begun().prewarm()

    def add_frame(self, rgb: np.ndarray, timestamp_s: float) -> bool:
        """Take the next frame of a stream, if a second has passed since the last one taken: encode and prefill it.

        Args:
            rgb: uint8 [H, W, 3]; not used after the call.
            timestamp_s: seconds from any origin; `FrameClock` decides by it.

        Returns:
            Whether the frame was taken.

        Raises:
            MvgptError: nothing was begun; no such frame or timestamp; more than num_frames frames are to be taken.
                After the last three, the video can go on without this frame.
            Cancelled: `cancel` was called since `begin`; no video is begun any more.
        """
        ingest = self._begun()
        if not ingest.takes(timestamp_s):
            return False
        index = ingest.prepare(rgb)
        self._ingest = None  # if the next step ends half-way
        ingest.encode(index)
        self._ingest = ingest
        return True

    def finish(self) -> EncodedVideo:
        """Load what was begun: select frames, encode the video, prefill the rest. Questions are then about it.

        Raises:
            MvgptError: nothing was begun, or no frame was added.
            Cancelled: see `load_video`.
        """
        return self._load(())

    def ask(
        self,
        question: str,
        *,
        keep_history: bool = False,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        repetition_penalty: float | None = None,
        seed: int = 0,
    ) -> Answer:
        """Answer a question about the loaded video: iterate over the result for tokens as they are generated.

        What is not given is the manifest's default; `SamplingOptions` explains the options.

        Args:
            keep_history: go on after the questions and answers before, as far as they came. Otherwise the conversation
                starts over, and only the video is kept.

        Raises:
            MvgptError: no video is loaded, or bad options.
            ContextFull: the prompt does not fit the KV cache; it says by how much.
        """
        conversation, defaults = self._loaded(), self.bundle.manifest.sampling
        options = SamplingOptions(
            temperature=defaults.temperature if temperature is None else temperature,
            top_p=defaults.top_p if top_p is None else top_p,
            top_k=defaults.top_k if top_k is None else top_k,
            repetition_penalty=defaults.repetition_penalty if repetition_penalty is None else repetition_penalty,
            seed=seed,
        )
        limit = defaults.max_new_tokens if max_new_tokens is None else max_new_tokens
        if limit < 1:
            raise MvgptError("bad max_new_tokens", stage="session", expected="≥ 1", got=limit)
        return Answer(
            conversation, self._cancel, question, keep_history=keep_history, max_new_tokens=limit, options=options
        )

    def snapshot(self) -> Snapshot:
        """Where the conversation stands: just a position in the KV cache, nothing is copied."""
        return self._loaded().snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Take the conversation back to a snapshot; `ask(…, keep_history=True)` goes on from there.

        Raises:
            MvgptError: the KV cache no longer holds it: another video was loaded, or the conversation went back further
                and took another way.
        """
        self._loaded().restore(snapshot)

    def cancel(self) -> None:
        """Stop loading or answering before its next step (a frame, a prefill chunk, a token). From any thread."""
        self._cancel.set()

    def trace(
        self, frames: Iterable[np.ndarray], prefix_ids: Sequence[int], suffix_ids: Sequence[int]
    ) -> dict[str, np.ndarray]:
        """frames uint8 [n ≤ num_frames, H, W, 3] → every array of `contract.TRACE_KEYS`, as the eager model's `trace`.

        Runs the stages as `load_video` and `ask` do. Afterwards no video is loaded.
        """
        self._begin(prefix_ids, Stats(), _silent, time.perf_counter())
        out, _ = self._run_ingest(frames)
        logits = self._generator.prefill(self._generator.embed(suffix_ids), lambda stage: None)
        pixels = {
            "video_pixels": (out.frames.video_pixels, contract.IMAGENET_MEAN, contract.IMAGENET_STD),
            "clip_pixels": (out.frames.clip_pixels, contract.CLIP_MEAN, contract.CLIP_STD),
        }
        arrays = {
            name: preprocess.normalize(u8, out.frames.mask, mean, std) for name, (u8, mean, std) in pixels.items()
        }
        arrays["logits"] = logits
        return {name: arrays[name] if name in arrays else getattr(out, name) for name in contract.TRACE_KEYS}

    def _begin(self, prefix_ids: Sequence[int], stats: Stats, progress: Progress, started: float) -> None:
        def check(stage: str) -> None:
            progress(stage)
            if self._cancel.is_set():
                raise Cancelled(stage)

        self._cancel.clear()
        if self._conversation is not None:
            self._conversation.close()
        self._conversation = self._ingest = self.clip = None
        self._ingest = Ingest(
            self.engine,
            self.geometry,
            self._generator,
            prefix_ids,
            low_memory=self.low_memory,
            stats=stats,
            check=check,
            started=started,
        )

    def _load(self, frames: Iterable[np.ndarray]) -> EncodedVideo:
        encoded, stats = self._run_ingest(frames)
        self._conversation = Conversation(encoded, stats, self._required_prompt(), self._generator)
        return encoded

    def _run_ingest(self, frames: Iterable[np.ndarray]) -> tuple[EncodedVideo, Stats]:
        """Finish what was begun with these frames."""
        ingest = self._begun()
        self._ingest = None  # if the next steps end half-way
        # All frames first: a decoder that is asked slowly decodes ahead, and holds more than the encoders do.
        for index in [ingest.prepare(frame) for frame in frames]:
            ingest.encode(index)
        return ingest.finish(), ingest.stats

    def _begun(self) -> Ingest:
        if self._ingest is None:
            raise MvgptError("no video was begun", stage="session", remedy="call begin first")
        return self._ingest

    def _loaded(self) -> Conversation:
        if self._conversation is None:
            raise MvgptError(
                "no video is loaded", stage="session", remedy="call load_video, or begin, add_frame and finish"
            )
        return self._conversation

    def _required_prompt(self) -> Prompt:
        return self._prompt or Prompt(self.bundle)  # which raises: the bundle has no tokenizer
