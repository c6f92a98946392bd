"""Step 8, generate: chunked prefill into the KV cache, then one token at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from .contract import Geometry
from .engines import Engine
from .errors import ContextFull, MvgptError
from .sampler import Sampler
from .stats import Stats

Check = Callable[[str], None]
"""Called with a stage's name before each of its steps; raises `Cancelled` to stop there."""


def chunk_plan(blocks: Iterable[int], prefill_chunk: int, start: int = 0) -> list[tuple[int, int]]:
    """(start_pos, rows) of every text_decoder call that prefills blocks of so many rows, the first one at `start`.

    Each block is cut at prefill_chunk, and no call holds rows of two blocks.
    """
    plan = []
    for rows in blocks:
        plan += [(start + first, min(prefill_chunk, rows - first)) for first in range(0, rows, prefill_chunk)]
        start += rows
    return plan


class Generator:
    """The language model's two stages as one thing: embeds, prefills and decodes.

    Attributes:
        cached: rows that the KV cache holds, from position 0; the next one goes there.
    """

    def __init__(self, engine: Engine, geometry: Geometry) -> None:
        self._engine, self._geometry = engine, geometry
        self.cached = 0

    def embed(self, ids: Sequence[int]) -> np.ndarray:
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

    def prefill(self, rows: np.ndarray, check: Check) -> np.ndarray:
        """Write rows float32 [n ≥ 1, hidden_size] after the cached ones; logits float32 [vocab_size] of the last.

        Raises:
            MvgptError: they do not fit the KV cache.
            Cancelled: `check` raised it; the chunks before are in the KV cache.
        """
        self.check_room(self.cached + len(rows))
        first = self.cached
        for start, count in chunk_plan([len(rows)], self._geometry.prefill_chunk, first):
            check("text_decoder")
            logits = self._append(rows[start - first :][:count])
        return logits

    def decode(
        self,
        logits: np.ndarray,
        sampler: Sampler,
        stop_ids: frozenset[int],
        max_new_tokens: int,
        stats: Stats,
        cancelled: Callable[[], bool],
    ) -> Iterator[int | str]:
        """Token ids as they are chosen, then one finish reason: "stop", "length" or "cancelled".

        `logits` are those of the last row in the KV cache. "length" is also the end of the KV cache. A token's row is
        written when another token is wanted: the last one's may be missing at the end, a stop token's always is.
        """
        token: int | None = None
        for _ in range(max_new_tokens):
            if cancelled():
                yield "cancelled"
                return
            if token is not None:
                if self.cached == self._geometry.max_context:
                    break
                logits = self._append(self.embed([token]))
            with stats.timed("aggregate_sampling_time_ms"):
                token = sampler(logits)
            if token in stop_ids:
                yield "stop"
                return
            yield token
        yield "length"

    def rewind(self, position: int) -> None:
        """Give up the rows from `position` on."""
        self.cached = min(self.cached, position)

    def check_room(self, positions: int) -> None:
        """ContextFull if a prompt of so many positions does not fit the KV cache."""
        if positions > self._geometry.max_context:
            raise ContextFull(positions, self._geometry.max_context)

    def _append(self, rows: np.ndarray) -> np.ndarray:
        inputs = [rows[None], np.array([self.cached], np.int64)]
        logits: np.ndarray = self._engine.run("text_decoder", inputs)[0][0]
        self.cached += len(rows)
        return logits
