"""Other ways to choose key frames, to measure what attention-based frame selection is worth. The cost is the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..engines import Engine

SELECTIONS = {
    "attention": "the frames that receive most attention, as the frame scorer picks them",
    "uniform": "frames at equal distances, whatever they show",
    "lowest": "the frames that receive least attention",
}


class SelectingEngine:
    """An engine whose `frame_scorer` picks by `selection`; all else is the engine's own."""

    def __init__(self, engine: Engine, selection: str) -> None:
        self._engine, self._selection = engine, selection

    def load(self, stage: str) -> None:
        self._engine.load(stage)

    def unload(self, stage: str) -> None:
        self._engine.unload(stage)

    def prewarm(self, stage: str) -> None:
        self._engine.prewarm(stage)

    def run(self, stage: str, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        outputs = self._engine.run(stage, inputs)
        if stage != "frame_scorer":
            return outputs
        scores, selected = outputs
        return [scores, select(self._selection, scores, selected)]


def select(selection: str, scores: np.ndarray, selected: np.ndarray) -> np.ndarray:
    """scores float32 [F] and the frame scorer's choice int64 [k] → int64 [k], in time order."""
    frames, k = len(scores), len(selected)
    if selection == "uniform":
        return ((2 * np.arange(k) + 1) * frames // (2 * k)).astype(np.int64)  # the middle of k equal parts
    if selection == "lowest":
        return np.sort(np.argsort(scores, kind="stable")[:k]).astype(np.int64)
    return selected
