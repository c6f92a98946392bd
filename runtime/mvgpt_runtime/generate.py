"""Step 8, generate: chunked prefill into the KV cache, then one token at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from .contract import Geometry
from .engines import Engine
from .errors import MvgptError
from .sampler import Sampler
from .stats import Stats

Cancelled = Callable[[], bool]


class Generator:
    """The language model's two stages as one thing: embeds, prefills and decodes at positions the caller owns."""

    def __init__(self, engine: Engine, geometry: Geometry) -> None:
        self._engine, self._geometry = engine, geometry

    def embed(self, ids: list[int]) -> np.ndarray:
        """Embeddings float32 [len(ids), hidden_size]."""
        if ids and not 0 <= min(ids) <= max(ids) < self._geometry.vocab_size:
            raise MvgptError(
                "token id outside the vocabulary",
                stage="token_embedding",
                expected=f"0 … {self._geometry.vocab_size - 1}",
                got=f"{min(ids)} … {max(ids)}",
            )
        chunk = self._geometry.prefill_chunk
        parts = [np.zeros((0, self._geometry.hidden_size), np.float32)]
        for first in range(0, len(ids), chunk):
            part = np.array([ids[first : first + chunk]], np.int64)
            parts.append(self._engine.run("token_embedding", [part])[0][0])
        return np.concatenate(parts)

    def prefill(
        self, embeddings: np.ndarray, start_pos: int, cancelled: Cancelled = lambda: False
    ) -> np.ndarray | None:
        """Write rows [n ≥ 1, hidden_size] at start_pos; logits [vocab_size] of the last, or None if cancelled."""
        self._check_room(start_pos, len(embeddings))
        logits = None
        for first in range(0, len(embeddings), self._geometry.prefill_chunk):
            if cancelled():
                return None
            logits = self._step(embeddings[first : first + self._geometry.prefill_chunk], start_pos + first)
        return logits

    def decode(
        self,
        logits: np.ndarray,
        position: int,
        sampler: Sampler,
        stop_ids: frozenset[int],
        max_new_tokens: int,
        stats: Stats,
        cancelled: Cancelled = lambda: False,
    ) -> Iterator[int | str]:
        """Token ids as they are chosen, then one finish reason: "stop", "length" or "cancelled".

        `logits` are those of the position before `position`. "length" is also the end of the KV cache.
        """
        token: int | None = None
        for _ in range(max_new_tokens):
            if cancelled():
                yield "cancelled"
                return
            if token is not None:  # the row of the last token is only computed if another token is wanted
                if position == self._geometry.max_context:
                    break
                logits = self._step(self.embed([token]), position)
                position += 1
            with stats.timed("aggregate_sampling_time_ms"):
                token = sampler(logits)
            if token in stop_ids:
                yield "stop"
                return
            yield token
        yield "length"

    def _step(self, rows: np.ndarray, start_pos: int) -> np.ndarray:
        logits: np.ndarray = self._engine.run("text_decoder", [rows[None], np.array([start_pos], np.int64)])[0][0]
        return logits

    def _check_room(self, start_pos: int, rows: int) -> None:
        if (needed := start_pos + rows) > self._geometry.max_context:
            raise MvgptError(
                f"the prompt is {needed - self._geometry.max_context} tokens too long for the KV cache",
                stage="text_decoder",
                expected=f"at most {self._geometry.max_context} positions",
                got=needed,
                remedy="ask a shorter question, or export with a larger max_context",
            )
