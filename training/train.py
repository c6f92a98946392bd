"""Trains `tiny`, stage by stage, and writes it as a checkpoint in the published layout.

usage: python -m training.train OUTPUT [--seed N] [--checkpoints DIR] [--scale X]

Started again, an interrupted training goes on from its last checkpoint. The same seed, machine and number of threads
give the same weights.
"""

from __future__ import annotations

import argparse
import math
import time
from collections import defaultdict
from importlib.resources import files
from pathlib import Path

import torch
from mvgpt_export.checkpoint import save_checkpoint
from mvgpt_export.config import NAMED_CONFIGS
from mvgpt_export.models.video_gpt import VideoGPT
from mvgpt_export.random_weights import random_model
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn
from torch.utils.data import DataLoader

from .batches import Batches
from .stages import STAGES, Stage, Trainee

QUESTION_TOKENS = 416  # of questions and answers per clip: 13 questions on average
WARMUP = 100  # steps
REPORT_EVERY = 50  # steps
SAVE_EVERY_S = 60.0


def initial_model(seed: int) -> VideoGPT:
    """Random weights to start from: small residual branches, no biases, norms of one."""
    model = random_model(NAMED_CONFIGS["tiny"], seed).requires_grad_(True)
    residual = (2 * model.config.text.layers) ** -0.5
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("bias") and "dt_proj" not in name:
                p.zero_()
            elif "norm" in name or name.endswith((".D", ".D_b")):
                p.fill_(1)
            elif name.endswith(("o_proj.weight", "down_proj.weight", "fc2.weight", "out_proj.weight")):
                p.mul_(residual)
            elif any(part in name for part in ("position", "pos_embed", "class", "cls")):
                p.mul_(0.2)
            elif name.endswith("embed_tokens.weight"):
                p.mul_(5)  # 0.1: the first layer's output must not drown it, nor the tied head begin too sure
    return model.train()


def optimizer(trainee: Trainee, stage: Stage) -> torch.optim.AdamW:
    """Over what the stage trains; the rest is frozen. Matrices decay, embeddings and vectors do not."""
    parts = {
        "model.image_encoder": bool(stage.images) or stage.encoders,
        "labels.image": bool(stage.images) or stage.encoders,
        "model.video_encoder": stage.encoders,
        "labels.video": stage.encoders,
        "model.language_model": stage.answers,
        "model": stage.answers and not stage.words,
    }
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, p in trainee.named_parameters():
        p.requires_grad_(next(trained for part, trained in parts.items() if name.startswith(part)))
        if p.requires_grad:
            highest = stage.image_rate if stage.image_rate and "image_encoder" in name else stage.rate
            decay = 0.05 if p.ndim > 1 and "embed" not in name and "A_" not in name else 0.0
            groups[highest, decay].append(p)
    return torch.optim.AdamW(
        [
            {"params": p, "lr": lr, "highest": lr, "weight_decay": decay}
            for (lr, decay), p in sorted(groups.items(), key=lambda g: g[0], reverse=True)
        ],
        betas=(0.9, 0.98),
    )


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


def run_stage(
    trainee: Trainee, stage: Stage, steps: int, batches: Batches, saved: Path, bf16: bool, log: Console
) -> None:
    """Optimise for `steps`, from the checkpoint `saved` on if there is one, and leave a checkpoint there."""
    optim = optimizer(trainee, stage)
    first, spent = 0, 0.0
    if saved.is_file():
        state = torch.load(saved, weights_only=True)
        trainee.load_state_dict(state["trainee"])
        optim.load_state_dict(state["optimizer"])
        first, spent = state["step"], state["seconds"]
    loader = DataLoader(batches, batch_size=None, sampler=range(first, steps), num_workers=1, prefetch_factor=8)
    reports, last_save = Reports(), time.perf_counter()
    started = last_save - spent
    steps_column = TextColumn("{task.completed}/{task.total}")
    columns = (TextColumn("{task.description}"), BarColumn(), steps_column, TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=log, disable=not log.is_terminal) as progress:
        task = progress.add_task(stage.name, total=steps, completed=first)
        for done, batch in enumerate(loader, first + 1):
            for group in optim.param_groups:
                group["lr"] = group["highest"] * rate(done - 1, steps)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss, report = trainee(batch, stage)
            optim.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_([p for p in trainee.parameters() if p.requires_grad], 1.0)
            optim.step()
            reports.add(report)
            progress.advance(task)
            now = time.perf_counter()
            if done % REPORT_EVERY == 0 or done == steps:
                log.print(f"{stage.name} {done}/{steps} {now - started:.0f} s  {reports.take()}", soft_wrap=True)
            if now - last_save > SAVE_EVERY_S or done == steps:
                state = {"trainee": trainee.state_dict(), "optimizer": optim.state_dict()}
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
    clip, log = NAMED_CONFIGS["tiny"].clip, Console(highlight=False)
    trainee = None
    for number, stage in enumerate(stages):
        batches = Batches(
            tokenizer,
            clip.image_size,
            clip.image_size // clip.patch_size,
            seed=2 * (len(STAGES) * seed + number),
            clips=stage.batch,
            length=QUESTION_TOKENS if stage.answers else 0,
            words=stage.words,
        )
        trainee = trainee or Trainee(initial_model(seed), batches.prefix())
        run_stage(
            trainee, stage, round(stage.steps * scale), batches, checkpoints / f"{number}-{stage.name}.pt", bf16, log
        )
    assert trainee is not None
    save_checkpoint(trainee.model.half(), output)
    (output / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    log.print(f"{output}: {sum(p.numel() for p in trainee.model.parameters()) / 1e6:.1f} M parameters")


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
    train(args.output, args.checkpoints, args.seed, args.scale, args.bf16)


if __name__ == "__main__":
    main()
