"""Steps 7 and 8, an answer in the making: question → token ids → prefill → tokens and text."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .conversation import Conversation
from .errors import Cancelled
from .prompt import TextStream
from .sampler import Sampler, SamplingOptions
from .stats import Stats, peak_rss_bytes


@dataclass(frozen=True)
class Token:
    """One generated token; `text` is what it completes (may be empty), and `str(token)` is that text."""

    id: int
    text: str

    def __str__(self) -> str:
        return self.text


class Answer:
    """Made by `Session.ask`: iterate for `Token`s; then `text`, `token_ids`, `finish_reason` and `stats` are whole.

    Nothing runs before the first token is asked for. Question and answer then belong to the conversation, as far as the
    answer came.

    Attributes:
        prefix_ids, suffix_ids: the prompt's text ids before and after the visual tokens; with earlier turns, if any.
        token_ids: generated so far, without the token that stopped them.
        finish_reason: "stop" (the model ended it), "length" (max_new_tokens, or the KV cache is full), "cancelled".
    """

    def __init__(
        self,
        conversation: Conversation,
        cancel: threading.Event,
        question: str,
        *,
        keep_history: bool,
        max_new_tokens: int,
        options: SamplingOptions,
    ) -> None:
        self._conversation, self._cancel, self._limit, self._options = conversation, cancel, max_new_tokens, options
        prompt = conversation.prompt
        history = list(conversation.ids) if keep_history else []
        self._history, self._asked_in = len(history), conversation.turn if keep_history else None
        self.prefix_ids = list(prompt.prefix_ids)
        self.suffix_ids = history + (prompt.next_turn_ids(question) if history else prompt.suffix_ids(question))
        self.token_ids: list[int] = []
        self.finish_reason: str | None = None
        self._stream = TextStream(prompt.tokenizer)
        self._stats, self._decode_steps = Stats(), 0
        self._tokens = self._run()
        needed = conversation.start + len(self.suffix_ids)
        conversation.generator.check_room(needed)
        self._stats.add("num_prompt_tokens", needed)

    @property
    def text(self) -> str:
        """The answer so far."""
        return self._stream.text

    @property
    def stats(self) -> dict[str, float]:
        """Metrics of this answer and of its video, by the contract's names."""
        return (self._conversation.stats + self._stats).as_dict()

    def __iter__(self) -> Iterator[Token]:
        return self._tokens

    def _run(self) -> Iterator[Token]:
        conversation = self._conversation
        conversation.check(conversation.turn if self._asked_in is None else self._asked_in)
        self._cancel.clear()
        turn = conversation.begin_turn(self._history)
        conversation.say(self.suffix_ids[self._history :])
        start = time.perf_counter()
        try:
            yield from self._decode(self._prefill(), turn, start)
        except Cancelled:
            self.finish_reason = "cancelled"
        finally:
            self.finish_reason = self.finish_reason or "cancelled"  # the caller left the loop
            self._finish_stats()

    def _prefill(self) -> np.ndarray:
        """What the KV cache does not hold: the question, and before it what a cut-off turn left out."""

        def check(stage: str) -> None:
            if self._cancel.is_set():
                raise Cancelled(stage)

        generator, start = self._conversation.generator, self._conversation.start
        rest = self.suffix_ids[generator.cached - start :]
        self._stats.add("num_prefilled_tokens", len(rest))
        with self._stats.timed("prompt_eval_ms"):
            return generator.prefill(generator.embed(rest), check)

    def _decode(self, logits: np.ndarray, turn: int, start: float) -> Iterator[Token]:
        stats, conversation, prompt = self._stats, self._conversation, self._conversation.prompt
        sampler = Sampler(self._options, [*self.prefix_ids, *self.suffix_ids])
        steps = conversation.generator.decode(logits, sampler, prompt.stop_ids, self._limit, stats, self._cancel.is_set)
        while self.finish_reason is None:
            conversation.check(turn)
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
                conversation.say([step])
                yield Token(step, self._stream.push(step))

    def _finish_stats(self) -> None:
        stats = self._stats
        values = stats.values
        stats.add("num_generated_tokens", len(self.token_ids))
        stats.rate("prefill_tokens_per_s", values.get("num_prefilled_tokens", 0), values.get("prompt_eval_ms", 0))
        stats.rate("decode_tokens_per_s", self._decode_steps, values.get("token_generation_ms", 0))
        stats.add("peak_rss_bytes", peak_rss_bytes())
