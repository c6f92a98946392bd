"""Cases of a bundle's stages, each alone on generated inputs, and of a whole video and its answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import contract
from ..contract import Geometry
from ..encode import EncodedVideo
from ..engines import Engine
from ..generate import Generator, chunk_plan
from ..ingest import Ingest, video_blocks
from ..prompt import Prompt
from ..sampler import Sampler, SamplingOptions
from ..stats import Stats
from .tolerances import UNQUANTIZED, tolerance
from .vectors import MARGIN, Case, Input, Result, Row, Table

GREEDY_TOKENS = 32
QUESTION = "What happens in this video?"


def stage_cases(engine: Engine, geometry: Geometry, recipe: str) -> Iterator[Case]:
    """In the order to run them in: the text_decoder's go on from each other."""
    for stage, name, inputs in _stage_inputs(geometry):
        outputs = engine.run(stage, [i.array() for i in inputs])
        tensors = contract.stage(stage).outputs
        exported = "fp32" if stage in UNQUANTIZED else recipe
        results = tuple(_result(t.name, value, exported) for t, value in zip(tensors, outputs, strict=True))
        yield Case(f"{stage}-{name}", stage, inputs, results)


def _stage_inputs(g: Geometry) -> Iterator[tuple[str, str, tuple[Input, ...]]]:
    """Stage, name of the case, inputs; each seed is used once."""

    def frames(stage: str, seed: int, *mask: float) -> tuple[Input, ...]:
        return _input(g, stage, "frames", generator="frames", seed=seed), _values(g, stage, "frame_mask", *mask)

    yield "image_encoder", "frame", frames("image_encoder", 101, 1.0)
    yield "image_encoder", "padding", frames("image_encoder", 102, 0.0)
    # Larger ones would saturate the scorer. Of equal frames the first ones are selected.
    features = "clip_features"
    yield "frame_scorer", "spread", (_floats(g, "frame_scorer", features, 103, 0.5),)
    yield "frame_scorer", "equal", (_values(g, "frame_scorer", features, 0.0),)
    yield "video_encoder", "frames", frames("video_encoder", 104, 1.0)
    yield "video_encoder", "padding", frames("video_encoder", 105, *[1.0] * (g.key_frames - 1), 0.0)
    yield "image_projector", "features", (_floats(g, "image_projector", features, 106, 1.0),)
    yield "video_projector", "features", (_floats(g, "video_projector", "video_features", 107, 1.0),)
    ids = _input(g, "token_embedding", "token_ids", 7, generator="integers", seed=108, below=g.vocab_size)
    yield "token_embedding", "ids", (ids,)
    first = min(64, g.prefill_chunk)
    for name, rows, start in (("first", first, 0), ("second", min(7, first), first), ("rewound", 1, first)):
        # About as large as the embeddings of trained models.
        rows_ = _floats(g, "text_decoder", "embeddings", 109 + start + rows, 1 / 32, rows)
        yield "text_decoder", name, (rows_, _values(g, "text_decoder", "start_pos", start))


def _input(g: Geometry, stage: str, name: str, rows: int = 1, **how: Any) -> Input:
    """An input of the contract; a dimension that may vary gets `rows`."""
    (tensor,) = (t for t in contract.stage(stage).inputs if t.name == name)
    shape = tuple(most if least == most else rows for least, most in tensor.shape(g))
    return Input(name=name, dtype=tensor.dtype, shape=shape, **how)


def _floats(g: Geometry, stage: str, name: str, seed: int, scale: float, rows: int = 1) -> Input:
    return _input(g, stage, name, rows, generator="floats", seed=seed, scale=scale)


def _values(g: Geometry, stage: str, name: str, *values: float) -> Input:
    return _input(g, stage, name, generator="values", values=values)


def _result(name: str, value: np.ndarray, recipe: str) -> Result:
    return Result(name, value, "close", tolerance(name, recipe)) if value.dtype.kind == "f" else Result(name, value)


def pipeline_cases(engine: Engine, geometry: Geometry, prompt: Prompt, recipe: str) -> Iterator[Case]:
    """A video of as many frames as the model takes, and one of fewer, each with the greedy answer to a question.

    One fewer: several padding frames would have equal scores, which another backend may compute unequal.
    """
    for name, seed, count in (("whole", 201, geometry.num_frames), ("padded", 202, geometry.num_frames - 1)):
        shape = (count, 90, 120, 3)
        frames = Input(name="frames", dtype="uint8", shape=shape, generator="frames", seed=seed)
        question = Input(name="question", dtype="text", shape=(), generator="text", text=QUESTION)
        yield Case(
            f"pipeline-{name}",
            "pipeline",
            (frames, question),
            tuple(_pipeline(engine, geometry, prompt, frames.array(), recipe)),
        )


def _pipeline(engine: Engine, geometry: Geometry, prompt: Prompt, frames: np.ndarray, recipe: str) -> Iterator[Result]:
    """A tie in a choice ends the comparison of a case, so each stands before what depends on it."""
    generator, suffix = Generator(engine, geometry), prompt.suffix_ids(QUESTION)
    ingest = Ingest(
        engine,
        geometry,
        generator,
        prompt.prefix_ids,
        low_memory=False,
        stats=Stats(),
        check=_unchecked,
        started=time.perf_counter(),
    )
    for frame in frames:
        ingest.encode(ingest.prepare(frame))
    video = ingest.finish()
    blocks = [*video_blocks(len(prompt.prefix_ids), geometry), len(suffix)]
    yield Result("prefill", Table(("start_pos", "rows"), list(chunk_plan(blocks, geometry.prefill_chunk))))
    yield _result("clip_features", video.clip_features, recipe)
    yield _result("frame_scores", video.frame_scores, recipe)
    yield _selection(video, tolerance("frame_scores", recipe))
    yield _result("video_features", video.video_features, recipe)
    yield _result("visual_tokens", video.visual_tokens, recipe)
    logits = generator.prefill(generator.embed(suffix), _unchecked)
    yield _result("logits", logits, recipe)
    sampler = _Greedy(tolerance("logits", recipe))
    # Past stop tokens too: the more tokens the better.
    for _ in generator.decode(logits, sampler, frozenset(), GREEDY_TOKENS, Stats(), lambda: False):
        pass
    yield Result("tokens", Table(("step", "token_id", *MARGIN), sampler.rows), "choices")


def _selection(video: EncodedVideo, close: float) -> Result:
    """A row per chunk; the margin is the least between a selected frame's score and another's."""
    rows: list[Row] = []
    for chunk, (scores, selected) in enumerate(zip(video.frame_scores, video.selected, strict=True)):
        others = np.delete(scores, selected)
        gap = np.abs(scores[selected, None].astype(np.float64) - others).min(initial=np.inf)
        rows.append((chunk, selected.tolist(), float(gap), _tie_below(scores, close)))
    return Result("selected", Table(("chunk", "selected", *MARGIN), rows), "choices")


def _tie_below(values: np.ndarray, close: float) -> float:
    """Two values that are closer than this may change places within the tolerance."""
    return 2 * close * float(np.abs(values).max())


class _Greedy(Sampler):
    """Notes by how much each token won."""

    def __init__(self, close: float) -> None:
        super().__init__(SamplingOptions())
        self.rows: list[Row] = []
        self._close = close

    def __call__(self, logits: np.ndarray) -> int:
        token = super().__call__(logits)
        second, first = np.partition(logits.astype(np.float64), -2)[-2:]
        self.rows.append((len(self.rows), token, float(first - second), _tie_below(logits, self._close)))
        return token


def _unchecked(stage: str) -> None:
    pass
