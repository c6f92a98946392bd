"""The whole pipeline at full size beside what a user would run instead, stage by stage, in one run.

    python benchmarks/scoreboard.py BUNDLE [--rounds 3] [--only mvgpt onnxruntime-int8 …]
    make scoreboard

BUNDLE is of `mvgpt export random:0.5b --recipe mobile`. Peers: the eager PyTorch pipeline (float32 and bfloat16),
ONNX Runtime for the encoders (float32 and 8-bit) and llama.cpp for the language model. Every measurement is a process
of its own, they take turns, and the best round of each figure counts, because other programs disturb a shared machine
in bursts. Prints the table of docs/benchmarks.md and exits with status 1 when a bar is missed. What was measured stays
in build/benchmarks/scoreboard; --only measures some again and takes the others from there, which the table then says.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mvgpt_export.config import NAMED_CONFIGS
from mvgpt_runtime.bench.estimate.devices import HERE, Device
from mvgpt_runtime.bench.estimate.roofline import estimate
from mvgpt_runtime.manifest import Bundle
from scoreboard_jobs import FEATURES, FILES, SHORT, TOKENS
from slm_peers import measure_llama_cpp, read_bandwidth, run_alone

FOLDER = Path("build/benchmarks/scoreboard")
JOBS = Path(__file__).with_name("scoreboard_jobs.py")
OURS, EAGER, EAGER_HALF = "mvgpt", "eager-float32", "eager-bfloat16"
ORT, ORT_INT8, LLAMA, LIMITS = "onnxruntime-fp32", "onnxruntime-int8", "llama.cpp", "limits"
COLUMNS = (OURS, EAGER, EAGER_HALF, ORT, ORT_INT8, LLAMA)
SMALLER_COSINE = 1e-4  # that still counts as equal

Figures = dict[str, float]


@dataclass(frozen=True)
class Row:
    name: str
    unit: str
    figure: str  # by which jobs call it
    scale: float = 1.0

    @property
    def higher_is_better(self) -> bool:
        return self.unit == "tokens/s"


ROWS = (
    Row("image encoder and projector, 16 frames", "ms", "image", 1e3),
    Row("video encoder and projector, 8 key frames", "ms", "video", 1e3),
    Row("prefill of video and question", "ms", "prefill", 1e3),
    Row("decode at 64", "tokens/s", "decode_short"),
    Row("decode at the end of the prompt", "tokens/s", "decode_full"),
    Row("first question: file to first token", "ms", "ttft", 1e3),
    Row("follow-up question: to first token", "ms", "follow_up", 1e3),
    Row("peak memory", "MB", "peak", 1e-6),
    Row("on disk", "MB", "bytes", 1e-6),
    Row("on disk, encoders", "MB", "encoders_bytes", 1e-6),
    Row("on disk, language model", "MB", "language_bytes", 1e-6),
)


def measure(job: str, bundle: Path, threads: int) -> Figures:
    """One round of a job."""
    if job == LLAMA:
        config = NAMED_CONFIGS["0.5b"]
        positions = config.geometry().visual_tokens + SHORT
        found = measure_llama_cpp(config.text, threads, prefill=(positions,), contexts=(SHORT, positions))
        return {
            "prefill": positions / found["prefill"][positions],
            "decode_short": found["decode"][SHORT],
            "decode_full": found["decode"][positions],
            "language_peak": found["peak_rss_bytes"],
            "language_bytes": found["file_bytes"],
            "positions": positions,
        }
    kind, _, argument = job.partition("-")
    argument = str(bundle) if job == OURS else argument or "-"
    out, _, _, _ = run_alone([sys.executable, JOBS, kind, argument, str(threads), str(FOLDER)])
    return json.loads(out.splitlines()[-1]) | ({"bandwidth": read_bandwidth(threads)} if job == LIMITS else {})


def best(rounds: list[Figures]) -> Figures:
    """Of each figure the best: rates are better higher, everything else lower."""
    rates = {row.figure for row in ROWS if row.higher_is_better}
    rates |= {"bandwidth", "fp32", "8da8w", "8da4w-32"}
    return {name: (max if name in rates else min)(r[name] for r in rounds) for name in rounds[0]}


def cosine(job: str, array: str) -> float:
    """Of what a job computed for the image frames, with the eager float32 pipeline's."""
    got, expected = (np.load(FOLDER / f"{name}.npz")[array].ravel().astype(np.float64) for name in (job, EAGER))
    return float(got @ expected / np.sqrt((got @ got) * (expected @ expected)))


def floors(rates: Figures, bundle: Path, threads: int) -> Figures:
    """What no arrangement of the same arithmetic passes: `mvgpt estimate` with this run's limits."""
    macs = {name: rate / 2 for name, rate in rates.items() if name != "bandwidth"}
    found = estimate(Bundle.open(bundle), Device(HERE, rates["bandwidth"], macs, threads, "measured"))
    stages = {row.stage: row.floor_ms / 1e3 for row in found.stages if row.stage != "text_decoder"}
    prefill, question = [row.floor_ms / 1e3 for row in found.stages if row.stage == "text_decoder"][:2]
    (short, full) = [rate for name, rate in found.headlines.items() if name.startswith("decode")]
    return {
        **{name: sum(stages[stage] for stage in parts) for name, parts in FILES.items()},
        "prefill": prefill + question,
        "decode_short": short,
        "decode_full": full,
        "ttft": found.headlines["first_time_to_first_token_ms"] / 1e3,
        "follow_up": found.headlines["follow_up_time_to_first_token_ms"] / 1e3,
    }


