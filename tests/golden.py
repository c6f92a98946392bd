"""Rebuilds the golden cases under tests/goldens: frames and a shrunken checkpoint, from recipe.json alone.

The published implementation was run once on exactly this; `expected.npz` holds (slices of) what it computed.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

GOLDENS = Path(__file__).parent / "goldens"
# Which part of each array is stored; the others are whole.
SLICES = {
    "video_pixels": np.s_[:, :, ::37, ::41],
    "clip_pixels": np.s_[:, :, ::37, ::41],
    "clip_features": np.s_[:, ::29, ::31],
    "video_features": np.s_[:, ::13, ::17],
    "visual_tokens": np.s_[::61, ::7],
}


def recipe(case: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((GOLDENS / case / "recipe.json").read_text())
    return value


def expected(case: str) -> dict[str, np.ndarray]:
    with np.load(GOLDENS / case / "expected.npz") as arrays:
        return dict(arrays)


def tensors(case: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """Every parameter, from a generator seeded by its own name, in the range of trained ones."""
    for name, shape in case["keys"].items():
        seed = zlib.crc32(f"{case['weight_salt']}{name}".encode())
        a = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        if name.endswith(("A_log", "A_b_log")):
            decays = np.log(np.arange(1, shape[1] + 1, dtype=np.float32))
            a = decays[None].repeat(shape[0], 0) + 0.05 * a
        elif name.endswith((".D", ".D_b")) or ("norm" in name and name.endswith("weight")):
            a = 1 + 0.1 * a
        elif "dt_proj" in name and name.endswith("bias"):
            a = 0.5 * a - 4.0
        elif name.endswith("bias"):
            a = 0.05 * a
        elif len(shape) < 2 or "embed" in name:
            a = a * 0.5
        else:
            a = a * (1.0 / math.sqrt(np.prod(shape[1:])))
        yield name, np.ascontiguousarray(a, dtype=np.float32)


def frames(case: dict[str, Any]) -> np.ndarray:
    """uint8 [16, height, width, 3]: gradients, a moving disc and noise."""
    height, width = case["height"], case["width"]
    rng = np.random.default_rng(case["frame_seed"])
    y, x = np.mgrid[0:height, 0:width]
    out = []
    for t in range(16):
        red = 127 + 80 * np.sin(x / 37 + t * 0.4)
        green = 127 + 80 * np.cos(y / 29 - t * 0.3)
        blue = 127 + 60 * np.sin((x + y) / 53 + t)
        image = np.stack([red, green, blue], -1)
        centre_x = 20 + (width - 40) * t // 15
        centre_y = (height - 40) - (height - 80) * t // 15
        image[(x - centre_x) ** 2 + (y - centre_y) ** 2 < (12 + 2 * (t % 5)) ** 2] = [250, 30, 40]
        out.append(np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8))
    return np.stack(out)


def config(case: dict[str, Any]) -> dict[str, Any]:
    return {
        "model_type": "MobileVideoGPT_qwen",
        "hidden_size": case["hidden"],
        "intermediate_size": case["intermediate"],
        "num_hidden_layers": case["slm_layers"],
        "num_attention_heads": case["heads"],
        "num_key_value_heads": case["kv_heads"],
        "vocab_size": case["vocab"],
        "hidden_act": "silu",
        "rms_norm_eps": case["rms_eps"],
        "rope_theta": case["rope_theta"],
        "tie_word_embeddings": True,
        "mm_projector_type": "etp",
        "image_mm_projector_type": "etp",
        "mm_hidden_size": 768,
        "mm_vision_select_layer": -2,
    }


def write_checkpoint(case: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors(case)), str(folder / "model.safetensors"), metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config(case)))
