"""The language model at full size, random weights: our exports beside llama.cpp and Hugging Face, in one run.

    python benchmarks/slm.py [--forms mobile "mobile, stock" …] [--reuse] [--output build/benchmarks/slm.json]

Every measurement is a process of its own; forms and llama.cpp take turns, and the best round of each figure counts,
because other programs disturb a shared machine in bursts. Prints a table, writes it as JSON, and exits with status 1
when a bar is missed. Exports stay in build/benchmarks/slm; --reuse measures those again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from gguf import GGMLQuantizationType as Quantization
from mvgpt_export.config import NAMED_CONFIGS, Qwen2Config
from slm_peers import CONTEXTS, PREFILL, measure_hugging_face, measure_llama_cpp, read_bandwidth, run_alone, show
from slm_recipes import FORMS

FOLDER = Path("build/benchmarks/slm")
MAX_CONTEXT, LONG, SHORT = 3072, 2450, 64
CHUNKS = (144, 512)  # rows of a prefill call: a frame's tokens, as a session does, and the most that a call takes
OURS, STOCK = "mobile", "mobile, stock"
PEERS = LLAMA, LLAMA_SMALL, HUGGING_FACE = "llama.cpp Q4_0", "llama.cpp Q4_0, all", "Hugging Face fp32"


def export_job(form: str, path: Path) -> None:
    """Export the language model alone; seconds and peak bytes go to standard output."""
    import torch
    from mvgpt_export.bundle import export_unit
    from mvgpt_export.random_weights import random_model
    from mvgpt_export.sources import Source
    from mvgpt_runtime.contract import LANGUAGE_STAGES

    warnings.filterwarnings("ignore")
    # The vision side is not part of this: tiny's stands in for it.
    config = dataclasses.replace(NAMED_CONFIGS["tiny"], text=NAMED_CONFIGS["0.5b"].text)
    torch.manual_seed(0)
    source = Source("random", "none", random_model(config), None)
    geometry = config.geometry(MAX_CONTEXT)
    kernels, recipe = FORMS[form]
    if form not in (OURS, STOCK):  # what was only tried: other numbers in the same program, sooner
        recipe = dataclasses.replace(recipe, calibrated=False)
    start = time.perf_counter()

    def report(what: str) -> None:
        now = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        print(f"{time.perf_counter() - start:6.1f} s {now / 1e9:5.2f} GB  {what}", file=sys.stderr)

    export_unit(source, list(LANGUAGE_STAGES), geometry, "xnnpack", recipe, kernels, path, report)
    seconds = time.perf_counter() - start
    print(json.dumps({"export_s": seconds, "export_peak_bytes": peak_bytes()}))


def peak_bytes() -> int:
    """Most resident bytes of this program so far; getrusage would count what it was forked from."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024


def measure_job(path: Path, hidden: int, threads: int) -> None:
    """Speeds of one exported file, as JSON on standard output."""
    import torch
    from executorch.extension.pybindings import _C
    from mvgpt_runtime import kernels
    from mvgpt_runtime.engines.executorch import _load_kernels

    kernels.load()
    for namespace in ("llama", "quantized_decomposed"):
        _load_kernels(namespace)
    _C._unsafe_reset_threadpool(threads)
    before = peak_bytes()
    start = time.perf_counter()
    program = _C._load_program(str(path))
    method = program.load_method("text_decoder")
    load = time.perf_counter() - start
    rows = torch.randn(1, max(CHUNKS), hidden) * 0.02

    def step(n: int, position: int) -> None:
        # As the engine calls it: torch's copy of the logits would wake threads of its own.
        method([rows[:, :n].contiguous(), torch.tensor([position])], clone_outputs=False)[0].numpy().copy()

    def fill(n: int, chunk: int) -> float:
        start = time.perf_counter()
        for first in range(0, n, chunk):
            step(min(chunk, n - first), first)
        return n / (time.perf_counter() - start)

    step(1, 0)
    by_chunk = {chunk: fill(LONG, chunk) for chunk in CHUNKS}
    prefill = {n: max(fill(n, max(CHUNKS)) for _ in range(2)) for n in PREFILL if n != LONG}
    prefill[LONG] = by_chunk[CHUNKS[0]]
    decode = {}
    for context in CONTEXTS:
        seconds = []
        for i in range(32):
            start = time.perf_counter()
            step(1, context + i)
            seconds.append(time.perf_counter() - start)
        decode[context] = len(seconds) / sum(seconds)
    speeds = {"prefill": prefill, "decode": decode, "prefill_by_chunk": by_chunk}
    print(json.dumps({**speeds, "load_s": load, "peak_rss_bytes": peak_bytes() - before}))


