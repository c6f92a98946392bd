"""Runs a bundle beside the eager model: each stage on the eager model's inputs, and the host's own way through them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from mvgpt_runtime import Session
from mvgpt_runtime.contract import ENCODER_STAGES, STAGE_NAMES, Geometry
from mvgpt_runtime.engines import Engine, open_engine
from mvgpt_runtime.frames import ClipFrames
from mvgpt_runtime.generate import Generator
from mvgpt_runtime.manifest import Bundle

from ..models.video_gpt import VideoGPT
from ..quant import Recipe
from .floors import CLOSE, limits
from .metrics import STEPS, Row, distance, exact, selected_equal, token_agreement
from .reference import FORCED_TOKENS, Inputs, Outputs, eager_outputs

Progress = Callable[[str], None]


class Recorder:
    """An engine that keeps what it is given and what it returns, by stage in the order of calls."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.calls: dict[str, list[tuple[list[np.ndarray], list[np.ndarray]]]] = {name: [] for name in STAGE_NAMES}

    def load(self, stage: str) -> None:
        self._engine.load(stage)

    def unload(self, stage: str) -> None:
        self._engine.unload(stage)

    def prewarm(self, stage: str) -> None:
        self._engine.prewarm(stage)

    def run(self, stage: str, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        kept = [array.copy() for array in inputs]  # the host may go on writing to them
        outputs = self._engine.run(stage, inputs)
        self.calls[stage].append((kept, outputs))
        return outputs

    def given(self, stage: str, index: int = 0) -> np.ndarray:
        """One input of all calls, end to end."""
        return np.concatenate([inputs[index] for inputs, _ in self.calls[stage]])

    def made(self, stage: str, index: int = 0) -> np.ndarray:
        """One output of all calls, end to end."""
        return np.concatenate([outputs[index] for _, outputs in self.calls[stage]])


def measure(bundle: Bundle, model: VideoGPT, recipe: Recipe, inputs: Inputs, progress: Progress) -> list[Row]:
    """The rows of one set of inputs, in data order. No more than one file of the bundle is loaded at a time."""
    engine, geometry = open_engine(bundle), bundle.geometry
    pixels = ClipFrames.of(inputs.frames, geometry.image_size, geometry.num_frames)
    progress(f"{inputs.name}: the bundle")
    accumulated, host = _host_outputs(bundle, engine, inputs, pixels)
    progress(f"{inputs.name}: the eager model")
    expected = eager_outputs(model, inputs, pixels, _key_frames(accumulated["selected"], geometry))
    progress(f"{inputs.name}: each stage by itself")
    own = _own_outputs(engine, geometry, inputs, pixels, expected, _key_frames(accumulated["selected"], geometry))

    note = ""
    if not np.array_equal(accumulated["selected"], expected["selected"]):
        note = "other key frames than the eager model's: both go on with the bundle's"
    # The rule is exact, on the scores at hand: two frames closer than rounding may be ranked either way.
    rule = torch.stack([model.frame_scorer.select(chunk) for chunk in torch.from_numpy(own["frame_scorer"])]).numpy()
    rows = list(host)
    scores = expected["frame_scorer"]
    largest = float(np.abs(scores).max())
    choices = {"eager": (rule, scores, 0.0), "bundle": (expected["selected"], scores, CLOSE * largest)}
    for fed, outputs in (("eager", own), ("bundle", accumulated)):
        for stage in STAGE_NAMES:
            metrics = distance(outputs[stage], expected[stage])
            if stage == "frame_scorer":
                metrics["selected_equal"] = selected_equal(outputs["selected"], *choices[fed])
            if stage == "text_decoder":
                metrics |= token_agreement(outputs[stage], expected[stage])
            bounds = limits(recipe, model.config, stage, fed, float(np.abs(expected[stage]).max()))
            about = note if stage == "frame_scorer" and fed == "bundle" else ""
            if stage == "text_decoder" and len(inputs.answer_ids) < FORCED_TOKENS:
                about = f"only {1 + len(inputs.answer_ids)} positions: the text or the KV cache ends there"
            rows.append(Row(inputs.name, stage, fed, metrics, bounds, about))
    return sorted(rows, key=lambda row: STEPS.index(row.step))


def _key_frames(selected: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Indices into the clip of selected [num_chunks, select_k]."""
    return (np.arange(geometry.num_chunks)[:, None] * geometry.chunk_frames + selected).reshape(-1)


def _padded(parts: np.ndarray, count: int) -> np.ndarray:
    """All padding frames are one input, of which a host runs the first: its output stands for every one."""
    return np.concatenate([parts, np.repeat(parts[-1:], count - len(parts), axis=0)])


def _host_outputs(bundle: Bundle, engine: Engine, inputs: Inputs, pixels: ClipFrames) -> tuple[Outputs, list[Row]]:
    """A session's way through the bundle: what its stages made of each other's outputs, and the rows of the host."""
    geometry, recorder = bundle.geometry, Recorder(engine)
    session = Session(bundle, low_memory=True, engine=recorder)
    session.trace(inputs.frames, inputs.prefix_ids, inputs.suffix_ids)

    features = _padded(recorder.made("image_encoder"), geometry.num_frames)
    image_tokens = _padded(recorder.made("image_projector"), geometry.num_frames)
    video_tokens = recorder.made("video_projector")
    selected = recorder.made("frame_scorer", 1).reshape(geometry.num_chunks, geometry.select_k)
    key = _key_frames(selected, geometry)
    ids = np.concatenate([given[0].ravel() for given, _ in recorder.calls["token_embedding"]])
    text = np.concatenate([made[0][0] for _, made in recorder.calls["token_embedding"]])
    prefix, suffix = np.split(text, [len(inputs.prefix_ids)])
    prompt = np.concatenate([prefix, *image_tokens, *video_tokens, suffix])
    appended = [rows[0] for (rows, _), _ in recorder.calls["text_decoder"]]
    starts = recorder.given("text_decoder", 1)
    places = [start + np.arange(len(rows)) for start, rows in zip(starts, appended, strict=True)]
    ran = len(recorder.calls["image_encoder"])
    host = [
        exact(
            inputs.name,
            "preprocess",
            [
                (recorder.given("image_encoder", 0), pixels.clip_pixels[:ran]),
                (recorder.given("image_encoder", 1), pixels.mask[:ran]),
            ],
        ),
        exact(inputs.name, "chunks", [(recorder.given("frame_scorer"), features)]),
        exact(
            inputs.name,
            "key_frames",
            [
                (recorder.given("video_encoder", 0), pixels.video_pixels[key]),
                (recorder.given("video_encoder", 1), pixels.mask[key]),
            ],
        ),
        exact(inputs.name, "prompt", [(ids, np.array([*inputs.prefix_ids, *inputs.suffix_ids]))]),
        exact(inputs.name, "assembly", [(np.concatenate(appended), prompt)]),
        exact(inputs.name, "positions", [(np.concatenate(places), np.arange(len(prompt)))]),
    ]
    generator = Generator(recorder, geometry)
    generator.cached = len(prompt) - len(suffix)
    answer = generator.embed(inputs.answer_ids)
    outputs = {
        "image_encoder": features,
        "frame_scorer": recorder.made("frame_scorer").reshape(geometry.num_chunks, geometry.chunk_frames),
        "selected": selected,
        "video_encoder": recorder.made("video_encoder"),
        "image_projector": image_tokens,
        "video_projector": video_tokens,
        "token_embedding": np.concatenate([text, answer]),
        "text_decoder": _forced_logits(generator, suffix, answer),
    }
    return outputs, host


def _own_outputs(
    engine: Engine, geometry: Geometry, inputs: Inputs, pixels: ClipFrames, eager: Outputs, key: np.ndarray
) -> Outputs:
    """Every stage on the eager model's inputs."""
    engine.unload("text_decoder")

    def each(stage: str, *arrays: np.ndarray) -> list[np.ndarray]:
        """Output by output, of one call per row of the arrays."""
        rows = [engine.run(stage, [array[i : i + 1] for array in arrays]) for i in range(len(arrays[0]))]
        return [np.concatenate(parts) for parts in zip(*rows, strict=True)]

    outputs: Outputs = {}
    (outputs["image_encoder"],) = each("image_encoder", pixels.clip_pixels, pixels.mask)
    engine.unload("image_encoder")
    scored = [engine.run("frame_scorer", [chunk]) for chunk in np.split(eager["image_encoder"], geometry.num_chunks)]
    outputs["frame_scorer"], outputs["selected"] = (np.stack(parts) for parts in zip(*scored, strict=True))
    (outputs["video_encoder"],) = engine.run("video_encoder", [pixels.video_pixels[key], pixels.mask[key]])
    engine.unload("video_encoder")
    (outputs["image_projector"],) = each("image_projector", eager["image_encoder"])
    (outputs["video_projector"],) = engine.run("video_projector", [eager["video_encoder"]])
    for stage in ENCODER_STAGES:
        engine.unload(stage)
    generator = Generator(engine, geometry)
    outputs["token_embedding"] = generator.embed(inputs.text_ids)
    sizes = len(inputs.prefix_ids), len(inputs.suffix_ids)
    prefix, suffix, answer = np.split(eager["token_embedding"], [sizes[0], sum(sizes)])
    generator.prefill(np.concatenate([prefix, *eager["image_projector"], *eager["video_projector"]]), _never)
    outputs["text_decoder"] = _forced_logits(generator, suffix, answer)
    engine.unload("text_decoder")
    return outputs


def _forced_logits(generator: Generator, suffix: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """Logits [1 + len(answer), vocab] after the suffix and after every row of the answer, from a decode step each.

    Another question stands there first and is taken back, as in a session that is asked twice.
    """
    start = generator.cached
    generator.prefill(suffix[::-1].copy(), _never)
    generator.rewind(start)
    logits = [generator.prefill(suffix, _never)]
    logits += [generator.prefill(row[None], _never) for row in answer]
    return np.stack(logits)


def _never(stage: str) -> None:
    """Nobody cancels."""
