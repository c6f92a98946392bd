"""`mvgpt bench`: parse, call the library, print. Heavy imports stay inside the command."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..cli import BundleArg, LowMemory, app, progress_bar, run
from ..errors import MvgptError

if TYPE_CHECKING:
    from .results import Result


@app.command()
def bench(
    bundle: BundleArg,
    video: Annotated[
        Path | None, typer.Option(help="A video file.", show_default="a packaged clip of 12 seconds")
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="The first question.", show_default="the protocol's")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Runs that count.", show_default="5")] = None,
    warmup: Annotated[int | None, typer.Option(min=0, help="Runs before them that do not.", show_default="1")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads.", show_default="the runtime's choice")] = None,
    low_memory: LowMemory = False,
    device: Annotated[
        str | None,
        typer.Option(
            help="A phone with the demo app: adb[:SERIAL], adb:HOST:PORT or ios[:UDID].", show_default="this machine"
        ),
    ] = None,
    app_id: Annotated[
        str | None, typer.Option("--app", help="The app's id on the phone.", show_default="the demo app's")
    ] = None,
    json_output: Annotated[
        Path | None,
        typer.Option(
            "--json", help="Write everything measured to this file; - is standard output.", show_default=False
        ),
    ] = None,
) -> None:
    """Measure a bundle here or on a phone: loading, every stage, waiting times, tokens per second, memory.

    docs/benchmark-protocol.md says how, and what each figure means; docs/benchmarking-phones.md what --device does.

    Example: mvgpt bench bundles/tiny --json result.json
    """

    def command() -> None:
        from ..folders import check_file, write_file

        if app_id and not device:
            raise MvgptError("--app is for --device", stage="bench", remedy="add --device adb or ios, or leave it out")
        measure: Callable[..., Result]
        if device:
            from .remote import run_on_device

            measure = partial(run_on_device, device, app=app_id)
        else:
            from .measure import measure

        to_stdout = str(json_output) == "-"
        if json_output and not to_stdout:
            check_file(json_output)
        given = {"video": video, "prompt": prompt, "repeats": repeats, "warmup": warmup}
        with progress_bar(steady=True) as progress:
            result = measure(
                bundle,
                threads=threads,
                low_memory=low_memory,
                progress=progress,
                **{name: value for name, value in given.items() if value is not None},
            )
        text = result.model_dump_json(indent=1) + "\n"
        if json_output and not to_stdout:
            write_file(json_output, text)
        _print_result(result, to_stderr=to_stdout)
        if to_stdout:
            sys.stdout.write(text)

    run(command)


def _print_result(result: Result, to_stderr: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from .report.entries import entries, warnings
    from .summary import rows

    console = Console(stderr=to_stderr, highlight=False, markup=False)
    console.width = max(console.width, 100)  # a narrow terminal wraps lines, which is easier to read than cut cells
    model, device, protocol = result.model, result.device, result.protocol
    threads = f"{protocol.n_threads} threads" if protocol.n_threads else "threads as the runtime chose"
    console.print(
        f"{model.name}, {model.recipe}, {model.kernels} kernels, {model.bundle_bytes / 1e6:.1f} MB · "
        f"{device.cpu_info}, {device.n_cores} cores · {protocol.video}, {protocol.n_frames} frames · {threads} · "
        f"{protocol.repeats} runs after {protocol.warmup} warm-up{' · low memory' * protocol.low_memory}"
    )
    table = Table("metric", "unit", box=None, pad_edge=False)
    for title in ("median", "p25–p75"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("outliers")
    for row in rows(result):
        table.add_row(*row)
    console.print(table)
    console.print(f"peak memory {result.peak_memory_bytes / 1e6:.0f} MB ({result.memory_metric} of the whole process)")
    for text in warnings(*entries([result])):
        console.print(f"warning: {text}", style="yellow")