def better(old: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """Of each speed the higher one."""
    if old is None:
        return new
    speeds = ("prefill", "decode", "prefill_by_chunk")
    best = {name: {n: max(v, old[name][n]) for n, v in new[name].items()} for name in speeds if name in new}
    return {**new, **best, "load_s": min(old["load_s"], new["load_s"])}


def bytes_per_token(config: Qwen2Config, file_bytes: int, *, half: bool) -> int:
    """What a decode step at the long context reads: every weight and the cache, once."""
    cache = 2 * config.layers * config.kv_heads * config.head_dim * LONG * (2 if half else 4)
    return file_bytes + cache


def table_bytes(form: str, config: Qwen2Config) -> int:
    """What of the file no decode step reads, because only token_embedding does."""
    kernels, recipe = FORMS[form]
    size = config.vocab_size * config.hidden_size
    if recipe.embedding_bits == 4:
        return 0 if kernels == "fused" else size // 2 + 2 * size // recipe.embedding_group
    return size * recipe.embedding_bits // 8


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--forms", nargs="+", default=[OURS, STOCK], choices=list(FORMS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--reuse", action="store_true", help="measure the exports of an earlier run")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=PEERS)
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks/slm.json"))
    parser.add_argument("--job", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        kind, *rest = arguments.job
        if kind == "export":
            export_job(rest[0], Path(rest[1]))
        else:
            measure_job(Path(rest[0]), int(rest[1]), int(rest[2]))
        return 0

    config, threads = NAMED_CONFIGS["0.5b"].text, arguments.threads
    FOLDER.mkdir(parents=True, exist_ok=True)
    exports: dict[str, dict[str, float]] = {}
    for form in arguments.forms:
        path, report = file_of(form), file_of(form).with_suffix(".json")
        if not (arguments.reuse and path.exists() and report.exists()):
            print(f"export {form} …", file=sys.stderr)
            out, _, _, _ = run_alone([sys.executable, __file__, "--job", "export", form, str(path)])
            report.write_text(out.splitlines()[-1])
        exports[form] = json.loads(report.read_text())

    rows: dict[str, dict[str, Any]] = {}
    bandwidth = 0.0
    for round_ in range(arguments.rounds):
        print(f"round {round_ + 1} of {arguments.rounds} …", file=sys.stderr)
        bandwidth = max(bandwidth, read_bandwidth(threads))
        for form in arguments.forms:
            command = [sys.executable, __file__, "--job", "measure", str(file_of(form)), str(config.hidden_size)]
            out, _, _, _ = run_alone([*command, str(threads)])
            found = json.loads(out.splitlines()[-1], object_hook=_integer_keys)
            rows[form] = better(rows.get(form), found)
            rows[form] |= exports[form] | {"file_bytes": file_of(form).stat().st_size}
        for name, embedding in ((LLAMA, Quantization.Q8_0), (LLAMA_SMALL, Quantization.Q4_0)):
            if name in arguments.peers:
                rows[name] = better(rows.get(name), measure_llama_cpp(config, threads, embedding=embedding))
    if HUGGING_FACE in arguments.peers:
        rows[HUGGING_FACE] = measure_hugging_face(config, threads)

    print(f"memory read, {threads} threads: {bandwidth / 1e9:.1f} GB/s")
    for form in arguments.forms:
        read = bytes_per_token(
            config,
            rows[form]["file_bytes"] - table_bytes(form, config),
            half=FORMS[form][1].half_kv_cache and FORMS[form][0] == "fused",
        )
        rows[form]["of_bandwidth_limit"] = rows[form]["decode"][LONG] * read / bandwidth
    for name, row in rows.items():
        more = f", {row['of_bandwidth_limit']:.0%} of the limit" if "of_bandwidth_limit" in row else ""
        chunks = f" ({show(row['prefill_by_chunk'])} by chunk)" if "prefill_by_chunk" in row else ""
        made = f", exported in {row['export_s']:.0f} s, {row['export_peak_bytes'] / 1e9:.1f} GB" if chunks else ""
        print(
            f"{name}: prefill {show(row['prefill'])}{chunks}, decode {show(row['decode'])}{more}, "
            f"peak {row['peak_rss_bytes'] / 1e6:.0f} MB, file {row['file_bytes'] / 1e6:.0f} MB, "
            f"load {row['load_s']:.1f} s{made}"
        )
        if "detail" in row:
            print(f"  {row['detail']}")
    bars = _bars(rows)
    for what, (value, bar) in bars.items():
        print(f"{'met   ' if value >= bar else 'MISSED'}  {what}: {value:.2f}, bar {bar}")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({"bandwidth": bandwidth, "rows": rows, "bars": bars}, indent=1))
    return 0 if all(value >= bar for value, bar in bars.values()) else 1


def _bars(rows: dict[str, dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Ratios to reach, of those forms and peers that were measured."""
    bars: dict[str, tuple[float, float]] = {}
    if OURS not in rows:
        return bars
    ours = rows[OURS]
    bars["decode at 2,450 over decode at 64"] = ours["decode"][LONG] / ours["decode"][SHORT], 0.85
    bars["decode at 2,450 over the bandwidth limit"] = ours["of_bandwidth_limit"], 0.65
    bars["5 minutes over the export's"] = 300 / ours["export_s"], 1.0
    bars["4 GB over the export's"] = 4e9 / ours["export_peak_bytes"], 1.0
    if STOCK in rows:
        bars["prefill of 2,450 over stock operators"] = ours["prefill"][LONG] / rows[STOCK]["prefill"][LONG], 1.25
    for peer in (LLAMA, LLAMA_SMALL):
        if peer in rows:
            theirs = rows[peer]
            bars[f"decode at 2,450 over {peer}"] = ours["decode"][LONG] / theirs["decode"][LONG], 1.4
            bars[f"decode at 64 over {peer}"] = ours["decode"][SHORT] / theirs["decode"][SHORT], 0.95
            bars[f"prefill of 2,450 over {peer}"] = ours["prefill"][LONG] / theirs["prefill"][LONG], 1.0
    return bars


def file_of(form: str) -> Path:
    return FOLDER / f"{form.replace(', ', '-').replace(' ', '-')}.pte"


def _integer_keys(found: dict[str, Any]) -> dict[Any, Any]:
    return {int(k) if k.isdigit() else k: v for k, v in found.items()}


if __name__ == "__main__":
    sys.exit(main())
