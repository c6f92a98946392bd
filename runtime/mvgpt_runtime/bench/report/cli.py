"""`mvgpt report`: parse, call the library, print. Heavy imports stay inside the command."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ...cli import JsonOption, app, run
from ...errors import MvgptError


@app.command()
def report(
    results: Annotated[
        list[Path],
        typer.Argument(
            help="Files of `mvgpt bench --json`, from any devices; the others are compared with the first.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="File to write: .html, or .md with --markdown.", show_default=False),
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="A table for a README instead, on standard output unless -o says where.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Turn results of benchmarks into one page with charts, which needs no network; or into a table.

    Example: mvgpt report desktop.json pixel.json -o report.html
    """

    def command() -> None:
        suffix = ".md" if markdown else ".html"
        if output is None and (as_json or not markdown):
            raise MvgptError("nowhere to write to", stage="report", remedy=f"add -o report{suffix}")
        if output is not None and output.suffix != suffix:  # it may be a result, or somebody's README
            raise MvgptError(
                "the output’s name does not say what is written",
                stage="report",
                expected=f"a name that ends in {suffix}",
                got=output,
                remedy="change the name" if markdown else "change the name, or add --markdown",
            )
        from ...folders import check_file, write_file
        from ..results import read_result
        from .entries import differences, entries, warnings

        if output is not None:
            check_file(output)
        found = [read_result(path) for path in results]
        if markdown:
            from .markdown import markdown as render
        else:
            from .page import page as render
        text = render(found)
        if output is None:
            sys.stdout.write(text)
            return
        write_file(output, text)
        listed = entries(found)
        noticed = [*differences(listed, spoiling=True), *(f"{e.key}: {text}" for e in listed for text in warnings(e))]
        n_bytes = len(text.encode())
        if as_json:
            print(json.dumps({"report": str(output), "results": len(found), "bytes": n_bytes, "warnings": noticed}))
        else:
            print(f"{output}: {len(found)} result{'s' * (len(found) > 1)}, {n_bytes / 1e3:.0f} kB")
            for warning in noticed:
                print(f"warning: {warning}", file=sys.stderr)

    run(command)