def bars(figures: dict[str, Figures]) -> list[tuple[str, float, float]]:
    """(what, ratio, ratio to reach), of what was measured."""
    found = []
    ours = figures.get(OURS, {})
    if ours and ORT_INT8 in figures:
        what = "image encoder and projector: ONNX Runtime int8's time over ours"
        found.append((what, figures[ORT_INT8]["image"] / ours["image"], 1.0))
        if EAGER in figures:
            lost = cosine(ORT_INT8, TOKENS) - cosine(OURS, TOKENS)
            found.append(("… at a cosine no lower than its own (1: no lower)", float(lost <= SMALLER_COSINE), 1.0))
    if ours and (eager := [figures[e]["ttft"] for e in (EAGER, EAGER_HALF) if e in figures]):
        found.append(("first question: the faster eager pipeline's time over ours", min(eager) / ours["ttft"], 2.0))
    if ours:
        found.append(("450 MB over the bundle", 450e6 / ours["bytes"], 1.0))
    return found


def table(figures: dict[str, Figures], floor: Figures) -> str:
    """Markdown: a figure and, of peers, how many times better ours is."""
    names = [name for name in COLUMNS if name in figures]
    lines = ["| | " + " | ".join(names) + " | ours, of the limit |", "|---" * (len(names) + 2) + "|"]
    for row in ROWS:
        cells, ours = [], figures.get(OURS, {}).get(row.figure)
        for name in names:
            value = figures[name].get(row.figure)
            if value is None:
                cells.append("")
                continue
            ratio = ""
            if ours and name != OURS:
                ratio = f" ({ours / value if row.higher_is_better else value / ours:.2f} ×)"
            cells.append(f"{_number(value * row.scale)} {row.unit}{ratio}")
        limit = ""
        if ours and row.figure in floor:
            limit = f"{ours / floor[row.figure] if row.higher_is_better else floor[row.figure] / ours:.0%}"
        if any(cells):
            lines.append(f"| {row.name} | " + " | ".join(cells) + f" | {limit} |")
    if EAGER in figures:
        for array, what in ((FEATURES, "image encoder"), (TOKENS, "with projector")):
            cells = [f"{cosine(n, array):.5f}" if "image" in figures[n] else "" for n in names]
            lines.append(f"| cosine to eager float32, {what} | " + " | ".join(cells) + " | |")
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def machine() -> str:
    facts = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    name = next((v.strip() for k, v in facts.items() if k.strip() == "model name"), platform.processor())
    return f"{name}, {os.cpu_count()} cores, {platform.system()}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", nargs="*", choices=(*COLUMNS, LIMITS), default=(*COLUMNS, LIMITS))
    arguments = parser.parse_args()

    FOLDER.mkdir(parents=True, exist_ok=True)
    if not all((FOLDER / f"{name}-int8.onnx").exists() for name in FILES):
        print("export to ONNX …", file=sys.stderr)
        run_alone([sys.executable, JOBS, "onnx_export", "-", str(arguments.threads), str(FOLDER)])
    stored = FOLDER / "figures.json"
    report: dict[str, Any] = json.loads(stored.read_text()) if stored.exists() else {}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE, text=True).stdout.strip()
    when = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    for job in arguments.only:
        report[job] = {"when": when, "commit": commit, "rounds": []}
    for round_ in range(arguments.rounds):
        for job in arguments.only:
            print(f"round {round_ + 1} of {arguments.rounds}: {job} …", file=sys.stderr)
            report[job]["rounds"].append(measure(job, arguments.bundle, arguments.threads))
            stored.write_text(json.dumps(report, indent=1))
    figures = {job: best(entry["rounds"]) for job, entry in report.items() if entry["rounds"]}
    if OURS in figures and LIMITS in figures:
        floor = floors(figures[LIMITS], arguments.bundle, arguments.threads)
        print(f"limits: {json.dumps({k: round(v / 1e9, 1) for k, v in figures[LIMITS].items()})} (10⁹ per second)")
    else:
        floor = {}
    print(f"{machine()}; {arguments.threads} threads")
    for run in sorted({(entry["when"], entry["commit"], len(entry["rounds"])) for entry in report.values()}):
        jobs = [job for job, e in report.items() if (e["when"], e["commit"], len(e["rounds"])) == run]
        print(f"run of {run[0]}, commit {run[1]}, the best of {run[2]} round(s): {', '.join(jobs)}")
    print(table(figures, floor))
    found = bars(figures)
    for what, value, bar in found:
        print(f"{'met   ' if value >= bar else 'MISSED'}  {what}: {value:.2f}, bar {bar}")
    return 0 if found and all(value >= bar for _, value, bar in found) else 1


if __name__ == "__main__":
    sys.exit(main())
