"""`mvgpt`: the runtime's commands, `export`, `parity`, `estimate`. Heavy imports stay inside the commands."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import mvgpt_runtime.bench.cli
import mvgpt_runtime.bench.report.cli
import mvgpt_runtime.evaluation.cli  # noqa: F401  they register `mvgpt bench`, `report` and `eval`
import typer
from mvgpt_runtime.cli import BundleArg, JsonOption, app, progress_bar, run, status

if TYPE_CHECKING:
    from .parity import Report, Row

ClipOption = Annotated[str | None, typer.Option(help="CLIP folder, if the checkpoint has no image encoder.")]
VideoMambaOption = Annotated[str | None, typer.Option(help="VideoMamba .pth, if it has no video encoder.")]

# Metrics of `mvgpt parity`: title and format. A cell is the value, then the floor if there is one.
COLUMNS = {
    "max_abs": ("max abs", ".1e"),
    "sqnr_db": ("SQNR dB", ".1f"),
    "cosine": ("cosine", ".5f"),
    "selected_equal": ("frames", ".0%"),
    "argmax_agreement": ("argmax", ".0%"),
    "kl_divergence": ("KL", ".1e"),
}


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
    backend: Annotated[
        str,
        typer.Option(
            help="What the bundle runs on: `xnnpack`, `android`, `ios`, `coreml`, `coreml-delegate` or `onnx`."
        ),
    ] = "xnnpack",
    recipe: Annotated[
        str,
        typer.Option(
            help="How weights and activations are stored: `fp32`, `fp16`, `int8` (not with CoreML) or `mobile`."
        ),
    ] = "fp32",
    kernels: Annotated[
        str | None,
        typer.Option(
            help="Where XNNPACK runs a stage, which is everywhere but in `onnx`. `fused`: our own operators, which an "
            "app builds in; `android` and `ios` take nothing else. `stock`: any ExecuTorch runtime, slower.",
            show_default="fused if compiled",
        ),
    ] = None,
    clip: ClipOption = None,
    videomamba: VideoMambaOption = None,
    max_context: Annotated[
        int | None,
        typer.Option(
            help="Positions of the KV cache: prompt and answer together.", show_default="the video and 650 more"
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare every stage with the eager model; the manifest says.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Turn a checkpoint into a bundle for phones, and check every stage against the eager model.

    Example: mvgpt export tiny -o bundles/tiny
    """

    def command() -> None:
        _quiet_imports()
        with progress_bar() as progress:
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
                verify=verify,
                progress=progress,
            )
        size = sum(f.bytes for f in bundle.manifest.files.values())
        if kernels is None and bundle.manifest.kernels == "stock" and "xnnpack" in bundle.manifest.backends:
            print("note: the fused operators are not compiled, so the stock form is used", file=sys.stderr)
        if bundle.manifest.tokenizer is None:
            print("warning: the checkpoint has no tokenizer; the bundle can be traced but not asked", file=sys.stderr)
        if as_json:
            print(
                json.dumps({"bundle": str(output), "bytes": size, "manifest": bundle.manifest.model_dump(mode="json")})
            )
        else:
            checked = "every stage checked" if verify else "NOT checked"
            print(f"{output}: {size / 1e6:.1f} MB, {checked}; try: mvgpt ask {output} VIDEO 'question'")

    run(command)


