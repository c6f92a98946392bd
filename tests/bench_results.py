"""Results of benchmarks as a device might have written them, for tests of their readers. No number was measured."""

from __future__ import annotations

import random
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

from mvgpt_runtime import contract
from mvgpt_runtime.bench import metrics
from mvgpt_runtime.bench.results import SCHEMA_VERSION, Result

STAGE_MS = {
    "image_encoder": 1050.0,
    "frame_scorer": 6.0,
    "video_encoder": 980.0,
    "image_projector": 190.0,
    "video_projector": 8.0,
}
FILES = {
    "image_encoder.pte": 88_400_000,
    "frame_scorer.pte": 12_000,
    "video_encoder.pte": 75_300_000,
    "image_projector.pte": 1_500_000,
    "video_projector.pte": 1_300_000,
    "slm.pte": 276_000_000,
    "tokenizer.json": 7_030_000,
}
DEPTHS = (64, 512, 1024, 2438)


def make_result(
    *,
    name: str = "Pixel 8",
    seed: int = 0,
    slower: float = 1.0,
    repeats: int = 5,
    warmup: int = 1,
    depths: Sequence[int] = DEPTHS,
    recipe: str = "mobile",
    outlier: int | None = None,
    cold: bool = True,
    energy: bool = True,
    **changes: Any,
) -> Result:
    """A result in which everything belongs together.

    Args:
        slower: factor of all times.
        outlier: index of a run in which everything takes four times as long.
        cold, energy: whether the system could empty its page cache, and counted energy.
        changes: replace what the JSON has: `environment__power__source="battery"`.
    """
    draw = random.Random(seed)
    runs = [
        _run(draw, i, i < warmup, slower * (4 if i == outlier else 1), depths, cold, energy)
        for i in range(warmup + repeats)
    ]
    raw: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "app": {"name": "mvgpt-demo", "version": "0.1.0", "language": "kotlin", "build_commit": "0" * 40},
        "device": {
            "name": name,
            "model": "GKWS6",
            "kind": "phone",
            "cpu_info": "Tensor G3",
            "n_cores": 9,
            "memory_bytes": 8_000_000_000,
        },
        "os": {"name": "Android", "version": "16"},
        "environment": {
            "power": {"source": "ac", "battery_percent": 88, "low_power_mode": False, "governor": None},
            "thermal_before": {"status": "none", "temperature_c": 31.5},
            "thermal_after": {"status": "none", "temperature_c": 39.0},
            "load_average": 0.4,
            "page_cache_evicted": cold,
        },
        "model": {
            "name": "0.5b",
            "model_n_params": 610_000_000,
            "bundle_sha256": sha256(str(seed).encode()).hexdigest(),
            "recipe": recipe,
            "kernels": "fused",
            "backends": dict.fromkeys(contract.STAGE_NAMES, "xnnpack"),
            "bundle_bytes": sum(FILES.values()),
            "files": dict(FILES),
            "geometry": {"num_frames": 16, "image_tokens": 144, "max_context": 3072},
        },
        "protocol": {
            "version": metrics.VERSION,
            "repeats": repeats,
            "warmup": warmup,
            "n_threads": 4,
            "low_memory": False,
            "prompt": metrics.PROMPT,
            "follow_up": metrics.FOLLOW_UP,
            "n_gen": metrics.N_GEN,
            "n_depths": list(depths),
            "video": "sample.mp4",
            "video_sha256": sha256(b"sample.mp4").hexdigest(),
            "n_frames": 16,
            "cool_down_s": 30,
        },
        "runs": runs,
        "peak_memory_bytes": int(747e6 * (1 + 0.1 * slower)),
        "memory_metric": "pss",
        "aggregates": {},
    }
    for path, value in changes.items():
        *parents, last = path.split("__")
        target = raw
        for parent in parents:
            target = target[parent]
        if last not in target:
            raise KeyError(path)
        target[last] = value
    result = Result.model_validate(raw)
    return result.model_copy(update={"aggregates": metrics.aggregate(result.runs)})


def _run(
    draw: random.Random, index: int, warmup: bool, slower: float, depths: Sequence[int], cold: bool, energy: bool
) -> dict[str, Any]:
    slower *= 1.5 if warmup else 1.0

    def ms(typical: float) -> float:
        return slower * typical * draw.uniform(0.97, 1.05)

    question = {"time_to_first_token_ms": ms(44), "prompt_eval_ms": ms(43), "num_prefilled_tokens": 22}
    return {
        "index": index,
        "warmup": warmup,
        "test_time": f"2026-01-02T03:{index:02}:00+00:00",
        "load": {"cold_ms": ms(900) if cold else None, "warm_ms": ms(310)},
        "video": _video(ms),
        "stream": _video(ms) | {"last_frame_to_ready_ms": ms(1650)},
        "first_question": question,
        "follow_up": question | {"time_to_first_token_ms": ms(46)},
        "stream_question": question | {"time_to_first_token_ms": ms(45)},
        "tests": [test for depth in depths for test in _tests(ms, depth)],
        "energy_j": ms(40) if energy else None,
        "thermal": {"status": "none", "temperature_c": 31.5 + index},
    }


def _video(ms: Any) -> dict[str, float]:
    parts = {"video_decode_ms": ms(420), "preprocess_ms": ms(130)}
    parts |= {f"{stage}_ms": ms(typical) for stage, typical in STAGE_MS.items()}
    parts["video_prefill_ms"] = ms(5500)
    ready = sum(parts.values()) + ms(250)
    return parts | {"num_video_prefilled_tokens": 2416, "video_ready_ms": ready, "last_frame_to_ready_ms": ready / 2}


def _tests(ms: Any, depth: int) -> list[dict[str, Any]]:
    prefill = [int(ms(230 * (1 + depth / 6000)) * 1e6) for _ in range(4)]
    decode = [int(ms(13 * (1 + depth / 9000)) * 1e6) for _ in range(metrics.N_GEN)]
    return [
        {"n_prompt": 144, "n_gen": 0, "n_depth": depth, "samples_ns": prefill},
        {"n_prompt": 0, "n_gen": len(decode), "n_depth": depth, "samples_ns": decode},
    ]
