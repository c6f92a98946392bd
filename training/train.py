"""Trains `tiny`, stage by stage, and writes it as a checkpoint in the published layout.

usage: python -m training.train OUTPUT [--seed N] [--checkpoints DIR] [--scale X]

Started again, an interrupted training goes on from its last checkpoint. The same seed, machine and number of threads
give the same weights.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import torch
from mvgpt_export.checkpoint import save_checkpoint
from mvgpt_export.config import NAMED_CONFIGS, Qwen2Config
from mvgpt_export.models.qwen2 import Attention, Block
from mvgpt_export.models.video_gpt import VideoGPT
from mvgpt_export.random_weights import random_model
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn
from torch.utils.data import DataLoader

from .batches import DRAWS, Batch, Batches
from .muon import Muon
from .stages import STAGES, Stage
from .trainee import Trainee

QUESTION_TOKENS = 256  # of questions and answers per clip: about 12 questions
WARMUP = 50  # steps
MUON = 3.5  # its rate over AdamW's
REPORT_EVERY = 50  # steps
SAVE_EVERY_S = 60.0
THREADS = 2  # fixed: a sum over other shares gives other weights


def initial_model(seed: int) -> VideoGPT:
    """Random weights to start from: small residual branches, no biases, norms of one."""
    model = random_model(NAMED_CONFIGS["tiny"], seed).requires_grad_(True)
    residual = (2 * model.config.text.layers) ** -0.5
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "dt_proj" in name and name.endswith("bias"):
                # Mamba's: time steps of 0.001 to 0.1, evenly by their logarithm
                p.copy_(torch.exp(torch.empty_like(p).uniform_(math.log(1e-3), math.log(1e-1))).expm1().log())
            elif name.endswith("bias"):
                p.zero_()
            elif "norm" in name or name.endswith((".D", ".D_b")):
                p.fill_(1)
            elif name.endswith(("o_proj.weight", "down_proj.weight", "fc2.weight", "out_proj.weight")):
                p.mul_(residual)
            elif any(part in name for part in ("position", "pos_embed", "class", "cls")):
                p.mul_(0.2)
            elif name.endswith("embed_tokens.weight"):
                p.mul_(5)  # 0.1: the first layer's output must not drown it, nor the tied head begin too sure
    for layer in model.language_model.layers:
        assert isinstance(layer, Block)
        _match_own_content(layer.self_attn, model.config.text)
    return model.train()


def _match_own_content(attention: Attention, config: Qwen2Config) -> None:
    """The first group's queries equal its keys nearly: it attends to tokens like the one that asks, whatever they are
    (mimetic initialisation, Trockman & Kolter 2023, arXiv 2305.09828)."""
    width = config.head_dim
    directions, _ = torch.linalg.qr(torch.randn(config.hidden_size, width))
    with torch.no_grad():
        attention.k_proj.weight[:width] = 0.7 * directions.T
        for head in range(config.heads // config.kv_heads):
            noise = 0.02 * torch.randn(width, config.hidden_size)
            attention.q_proj.weight[head * width : (head + 1) * width] = 0.7 * directions.T + noise


def optimizers(trainee: Trainee, stage: Stage) -> list[torch.optim.Optimizer]:
    """Muon over the layers' matrices, AdamW over the rest of what the stage trains; everything else is frozen."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, p in trainee.named_parameters():
        p.requires_grad_(name.startswith(stage.trains))
        if p.requires_grad:
            (matrices if p.ndim == 2 and "layers" in name and "A_" not in name else others).append(p)
    made: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, lr=stage.rate, betas=(0.9, 0.98), weight_decay=0.0)]
    if matrices:
        made.append(Muon(matrices, lr=MUON * stage.rate, weight_decay=0.05))
    for optim in made:
        for group in optim.param_groups:
            group["highest"] = group["lr"]
    return made


def rate(step: int, steps: int) -> float:
    """Share of the highest learning rate: a short rise, then half a cosine."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / max(1, steps - WARMUP)))


class Reports:
    """Means of what steps report, since the last time they were taken."""

    def __init__(self) -> None:
        self._values: dict[str, list[torch.Tensor]] = defaultdict(list)

    def add(self, report: dict[str, torch.Tensor]) -> None:
        for name, values in report.items():
            self._values[name].append(values)

    def take(self) -> str:
        means = {name: torch.cat(values).mean().item() for name, values in self._values.items()}
        self._values.clear()
        return "  ".join(f"{name} {mean:.3f}" for name, mean in means.items())


def gradients(
    trainee: Trainee, stage: Stage, batch: Batch, bf16: bool, threads: ThreadPoolExecutor
) -> list[dict[str, torch.Tensor]]:
    """Leaves the batch's gradients in the parameters and returns what to report: a share of the clips on each core."""
    parameters = [p for p in trainee.parameters() if p.requires_grad]

    def of_share(share: Batch) -> tuple[tuple[torch.Tensor | None, ...], dict[str, torch.Tensor]]:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss, report = trainee(share, stage)
        return torch.autograd.grad(loss / THREADS, parameters, allow_unused=True), report

    results = list(threads.map(of_share, batch.shares(THREADS)))
    for p, *grads in zip(parameters, *(grads for grads, _ in results), strict=True):
        of_it = [grad for grad in grads if grad is not None]
        p.grad = sum(of_it[1:], of_it[0]) if of_it else None
    return [report for _, report in results]


