"""Clips, labels and questions as arrays: batch number `step` of a seed is always the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from mvgpt_export.config import ModelConfig
from mvgpt_runtime.contract import PROMPT_PREFIX, PROMPT_SUFFIX
from mvgpt_runtime.synthetic import TYPES, ask_about, draw, scene
from mvgpt_runtime.synthetic.scenes import FRAMES, KINDS, MAX_SEED, Kind, Scene
from tokenizers import Tokenizer
from torch.utils.data import Dataset

from .labels import NOTHING, key_frames, mentions, patch_labels

DRAWS = 4  # of questions about a clip
LOOKED_UP = 0.3  # share of the questions that are answered by looking at one object, which are learned soon, to ask
Shown = Literal["all", "moments", "keys", "pairs", "none"]


@dataclass
class Batch:
    """B clips."""

    frames: torch.Tensor  # uint8 [B, n, S, S, 3], of a clip's T frames those that are `shown`
    shown: torch.Tensor  # int64 [B, n]
    keys: torch.Tensor  # int64 [B, key frames], as the frame scorer should pick them
    things: torch.Tensor  # int64 [B, T, patches], this and the next three: of `patch_labels`
    objects: torch.Tensor  # int64 [B, objects, 7]
    tracks: torch.Tensor  # float32 [B, T, objects, 3]
    flashes: torch.Tensor  # bool [B, T]
    ids: torch.Tensor  # int64 [B, n]: questions and answers, one after the other, padded with 0
    targets: torch.Tensor  # int64 [B, n]: the next token of the same question or answer, else NOTHING
    answers: torch.Tensor  # bool [B, n]: whether that one belongs to an answer
    blocks: torch.Tensor  # int64 [B, n]: which question a token belongs to; −1: padding
    places: torch.Tensor  # int64 [B, n]: position within it
    types: torch.Tensor  # int64 [B, n]: the question's, an index into TYPES
    mentions: torch.Tensor  # int64 [B, n, 3]: of `mentions`

    def shares(self, n: int) -> list[Batch]:
        """n batches of the clips, one part after the other."""
        parts = [tensor.tensor_split(n) for tensor in vars(self).values()]
        return [Batch(*part) for part in zip(*parts, strict=True)]

    def of_patches(self, values: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
        """What each patch of the frames int64 [B, n] shows of `values` [B, n, objects, k] → [B, n, patches, k]; of a
        patch of the background, the first object's."""
        things = of_clips(self.things, frames).clamp(min=0)
        return values.gather(2, things.unsqueeze(-1).expand(-1, -1, -1, values.shape[-1]))


class Batches(Dataset[Batch]):
    """A batch for every step, of clips that no other step has.

    Args:
        tokenizer: tokenizer.json's text.
        config: the model's; frames and patches are of its sizes.
        seed: a multiple of DRAWS; it and those up to the next are used, above all seeds of evaluation.
        clips: per batch.
        length: tokens of questions and answers per clip, filled with as many as fit.
        shown: the frames to draw: all, four of many moments, the keys, two of these that follow each other, or none.
        kinds: of scenes, if not all.
    """

    def __init__(
        self,
        tokenizer: str,
        config: ModelConfig,
        *,
        seed: int,
        clips: int,
        length: int,
        shown: Shown = "all",
        kinds: tuple[Kind, ...] = KINDS,
    ) -> None:
        self.tokenizer, self.config = Tokenizer.from_str(tokenizer), config
        self.seed, self.clips, self.length = MAX_SEED + seed, clips, length
        self.shown, self.kinds = shown, kinds

    def __getitem__(self, step: int) -> Batch:
        clips = [self._clip(step * self.clips + i) for i in range(self.clips)]
        return Batch(*(torch.from_numpy(np.stack(arrays)) for arrays in zip(*clips, strict=True)))

    def _clip(self, index: int) -> tuple[np.ndarray, ...]:
        what = scene(self.seed, index, self.kinds[index % len(self.kinds)])
        clip, pipeline = self.config.clip, self.config.pipeline
        rng = np.random.default_rng((self.seed, index, 2))
        *labels, flashes = patch_labels(what, clip.image_size // clip.patch_size)
        keys = key_frames(flashes, pipeline.chunk_frames, pipeline.select_k, rng)
        slot = int(rng.integers(len(keys) - 1))
        shown = {
            "all": np.arange(FRAMES),
            "moments": np.arange(index % 4, FRAMES, 4),
            "keys": keys,
            "pairs": keys[slot : slot + 2],
            "none": keys[:0],
        }[self.shown]
        frames = draw(what, clip.image_size, shown.tolist())
        return frames, shown, keys, *labels, flashes, *self._questions(what, index, rng)

    def _questions(self, what: Scene, index: int, rng: np.random.Generator) -> list[np.ndarray]:
        asked = [q for i in range(DRAWS) for q in ask_about(what, self.seed + i, index)]
        asked = [q for q in asked if q.type != "appearance" or q.template == "exists" or rng.random() < LOOKED_UP]
        arrays = [np.full(self.length, fill, type(fill)) for fill in (0, NOTHING, False, -1, 0, 0)]
        arrays.append(np.full((self.length, 3), NOTHING))
        used = 0
        for block, question in enumerate(dict.fromkeys(asked)):
            before = self._encode(PROMPT_SUFFIX.format(question=question.text))
            ids = before + self._encode(question.answer + "<|im_end|>")
            if used + len(ids) > self.length:
                continue
            targets = [*ids[1:], NOTHING]
            answers = [False] * (len(before) - 1) + [True] * (len(ids) - len(before)) + [False]
            kind = TYPES.index(question.type)
            words = [self.tokenizer.decode([i]).strip() for i in before]
            stand = mentions(words, question.template, what)
            stand += [(NOTHING, NOTHING, 1)] * (len(ids) - len(before))
            rows = (ids, targets, answers, [block] * len(ids), range(len(ids)), [kind] * len(ids), stand)
            for array, values in zip(arrays, rows, strict=True):
                array[used : used + len(ids)] = values
            used += len(ids)
        return arrays

    def prefix(self) -> list[int]:
        return self._encode(PROMPT_PREFIX)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids


def of_clips(values: torch.Tensor, frames: torch.Tensor) -> torch.Tensor:
    """[B, T, …] and int64 [B, n] → [B, n, …]: the clips' own frames."""
    return values[torch.arange(len(frames)).unsqueeze(1), frames]
