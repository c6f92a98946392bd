"""Export's own check: every stage of a new bundle on the eager model's inputs, against the eager model's outputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from mvgpt_runtime import contract
from mvgpt_runtime.engines import Engine, open_engine
from mvgpt_runtime.errors import MvgptError
from mvgpt_runtime.manifest import Bundle

from .models.qwen2 import KVCache, rotary_table
from .models.video_gpt import VideoGPT
from .quant import CLOSE, Recipe

Compare = Callable[[str, str, np.ndarray, torch.Tensor], None]


def verify_bundle(bundle: Bundle, model: VideoGPT, recipe: Recipe) -> None:
    """MvgptError naming the first stage (in data order) whose output is not the eager model's."""
    engine, geometry = open_engine(bundle), bundle.geometry
    frames = smooth_frames(geometry.num_frames, geometry.image_size)
    mask = torch.ones(geometry.num_frames)
    mask[-1] = 0  # padding must come out as the eager model's padding

    compare = partial(_compare, recipe)

    def check(stage: str, *inputs: torch.Tensor, reference: torch.Tensor) -> list[np.ndarray]:
        outputs = engine.run(stage, [t.numpy() for t in inputs])
        compare(stage, contract.stage(stage).outputs[0].name, outputs[0], reference)
        return outputs

    with torch.no_grad():
        features = model.image_encoder(frames, mask)
        for i in (0, geometry.num_frames - 1):
            check("image_encoder", frames[i : i + 1], mask[i : i + 1], reference=features[i : i + 1])
        engine.unload("image_encoder")
        chunk = features[: geometry.chunk_frames]
        scores, selected = check("frame_scorer", chunk, reference=model.frame_scorer.scores(chunk))
        # The rule is exact, on the scores at hand: two frames closer than rounding may be ranked either way.
        compare("frame_scorer", "selected", selected, model.frame_scorer.select(torch.from_numpy(scores)))
        key = slice(geometry.num_frames - geometry.key_frames, None)
        video = model.video_encoder(frames[key], mask[key])
        check("video_encoder", frames[key], mask[key], reference=video)
        engine.unload("video_encoder")
        image_tokens = model.image_projector(features)
        check("image_projector", features[:1], reference=image_tokens[:1])
        check("video_projector", video, reference=model.video_projector(video))
        _check_language_model(engine, bundle, model, image_tokens.flatten(0, 1), compare)


def _check_language_model(
    engine: Engine, bundle: Bundle, model: VideoGPT, visual: torch.Tensor, compare: Compare
) -> None:
    """Two prefill calls, the second on top of the first's cache, then a decode step after a rewind."""
    lm, geometry = model.language_model, bundle.geometry
    ids = torch.arange(1, 8).unsqueeze(0)
    text = lm.embed_tokens(ids)
    (got,) = engine.run("token_embedding", [ids.numpy()])
    compare("token_embedding", "embeddings", got, text)

    first = visual[: min(64, geometry.prefill_chunk)].unsqueeze(0)
    rows = first.shape[1]
    cos, sin = rotary_table(lm.config, rows + 7)
    caches = [KVCache() for _ in lm.layers]
    for part, start in ((first, 0), (text, rows)):
        end = start + part.shape[1]
        reference = lm(part, cos[start:end], sin[start:end], caches)
        (got,) = engine.run("text_decoder", [part.contiguous().numpy(), np.array([start], np.int64)])
        compare("text_decoder", f"logits at {start}", got, reference)
    whole = torch.cat([first, text[:, :1]], dim=1)
    reference = lm(whole, cos[: rows + 1], sin[: rows + 1], [KVCache() for _ in lm.layers])
    (got,) = engine.run("text_decoder", [text[:, :1].contiguous().numpy(), np.array([rows], np.int64)])
    compare("text_decoder", "logits after a rewind", got, reference)


def smooth_frames(n: int, size: int) -> torch.Tensor:
    """uint8 [n, size, size, 3]: smooth, moving, slightly noisy. Independent noise would saturate the frame scorer."""
    t, y, x = np.mgrid[0:n, 0:size, 0:size] / np.array([n, size, size]).reshape(3, 1, 1, 1)
    waves = [np.sin(7 * x + 5 * t + c) * np.cos(6 * y - 4 * t * c) for c in range(3)]
    noise = np.random.default_rng(0).normal(0, 6, (n, size, size, 3))
    return torch.from_numpy(np.clip(127 + 100 * np.stack(waves, -1) + noise, 0, 255).astype(np.uint8))


def calibration_frames(size: int) -> torch.Tensor:
    """uint8 [7, size, size, 3]: smooth, noisy, black and white ones, the same every time."""
    noise = torch.randint(256, (1, size, size, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    flat = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, size, size, 3)
    return torch.cat([smooth_frames(4, size), noise, flat])


def _compare(recipe: Recipe, stage: str, name: str, got: np.ndarray, reference: torch.Tensor) -> None:
    """Indices exactly, quantized stages by their signal-to-noise ratio, others by their largest difference."""
    expected = reference.double().numpy()
    error = got.astype(np.float64) - expected
    difference = float(np.abs(error).max())
    if got.dtype.kind != "f":
        fits, want, have = difference == 0, "equal numbers", f"a difference of {difference:.0f}"
    elif recipe.quantizes(stage):
        ratio = float(10 * np.log10((expected**2).sum() / max((error**2).sum(), 1e-300)))
        floor = recipe.floor_db(stage)
        fits, want, have = ratio >= floor, f"an SQNR of at least {floor} dB", f"{ratio:.1f} dB"
    else:
        limit = CLOSE * float(np.abs(expected).max())
        fits, want, have = difference <= limit, f"a difference of at most {limit:.3g}", f"{difference:.3g}"
    if not fits:  # NaN fits nothing
        raise MvgptError(
            f"the exported stage differs from the eager model in {name}",
            stage=stage,
            expected=want,
            got=have,
            remedy="nothing was written; report this with the checkpoint's config.json",
        )