def run_stage(
    trainee: Trainee, stage: Stage, steps: int, batches: Batches, saved: Path, bf16: bool, log: Console
) -> None:
    """Optimise for `steps`, from the checkpoint `saved` on if there is one, and leave a checkpoint there."""
    optims = optimizers(trainee, stage)
    first, spent = 0, 0.0
    if saved.is_file():
        state = torch.load(saved, weights_only=True)
        trainee.load_state_dict(state["trainee"])
        for optim, saved_state in zip(optims, state["optimizers"], strict=True):
            optim.load_state_dict(saved_state)
        first, spent = state["step"], state["seconds"]
    loader = DataLoader(batches, batch_size=None, sampler=range(first, steps), num_workers=1, prefetch_factor=8)
    reports, last_save = Reports(), time.perf_counter()
    started = last_save - spent
    steps_column = TextColumn("{task.completed}/{task.total}")
    columns = (TextColumn("{task.description}"), BarColumn(), steps_column, TimeElapsedColumn(), TimeRemainingColumn())
    with (
        Progress(*columns, console=log, disable=not log.is_terminal) as progress,
        ThreadPoolExecutor(THREADS, initializer=torch.set_num_threads, initargs=(1,)) as threads,
    ):
        task = progress.add_task(stage.name, total=steps, completed=first)
        for done, batch in enumerate(loader, first + 1):
            for group in (group for optim in optims for group in optim.param_groups):
                group["lr"] = group["highest"] * rate(done - 1, steps)
            for report in gradients(trainee, stage, batch, bf16, threads):
                reports.add(report)
            nn.utils.clip_grad_norm_([p for p in trainee.parameters() if p.requires_grad], 1.0)
            for optim in optims:
                optim.step()
            progress.advance(task)
            now = time.perf_counter()
            if done % REPORT_EVERY == 0 or done == steps:
                log.print(f"{stage.name} {done}/{steps} {now - started:.0f} s  {reports.take()}", soft_wrap=True)
            if now - last_save > SAVE_EVERY_S or done == steps:
                state = {"trainee": trainee.state_dict(), "optimizers": [optim.state_dict() for optim in optims]}
                torch.save(state | {"step": done, "seconds": now - started}, saved.with_suffix(".new"))
                saved.with_suffix(".new").replace(saved)  # whole or not at all
                last_save = now


def train(
    output: Path, checkpoints: Path, seed: int, scale: float, bf16: bool, stages: tuple[Stage, ...] = STAGES
) -> None:
    """`scale`: of every stage's number of steps."""
    checkpoints.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    tokenizer = (files("mvgpt_export") / "data" / "tiny" / "tokenizer.json").read_text(encoding="utf-8")
    log = Console(highlight=False)
    trainee = None
    for number, stage in enumerate(stages):
        batches = Batches(
            tokenizer,
            NAMED_CONFIGS["tiny"],
            seed=DRAWS * (len(STAGES) * seed + number),
            clips=stage.batch,
            length=QUESTION_TOKENS if stage.answers else 0,
            shown=stage.shown,
            kinds=stage.kinds,
        )
        trainee = trainee or Trainee(initial_model(seed), batches.tokenizer, batches.prefix())
        run_stage(
            trainee, stage, round(stage.steps * scale), batches, checkpoints / f"{number}-{stage.name}.pt", bf16, log
        )
    assert trainee is not None
    save_checkpoint(trainee.model.half(), output)
    (output / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    log.print(f"{output}: {sum(p.numel() for p in trainee.model.parameters()) / 1e6:.1f} M parameters")


def keep_freed_memory() -> None:
    """A step's largest arrays are freed and asked for again in every step: from the kernel, that is a page fault each
    4 KB, half of the scan's time. glibc's malloc can keep them; others have no such switch."""
    if tune := getattr(ctypes.CDLL(None), "mallopt", None):
        for option, value in ((-4, 0), (-1, 2**31 - 1)):  # M_MMAP_MAX, M_TRIM_THRESHOLD
            tune(option, value)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("output", type=Path, help="checkpoint folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoints", type=Path, default=Path("training/checkpoints"), help="of this training")
    parser.add_argument("--scale", type=float, default=1.0, help="of every stage's number of steps")
    fast = torch.cpu._is_avx512_bf16_supported()
    parser.add_argument(
        "--bf16", action=argparse.BooleanOptionalAction, default=fast, help="matrix products; default: if this CPU can"
    )
    args = parser.parse_args()
    keep_freed_memory()
    train(args.output, args.checkpoints, args.seed, args.scale, args.bf16)


if __name__ == "__main__":
    main()
