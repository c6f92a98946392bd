"""Clips, labels and questions as arrays: batch number `step` of a seed is always the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from mvgpt_runtime.contract import PROMPT_PREFIX, PROMPT_SUFFIX
from mvgpt_runtime.synthetic import TYPES, ask_about, draw, scene
from mvgpt_runtime.synthetic.questions import VERBS
from mvgpt_runtime.synthetic.scenes import COLOURS, DIRECTIONS, FRAMES, MAX_SEED, SHAPES, SPEEDS, Scene
from tokenizers import Tokenizer
from torch.utils.data import Dataset

DOES = (
    *("stand", "turn", "grow", "shrink", "appear", "vanish", "flash"),
    *(f"{speed} {direction}" for speed in SPEEDS for direction in DIRECTIONS),
)
NOTHING = -100  # torch's ignore_index


@dataclass
class Batch:
    """B clips. Labels are of each frame's patches: 0 is the background, then an index into a list plus 1."""

    frames: torch.Tensor  # uint8 [B, T, S, S, 3]
    colours: torch.Tensor  # int64 [B, T, patches], as the next two
    shapes: torch.Tensor
    does: torch.Tensor
    offsets: torch.Tensor  # float32 [B, T, patches, 2]: from the patch to the object's centre, in radii
    flashes: torch.Tensor  # bool [B, T]: frames with an object that flashes up
    ids: torch.Tensor  # int64 [B, n]: questions and answers, one after the other, padded with 0
    targets: torch.Tensor  # int64 [B, n]: the next token of the same question or answer, else NOTHING
    answers: torch.Tensor  # bool [B, n]: whether that one belongs to an answer
    blocks: torch.Tensor  # int64 [B, n]: which question a token belongs to; −1: padding
    places: torch.Tensor  # int64 [B, n]: position within it
    types: torch.Tensor  # int64 [B, n]: the question's, an index into TYPES


class Batches(Dataset[Batch]):
    """A batch for every step, of clips that no other step has.

    Args:
        tokenizer: tokenizer.json's text.
        size, grid: of frames, pixels and patches a side.
        seed: even; it and the next are used, above all seeds of evaluation.
        clips: per batch.
        length: tokens of questions and answers per clip, filled with as many as fit.
        words: nothing is drawn; before each question stands a description of the clip.
    """

    def __init__(
        self, tokenizer: str, size: int, grid: int, *, seed: int, clips: int, length: int, words: bool = False
    ) -> None:
        self.tokenizer, self.size, self.grid = Tokenizer.from_str(tokenizer), size, grid
        self.seed, self.clips, self.length, self.words = MAX_SEED + seed, clips, length, words

    def __getitem__(self, step: int) -> Batch:
        clips = [self._clip(step * self.clips + i) for i in range(self.clips)]
        return Batch(*(torch.from_numpy(np.stack(arrays)) for arrays in zip(*clips, strict=True)))

    def _clip(self, index: int) -> tuple[np.ndarray, ...]:
        what = scene(self.seed, index)
        seen = () if self.words else (draw(what, self.size), *patch_labels(what, self.grid))
        seen = seen or (np.zeros(0, np.uint8), *(np.zeros(0, np.int64) for _ in range(5)))
        return *seen, *self._questions(what, index)

    def _questions(self, what: Scene, index: int) -> list[np.ndarray]:
        asked = ask_about(what, self.seed, index) + ask_about(what, self.seed + 1, index)
        arrays = [np.full(self.length, fill, type(fill)) for fill in (0, NOTHING, False, -1, 0, 0)]
        used = 0
        shown = self._encode(description(what)) if self.words else []
        for block, question in enumerate(dict.fromkeys(asked)):
            before = shown + self._encode(PROMPT_SUFFIX.format(question=question.text))
            ids = before + self._encode(question.answer + "<|im_end|>")
            if used + len(ids) > self.length:
                continue
            targets = [NOTHING] * len(shown) + ids[len(shown) + 1 :] + [NOTHING]
            answers = [False] * (len(before) - 1) + [True] * (len(ids) - len(before)) + [False]
            kind = TYPES.index(question.type)
            rows = (ids, targets, answers, [block] * len(ids), range(len(ids)), [kind] * len(ids))
            for array, values in zip(arrays, rows, strict=True):
                array[used : used + len(ids)] = values
            used += len(ids)
        return arrays

    def prefix(self) -> list[int]:
        return self._encode(PROMPT_PREFIX)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def description(what: Scene) -> str:
    """All that questions ask for, in words: what the video's tokens stand for. Sentences in the order of events."""
    sentences = []
    for thing in sorted(what.objects, key=lambda o: o.at):
        half = f" in the {('first', 'second')[thing.at >= FRAMES // 2]} half" if thing.does == "flash" else ""
        verb = VERBS.get(thing.does, "flashes up")
        sentences.append(" ".join(f"a {thing.speed} {thing.colour} {thing.shape} {verb}{half}.".split()))
    return " ".join(sentences) + "\n"


def patch_labels(what: Scene, grid: int) -> list[np.ndarray]:
    """What each patch of each frame shows most of, from the scene's description."""
    centres = (np.arange(grid) + 0.5) / grid
    y, x = (c.reshape(-1) for c in np.meshgrid(centres, centres, indexing="ij"))
    labels = [np.zeros((FRAMES, grid * grid), np.int64) for _ in range(3)]
    offsets, nearest = np.zeros((FRAMES, grid * grid, 2), np.float32), np.full((FRAMES, grid * grid), np.inf)
    flashes = np.zeros(FRAMES, bool)
    for thing in what.objects:
        dx, dy, radius = thing.x[:, None] - x, thing.y[:, None] - y, thing.radius[:, None]
        distance = np.maximum(np.abs(dx), np.abs(dy)) - radius
        here = (distance < 0.1 / grid) & thing.visible[:, None] & (distance < nearest)
        nearest[here] = distance[here]
        does = f"{thing.speed} {thing.does}".strip()
        values = (list(COLOURS).index(thing.colour), SHAPES.index(thing.shape), DOES.index(does))
        for label, value in zip(labels, values, strict=True):
            label[here] = value + 1
        offsets[here] = np.stack([dx / radius, dy / radius], axis=-1)[here]
        if thing.does == "flash":
            flashes |= thing.visible
    return [*labels, offsets, flashes]
