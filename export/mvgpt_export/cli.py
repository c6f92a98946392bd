"""`mvgpt`: the runtime's commands and `export`. Heavy imports stay inside the command."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from mvgpt_runtime.cli import JsonOption, app, run


@app.command()
def export(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="A folder in the published layout, a hub id (owner/name), `tiny` (embedded), or random weights of a "
            "published size: `random:0.5b`, `random:1.5b`, `random:tiny`.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Bundle folder to write; an older bundle there is replaced.", show_default=False
        ),
    ],
    backend: Annotated[str, typer.Option(help="What the bundle runs on.")] = "xnnpack",
    recipe: Annotated[str, typer.Option(help="How weights and activations are stored.")] = "fp32",
    kernels: Annotated[
        str | None,
        typer.Option(
            help="`fused`: our own operators, which an app builds in. `stock`: any ExecuTorch runtime, slower.",
            show_default="fused if compiled",
        ),
    ] = None,
    clip: Annotated[str | None, typer.Option(help="CLIP folder, if the checkpoint has no image encoder.")] = None,
    videomamba: Annotated[str | None, typer.Option(help="VideoMamba .pth, if it has no video encoder.")] = None,
    max_context: Annotated[
        int | None,
        typer.Option(
            help="Positions of the KV cache: prompt and answer together.", show_default="the video and 650 more"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Turn a checkpoint into a bundle for phones, and check every stage against the eager model.

    Example: mvgpt export tiny -o bundles/tiny
    """

    def command() -> None:
        _quiet_imports()
        with _progress() as progress:
            progress("import torch", 0, 1)
            from .bundle import export_bundle

            bundle = export_bundle(
                checkpoint,
                output,
                backend=backend,
                recipe=recipe,
                kernels=kernels,
                clip=clip,
                videomamba=videomamba,
                max_context=max_context,
                progress=progress,
            )
        size = sum(f.bytes for f in bundle.manifest.files.values())
        if kernels is None and bundle.manifest.kernels == "stock":
            print("note: the fused operators are not compiled, so the stock form is used", file=sys.stderr)
        if bundle.manifest.tokenizer is None:
            print("warning: the checkpoint has no tokenizer; the bundle can be traced but not asked", file=sys.stderr)
        if as_json:
            print(
                json.dumps({"bundle": str(output), "bytes": size, "manifest": bundle.manifest.model_dump(mode="json")})
            )
        else:
            print(f"{output}: {size / 1e6:.1f} MB, every stage checked; try: mvgpt ask {output} VIDEO 'question'")

    run(command)


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """A bar on a terminal, a line per step in a log."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    steps = TextColumn("{task.completed}/{task.total}")
    columns = (TextColumn("{task.description}"), BarColumn(), steps, TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("")

        def update(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)
            if not console.is_terminal and ": " not in what:  # the parts of a step are for the bar
                print(f"[{done}/{total}] {what}", file=sys.stderr)

        yield update


def _quiet_imports() -> None:
    """torch, torchao and executorch report missing CUDA parts and their own deprecations; none concerns the user."""
    import logging
    import warnings

    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)


def main() -> None:
    app()
