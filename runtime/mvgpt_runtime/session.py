"""The pipeline as a user holds it: a session on a bundle loads a video once and answers questions about it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from . import contract, preprocess, video
from .encode import EncodedVideo, encode_video
from .engines import Engine, open_engine
from .errors import Cancelled, MvgptError
from .generate import Generator
from .manifest import Bundle
from .prompt import Prompt, TextStream, load_tokenizer
from .sampler import Sampler, SamplingOptions
from .stats import Stats, peak_rss_bytes

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Token:
    """One generated token; `text` is what it completes (may be empty), and `str(token)` is that text."""

    id: int
    text: str

    def __str__(self) -> str:
        return self.text


class Session:
    """One bundle, one video at a time, any number of questions. Not thread-safe, except for `cancel`.

    Args:
        bundle: folder made by `mvgpt export`, or an opened `Bundle`.
        low_memory: unload the encoders before the language model runs, and it before them.
        threads: size of the process-wide thread pool (None: the backend's choice).

    Raises:
        MvgptError: a bundle that is damaged, of another version, or unfit for this runtime.
    """

    def __init__(self, bundle: str | Path | Bundle, *, low_memory: bool = False, threads: int | None = None) -> None:
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        self.geometry = self.bundle.geometry
        self.engine: Engine = open_engine(self.bundle, threads)
        self.low_memory = low_memory
        self._generator = Generator(self.engine, self.geometry)
        self._tokenizer = load_tokenizer(self.bundle) if self.bundle.manifest.tokenizer else None
        self._cancel = threading.Event()
        self._video: EncodedVideo | None = None
        self.clip: video.Clip | None = None  # where the loaded video's frames were sampled
        self._video_stats = Stats()
        self._kept = 0  # positions of prefix and visual tokens that the KV cache holds
        self._turn = 0  # counts whatever takes over the KV cache: an older answer must not go on

    @property
    def video(self) -> EncodedVideo | None:
        """The loaded video after all encoders."""
        return self._video

    def load_video(
        self,
        path: str | Path,
        start_s: float | None = None,
        end_s: float | None = None,
        *,
        progress: Progress = lambda stage: None,
    ) -> EncodedVideo:
        """Decode and encode a clip (or its part from start_s to end_s, seconds); questions are then about it.

        `progress(stage)` is called before each step. Which frames were sampled is in `clip`.

        Raises:
            MvgptError: a file that cannot be read as video; the previous video stays loaded.
            Cancelled: `cancel` was called meanwhile.
        """
        stats = Stats()
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

        encoded = self._load(frames(), stats, progress)
        self.clip = clip
        return encoded

    def load_frames(self, frames: Iterable[np.ndarray], *, progress: Progress = lambda stage: None) -> EncodedVideo:
        """The same for 1 to num_frames decoded frames, uint8 [H, W, 3] RGB each."""
        encoded = self._load(frames, Stats(), progress)
        self.clip = None
        return encoded

    def ask(
        self,
        question: str,
        *,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> Answer:
        """Answer a question about the loaded video: iterate over the result for tokens as they are generated.

        What is not given is the manifest's default. Questions are independent; the video's part of the KV cache is kept
        between them.

        Raises:
            MvgptError: no video or tokenizer, bad options, or a question that does not fit the KV cache.
        """
        if self._video is None:
            raise MvgptError("no video is loaded", stage="session", remedy="call load_video first")
        defaults = self.bundle.manifest.sampling
        options = SamplingOptions(
            defaults.temperature if temperature is None else temperature,
            defaults.top_p if top_p is None else top_p,
            seed,
        )
        limit = defaults.max_new_tokens if max_new_tokens is None else max_new_tokens
        if limit < 1:
            raise MvgptError("bad max_new_tokens", stage="session", expected="≥ 1", got=limit)
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.bundle)  # raises: the bundle has none
        return Answer(self, self._video, question, limit, options)

    def cancel(self) -> None:
        """Stop the running `load_video` or answer before its next step (a frame, a prefill chunk, a token)."""
        self._cancel.set()

    def trace(self, frames: np.ndarray, prefix_ids: Sequence[int], suffix_ids: Sequence[int]) -> dict[str, np.ndarray]:
        """frames uint8 [n ≤ num_frames, H, W, 3] → every array of `contract.TRACE_KEYS`, as the eager model's `trace`.

        Runs the stages as `load_video` and `ask` do. Afterwards no video is loaded.
        """
        self._video, self.clip, self._kept = None, None, 0
        self._turn += 1
        out = encode_video(self.engine, self.geometry, frames, Stats(), lambda stage: None)
        prompt = [self._generator.embed(list(prefix_ids)), out.visual_tokens, self._generator.embed(list(suffix_ids))]
        logits = self._generator.prefill(np.concatenate(prompt), 0)
        assert logits is not None  # nothing cancels it
        pixels = {
            "video_pixels": (out.frames.video_pixels, contract.IMAGENET_MEAN, contract.IMAGENET_STD),
            "clip_pixels": (out.frames.clip_pixels, contract.CLIP_MEAN, contract.CLIP_STD),
        }
        arrays = {
            name: preprocess.normalize(u8, out.frames.mask, mean, std) for name, (u8, mean, std) in pixels.items()
        }
        arrays["logits"] = logits
        return {name: arrays[name] if name in arrays else getattr(out, name) for name in contract.TRACE_KEYS}

    def _load(self, frames: Iterable[np.ndarray], stats: Stats, progress: Progress) -> EncodedVideo:
        def check(stage: str) -> None:
            progress(stage)
            if self._cancel.is_set():
                raise Cancelled(stage)

        self._cancel.clear()
        self._turn += 1
        if self.low_memory:
            for stage in contract.LANGUAGE_STAGES:
                self.engine.unload(stage)
            self._kept = 0
        encoded = encode_video(self.engine, self.geometry, frames, stats, check)
        if self.low_memory:
            for stage in contract.ENCODER_STAGES:
                self.engine.unload(stage)
        self._video, self._video_stats, self._kept = encoded, stats, 0
        return encoded


class Answer:
    """An answer in the making: iterate for `Token`s; then `text`, `token_ids`, `finish_reason` and `stats` are whole.

    finish_reason: "stop" (the model ended it), "length" (max_new_tokens, or the KV cache is full), "cancelled".
    """

    def __init__(
        self, session: Session, encoded: EncodedVideo, question: str, max_new_tokens: int, options: SamplingOptions
    ) -> None:
        assert session._tokenizer is not None
        self._session, self._encoded, self._limit, self._options = session, encoded, max_new_tokens, options
        prompt = Prompt(session.bundle, session._tokenizer)
        self.prefix_ids, self.suffix_ids = prompt.prefix_ids, prompt.suffix_ids(question)
        self._stream = TextStream(session._tokenizer)
        self.token_ids: list[int] = []
        self.finish_reason: str | None = None
        self._stats, self._video_stats, self._decode_steps = Stats(), session._video_stats, 0
        self._tokens = self._run()
        needed = len(self.prefix_ids) + session.geometry.visual_tokens + len(self.suffix_ids)
        session._generator._check_room(0, needed)
        self._stats.add("num_prompt_tokens", needed)

    @property
    def text(self) -> str:
        """The answer so far."""
        return self._stream.text

    @property
    def stats(self) -> dict[str, float]:
        """Metrics of this answer and of its video, by the contract's names."""
        return (self._video_stats + self._stats).as_dict()

    def __iter__(self) -> Iterator[Token]:
        return self._tokens

    def _run(self) -> Iterator[Token]:
        session, stats = self._session, self._stats
        if session._video is not self._encoded:
            raise MvgptError(
                "another video was loaded since this question was asked", stage="session", remedy="ask again"
            )
        session._cancel.clear()
        session._turn += 1
        self._turn = session._turn
        start = time.perf_counter()
        try:
            with stats.timed("model_load_ms"):
                for stage in contract.LANGUAGE_STAGES:
                    session.engine.load(stage)
            with stats.timed("prompt_eval_ms"):
                logits = self._prefill()
            if logits is None:
                self.finish_reason = "cancelled"
                return
            yield from self._decode(logits, start)
        finally:
            self.finish_reason = self.finish_reason or "cancelled"  # the caller left the loop
            self._finish_stats()

    def _prefill(self) -> np.ndarray | None:
        """Everything before the first token; the prefix and the video only if the KV cache does not hold them."""
        session, generator = self._session, self._session._generator
        cancelled = session._cancel.is_set
        suffix = generator.embed(self.suffix_ids)
        rows = len(suffix)
        if session._kept == 0:
            kept = np.concatenate([generator.embed(self.prefix_ids), self._encoded.visual_tokens])
            if generator.prefill(kept, 0, cancelled) is None:
                return None
            session._kept = len(kept)
            rows += len(kept)
        self._stats.add("num_prefilled_tokens", rows)
        return generator.prefill(suffix, session._kept, cancelled)

    def _decode(self, logits: np.ndarray, start: float) -> Iterator[Token]:
        session, stats = self._session, self._stats
        stop_ids = frozenset(session.bundle.manifest.stop_ids)
        position = session._kept + len(self.suffix_ids)
        steps = session._generator.decode(
            logits, position, Sampler(self._options), stop_ids, self._limit, stats, session._cancel.is_set
        )
        while self.finish_reason is None:
            if session._turn != self._turn:
                raise MvgptError("the session went on to something else", stage="session", remedy="ask again")
            before = time.perf_counter()
            step = next(steps)
            now = time.perf_counter()  # only the step is timed, not what the caller does with its token
            if "time_to_first_token_ms" not in stats.values:
                stats.add("time_to_first_token_ms", (now - start) * 1e3)
            elif step not in ("length", "cancelled"):
                stats.add("token_generation_ms", (now - before) * 1e3)
                self._decode_steps += 1
            if isinstance(step, str):
                self.finish_reason = step
                if rest := self._stream.finish():
                    yield Token(self.token_ids[-1], rest)
            else:
                self.token_ids.append(step)
                yield Token(step, self._stream.push(step))

    def _finish_stats(self) -> None:
        stats = self._stats
        values = stats.values
        stats.add("num_generated_tokens", len(self.token_ids))
        stats.rate("prefill_tokens_per_s", values.get("num_prefilled_tokens", 0), values.get("prompt_eval_ms", 0))
        stats.rate("decode_tokens_per_s", self._decode_steps, values.get("token_generation_ms", 0))
        stats.add("peak_rss_bytes", peak_rss_bytes())
