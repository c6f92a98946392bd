"""Write what apps in other languages need of the benchmark: the JSON Schema, and golden cases of the arithmetic.

    python tools/write_benchmark_files.py

The expected values are computed here with numpy, not by the code that is tested with them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from mvgpt_runtime.bench.results import SCHEMA_NAME, schema

REPOSITORY = Path(__file__).parent.parent
SCHEMA = REPOSITORY / "runtime" / "mvgpt_runtime" / "bench" / SCHEMA_NAME
GOLDENS = REPOSITORY / "tests" / "goldens" / "benchmark.json"


def run(index: int, factor: float, *, warmup: bool = False, **changes: Any) -> dict[str, Any]:
    """A run whose times are `factor` times those of a plain one."""
    question = {"time_to_first_token_ms": 62.5 * factor, "prompt_eval_ms": 60.0 * factor, "num_prefilled_tokens": 16}
    video = {
        "video_decode_ms": 31.25 * factor,
        "image_encoder_ms": 1000.0 * factor,
        "num_video_prefilled_tokens": 2416.0,
        "video_prefill_ms": 4832.0 * factor,
        "video_ready_ms": 8000.0 * factor,
    }
    return {
        "index": index,
        "warmup": warmup,
        "test_time": "2026-01-01T00:00:00+00:00",
        "load": {"cold_ms": 900.0 * factor, "warm_ms": 300.0 * factor},
        "video": video,
        "stream": {**video, "last_frame_to_ready_ms": 1500.0 * factor},
        "first_question": question,
        "follow_up": {**question, "time_to_first_token_ms": 40.0 * factor},
        "stream_question": question,
        "tests": [
            {"n_prompt": 144, "n_gen": 0, "n_depth": 64, "samples_ns": [round(3e8 * factor), round(2e8 * factor)]},
            {"n_prompt": 0, "n_gen": 3, "n_depth": 64, "samples_ns": [round(n * factor) for n in (1e7, 2e7, 3e7)]},
        ],
        "energy_j": None,
        "thermal": {"status": None, "temperature_c": None},
        **changes,
    }


def metrics(run: dict[str, Any]) -> dict[str, float]:
    """The formulas of docs/benchmark-protocol.md, spelt out."""
    video, stream = run["video"], run["stream"]
    found = {name: video[name] for name in ("video_decode_ms", "image_encoder_ms", "video_prefill_ms", "video_ready_ms")
             if name in video}  # fmt: skip
    if run["load"]["cold_ms"] is not None:
        found["model_load_cold_ms"] = run["load"]["cold_ms"]
    found["model_load_warm_ms"] = run["load"]["warm_ms"]
    if video.get("num_video_prefilled_tokens") and video.get("video_prefill_ms"):
        found["video_prefill_tokens_per_s"] = video["num_video_prefilled_tokens"] / (video["video_prefill_ms"] / 1000)
    if "video_ready_ms" in video:
        found["first_time_to_first_token_ms"] = (
            video["video_ready_ms"] + run["first_question"]["time_to_first_token_ms"]
        )
    found["follow_up_time_to_first_token_ms"] = run["follow_up"]["time_to_first_token_ms"]
    if "last_frame_to_ready_ms" in stream:
        found["stream_time_to_first_token_ms"] = (
            stream["last_frame_to_ready_ms"] + run["stream_question"]["time_to_first_token_ms"]
        )
    for test in run["tests"]:
        seconds = np.sum(test["samples_ns"]) / 1e9
        rows = sum(test["n_prompt"] or 1 for _ in test["samples_ns"])
        found[f"{'prefill' if test['n_prompt'] else 'decode'}_tokens_per_s@{test['n_depth']}"] = float(rows / seconds)
    if run["energy_j"] is not None:
        found["energy_j"] = run["energy_j"]
    return found


def aggregates(runs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found = {}
    counted = {run["index"]: metrics(run) for run in runs if not run["warmup"]}
    for name in {name for values in counted.values() for name in values}:
        by_run = {i: values[name] for i, values in counted.items() if name in values}
        p25, median, p75 = np.percentile(list(by_run.values()), (25, 50, 75))
        low, high = p25 - 1.5 * (p75 - p25), p75 + 1.5 * (p75 - p25)
        found[name] = {
            "n": len(by_run),
            "median": median,
            "p25": p25,
            "p75": p75,
            "minimum": min(by_run.values()),
            "maximum": max(by_run.values()),
            "outliers": [i for i, value in by_run.items() if value < low or value > high],
        }
    return dict(sorted(found.items()))


def cases() -> dict[str, list[dict[str, Any]]]:
    plain = run(0, 1)
    nothing = {"num_video_prefilled_tokens": 0.0, "video_prefill_ms": 0.0}
    return {
        "one run": [plain],
        "two runs: the median lies between": [plain, run(1, 1.5)],
        "three runs, in no order": [run(0, 1.25), run(1, 0.5), run(2, 1)],
        "warm-ups do not count": [run(0, 7, warmup=True), run(1, 6, warmup=True), run(2, 1), run(3, 1.125)],
        "outliers count, and are named": [*(run(i, 1 + i / 64) for i in range(6)), run(6, 4), run(7, 0.125)],
        "equal runs have no outliers": [run(i, 1) for i in range(4)],
        "what a system does not tell is absent": [
            run(0, 1, load={"cold_ms": None, "warm_ms": 300.0}, energy_j=12.5),
            run(1, 2, load={"cold_ms": None, "warm_ms": 600.0}, energy_j=None),
        ],
        "no rate from no time or no tokens": [
            run(0, 1, video={**plain["video"], "video_prefill_ms": 0.0}),
            run(1, 1, video={**plain["video"], "num_video_prefilled_tokens": 0.0}),
            run(2, 1, video={**plain["video"], **nothing}),
        ],
        "a video that was not measured": [run(0, 1, video={}, stream={}), run(1, 1)],
    }


def main() -> None:
    SCHEMA.write_text(json.dumps(schema(), indent=1) + "\n")
    golden = [
        {"name": name, "runs": runs, "metrics": [metrics(r) for r in runs], "aggregates": aggregates(runs)}
        for name, runs in cases().items()
    ]
    text = json.dumps({"made_by": "tools/write_benchmark_files.py", "cases": golden}, indent=1, default=float)
    GOLDENS.write_text(text + "\n")


if __name__ == "__main__":
    main()
