"""`mvgpt eval`: parse, evaluate, print."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..cli import BundleArg, JsonOption, app, progress_bar, run
from ..errors import MvgptError

if TYPE_CHECKING:
    from .score import Evaluation


@app.command("eval")
def evaluate_bundle(
    bundle: BundleArg,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder with videos and questions.jsonl instead of drawn clips.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the drawn clips; training used none below 2³².")] = 0,
    clips: Annotated[int, typer.Option(help="How many of them.")] = 250,
    selection: Annotated[str, typer.Option(help="Key frames: attention, uniform or lowest.")] = "attention",
    blind: Annotated[bool, typer.Option("--blind", help="Show each question another clip: a baseline.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask questions whose answers are known, and count the right ones by type of question.

    Intervals hold the true accuracy with 95 % confidence. Chance is what guessing among the possible answers gives.

    Example: mvgpt eval bundles/tiny --clips 1000 --json
    """

    def command() -> None:
        from ..engines import open_engine
        from ..manifest import Bundle
        from ..session import Session
        from .cases import drawn_cases, folder_cases
        from .score import evaluate
        from .selection import SELECTIONS, SelectingEngine

        if selection not in SELECTIONS:
            raise MvgptError("unknown selection", stage="eval", expected=", ".join(SELECTIONS), got=selection)
        opened = Bundle.open(bundle)
        cases = folder_cases(data) if data else drawn_cases(seed, clips, opened.geometry)
        session = Session(opened, engine=SelectingEngine(open_engine(opened), selection))
        started = time.perf_counter()
        count = len(cases) if isinstance(cases, list) else clips
        with progress_bar() as bar:

            def progress(so_far: Evaluation) -> None:
                bar(f"right: {so_far.total.correct} of {so_far.total.questions}", so_far.clips, count)

            result = evaluate(session, cases, blind=blind, progress=progress)
        seconds = time.perf_counter() - started
        values = {
            "bundle": str(bundle),
            "data": str(data) if data else {"seed": seed, "clips": clips},
            "selection": selection,
            "blind": blind,
            **result.as_dict(),
            "seconds": seconds,
        }
        if as_json:
            print(json.dumps(values, ensure_ascii=False))
        else:
            _print(result, seconds)

    run(command)


def _print(result: Evaluation, seconds: float) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("type", "accuracy", "95 % interval", "questions", "chance", box=None, pad_edge=False)
    for name, score in [*sorted(result.types.items()), ("all", result.total)]:
        low, high = score.interval
        chance = "" if score.chance is None else f"{score.chance:.1%}"
        table.add_row(name, f"{score.accuracy:.1%}", f"{low:.1%} to {high:.1%}", str(score.questions), chance)
    console = Console()
    console.print(table)
    console.print(f"{result.clips} clips in {seconds:.0f} s", highlight=False)