@app.command()
def parity(
    bundle: BundleArg,
    checkpoint: Annotated[
        str | None, typer.Option(help="What to compare with, as for export.", show_default="what it was made from")
    ] = None,
    clip: ClipOption = None,
    videomamba: VideoMambaOption = None,
    video: Annotated[Path | None, typer.Option(help="A video file.", show_default="a packaged clip")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare every stage of a bundle with the eager model, and name the first one that diverges.

    Exit status 0: all pass; 1: one fails; 2: they cannot be compared. docs/parity.md explains the table.

    Example: mvgpt parity bundles/tiny
    """

    def command() -> None:
        _quiet_imports()
        with progress_bar() as progress:
            progress("import torch", 0, 1)
            from .parity import check_parity

            report = check_parity(
                bundle,
                checkpoint,
                clip=clip,
                videomamba=videomamba,
                video=video,
                progress=lambda what: progress(what, 0, 1),
            )
        if as_json:
            print(json.dumps(report.as_dict()))
        else:
            _print_report(report)
        if not report.passed:
            raise SystemExit(1)

    run(command)


@app.command()
def estimate(
    bundle: BundleArg,
    device: Annotated[
        str,
        typer.Option(
            help="A phone or its chip, as `pixel 9` or `snapdragon-8-gen-3`; `list` prints them. `here`: measures this "
            "machine and every stage on it.",
            show_default=False,
        ),
    ],
    threads: Annotated[
        int | None, typer.Option(min=1, help="Cores to count on, the fastest first.", show_default="all big ones")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say how fast a bundle can be at most: its operations and bytes against a device's rates. Nothing reaches it.

    docs/estimate.md has the method. Example: mvgpt estimate bundles/tiny --device "pixel 9"
    """

    def command() -> None:
        from mvgpt_runtime.bench.estimate import devices, roofline, show
        from mvgpt_runtime.manifest import Bundle

        opened = Bundle.open(bundle)
        if device == devices.LIST:
            known = devices.phones()
            if as_json:
                print(json.dumps([{**d.as_dict(), "phones": phones} for d, phones in known]))
            else:
                show.show_devices(known)
        elif device == devices.HERE:
            _quiet_imports()
            from .limits import measure_here

            with status("measuring …", quiet=as_json) as update:
                found, measured = measure_here(opened, threads, update)
            if as_json:
                print(json.dumps(found.as_dict(measured)))
            else:
                show.show(found, measured)
        else:
            found = roofline.estimate(opened, devices.phone(device, threads))
            if as_json:
                print(json.dumps(found.as_dict()))
            else:
                show.show(found)

    run(command)


def _print_report(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False)  # names may hold brackets
    console.width = max(console.width, 128)  # a narrow terminal wraps lines, which is easier to read than cut cells
    for inputs in dict.fromkeys(row.inputs for row in report.rows):
        table = Table(title=f"{inputs} inputs, {report.recipe}", title_justify="left", box=None, pad_edge=False)
        for title in ("step", "error", *(title for title, _ in COLUMNS.values()), ""):
            table.add_column(title, no_wrap=True)
        for row in report.rows:
            if row.inputs == inputs:
                table.add_row(*_cells(row), style=None if row.passed else "red")
        console.print(table)
        for row in report.rows:
            if row.inputs == inputs and row.note:
                console.print(f"{row.step}: {row.note}")
        console.print()
    if report.other_weights:
        console.print(
            f"note: the weights of {', '.join(report.other_weights)} in {report.checkpoint} are not those that were "
            "exported; what differs below them may be the checkpoint, not the bundle"
        )
    if (first := report.first_failure) is None:
        console.print(f"{report.bundle}: every stage agrees with {report.checkpoint}")
    else:
        how = " with the errors accumulated before it" if first.fed == "bundle" else ""
        console.print(f"{report.bundle}: {first.step} is the first that diverges{how}, on {first.inputs} inputs")


def _cells(row: Row) -> list[str]:
    from .parity.metrics import direction

    def cell(name: str, form: str) -> str:
        limit = f" {direction(name)} {format(row.limits[name], form)}" if name in row.limits else ""
        return format(row.metrics[name], form) + limit if name in row.metrics else ""

    error = {"host": "host", "eager": "own", "bundle": "accumulated"}[row.fed]
    values = [cell(name, form) for name, (_, form) in COLUMNS.items()]
    return [row.step, error, *values, "pass" if row.passed else "FAIL"]


def _quiet_imports() -> None:
    """torch, torchao and executorch report missing CUDA parts and their own deprecations; none concerns the user."""
    import logging
    import warnings

    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)


def main() -> None:
    app()
