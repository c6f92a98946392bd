"""`mvgpt ask`, `chat`, `inspect`, `goldens`: parse, call the library, print. Heavy imports stay inside the commands."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .errors import MvgptError

if TYPE_CHECKING:
    from .answer import Answer
    from .manifest import Manifest
    from .session import Session

app = typer.Typer(
    name="mvgpt",
    help="Export Mobile-VideoGPT for phones, and ask the exported bundle about videos.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

BundleArg = Annotated[Path, typer.Argument(help="Folder made by `mvgpt export`.", show_default=False)]
VideoArg = Annotated[Path, typer.Argument(help="A video file.", show_default=False)]
MaxNewTokens = Annotated[int | None, typer.Option(help="Longest answer, in tokens.", show_default="bundle's")]
Temperature = Annotated[float | None, typer.Option(help="0 is greedy decoding.", show_default="bundle's")]
TopP = Annotated[
    float | None, typer.Option(help="Sample from the likeliest tokens with this mass.", show_default="bundle's")
]
TopK = Annotated[
    int | None, typer.Option(help="Sample from this many likeliest tokens; 0: all.", show_default="bundle's")
]
RepetitionPenalty = Annotated[
    float | None, typer.Option(help="Above 1: what was said before gets less likely.", show_default="bundle's")
]
Seed = Annotated[int, typer.Option(help="Of the sampling; the same seed gives the same answer.")]
Start = Annotated[float | None, typer.Option(help="Seconds: where the part of interest begins.", show_default="0")]
End = Annotated[float | None, typer.Option(help="Seconds: where it ends.", show_default="clip's end")]
LowMemory = Annotated[bool, typer.Option(help="Unload the encoders before the language model runs.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def run(command: Callable[[], object]) -> None:
    """Exit 2 with one clear message for bad input, 130 for Ctrl-C; anything else is a bug and shows its traceback."""
    try:
        command()
    except MvgptError as e:
        print(f"error: {e}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader of our output left
        sys.stderr.close()
        raise SystemExit(141) from None


@app.command()
def ask(
    bundle: BundleArg,
    video: VideoArg,
    question: Annotated[str, typer.Argument(help="What to ask about it.", show_default=False)],
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    repetition_penalty: RepetitionPenalty = None,
    seed: Seed = 0,
    start: Start = None,
    end: End = None,
    low_memory: LowMemory = False,
    as_json: JsonOption = False,
) -> None:
    """Ask a question about a video and stream the answer.

    Example: mvgpt ask bundles/tiny assets/flash.mp4 "What flashes up?"
    """

    def command() -> None:
        from .session import Session
        from .stats import summary

        session = Session(bundle, low_memory=low_memory)
        _load_video(session, video, start, end, quiet=as_json)
        answer = session.ask(
            question,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            repetition_penalty=repetition_penalty,
            seed=seed,
        )
        for token in answer:
            if not as_json:
                print(token, end="", flush=True)
        if as_json:
            print(json.dumps(_answer_json(session, answer, question), ensure_ascii=False))
        else:
            print()
            print(summary(answer.stats), file=sys.stderr)

    run(command)


@app.command()
def chat(
    bundle: BundleArg,
    video: VideoArg,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    repetition_penalty: RepetitionPenalty = None,
    seed: Seed = 0,
    start: Start = None,
    end: End = None,
    low_memory: LowMemory = False,
) -> None:
    """Talk about a video: questions on standard input, a line each; /help lists the commands.

    Example: mvgpt chat bundles/tiny assets/motion.mp4
    """

    def command() -> None:
        from .chat import Chat, read_lines
        from .session import Session

        session = Session(bundle, low_memory=low_memory)
        _load_video(session, video, start, end)
        ask = partial(
            session.ask,
            keep_history=True,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            repetition_penalty=repetition_penalty,
            seed=seed,
        )
        ask("?")  # runs nothing, but refuses bad options now and not at every question
        note = partial(print, file=sys.stderr)
        note(f"Ask about {video}, or type /help.")
        Chat(session, ask, partial(_load_video, session), partial(print, end="", flush=True), note).run(read_lines())

    run(command)


@app.command()
def inspect(
    bundle: BundleArg,
    graph: Annotated[bool, typer.Option("--graph", help="Instead: delegates, and operators outside them.")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Instead: run the stages, time every operator.")] = False,
    threads: Annotated[int | None, typer.Option(help="Of --profile.", show_default="the runtime's choice")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check a bundle's files and show what is in it.

    Example: mvgpt inspect bundles/tiny --json
    """

    def command() -> None:
        from .manifest import Bundle

        if threads is not None and not profile:
            raise MvgptError("--threads is for --profile", stage="inspect", remedy="add --profile, or leave it out")
        opened = Bundle.open(bundle)
        if graph or profile:
            from .inspection import show

            show(opened, graph, profile, threads, as_json)
        elif as_json:
            print(opened.manifest.model_dump_json(indent=1))
        else:
            _print_manifest(opened.manifest)

    run(command)


@app.command()
def goldens(
    bundle: BundleArg,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder to write; older vectors there are replaced.", show_default=False),
    ] = None,
    check: Annotated[
        Path | None,
        typer.Option(help="Compare with these vectors instead; exit status 1 if they differ.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write golden vectors, which apps in other languages are tested with; or check a bundle against some.

    Example: mvgpt goldens bundles/tiny -o vectors
    """

    def command() -> None:
        if (output is None) == (check is None):
            raise MvgptError("nothing to do", stage="goldens", expected="either --output or --check")
        from .goldens import check_goldens, write_goldens
        from .manifest import Bundle

        opened = Bundle.open(bundle)
        with status("opening the bundle …", quiet=as_json) as update:
            if check is not None:
                difference = check_goldens(opened, check, update)
            elif output is not None:
                vectors = write_goldens(opened, output, update)
        if check is not None:
            _report(as_json, {"vectors": str(check), "difference": difference}, difference or f"{check}: no difference")
            raise SystemExit(1 if difference else 0)
        files = [file for case in vectors.cases for file in case.outputs]
        size = sum(path.stat().st_size for path in Path(str(output)).iterdir())
        _report(
            as_json,
            {"vectors": str(output), "cases": len(vectors.cases), "files": len(files), "bytes": size}
            | {"provenance": vectors.provenance},
            f"{output}: {len(vectors.cases)} cases in {len(files)} files, {size / 1e3:.0f} kB",
        )

    run(command)


def main() -> None:
    app()


def _report(as_json: bool, values: dict[str, object], text: str) -> None:
    print(json.dumps(values, ensure_ascii=False) if as_json else text)


@contextmanager
def status(text: str, quiet: bool) -> Iterator[Callable[[str], None]]:
    """A line on a terminal that says what is being done."""
    from rich.console import Console

    console = Console(stderr=True)
    with console.status(text) as line:
        if quiet or not console.is_terminal:
            line.stop()
        yield lambda stage: line.update(f"{stage} …")


@contextmanager
def progress_bar(steady: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on a terminal, a line per step in a log. `steady`: drawn at each step only, not ten times a second."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    steps = TextColumn("{task.completed}/{task.total}")
    columns = (TextColumn("{task.description}"), BarColumn(), steps, TimeElapsedColumn())
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden, auto_refresh=not steady) as bar:
        task = bar.add_task("")

        def update(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total, refresh=steady)
            if hidden and ": " not in what:  # the parts of a step are for the bar
                print(f"[{done}/{total}] {what}", file=sys.stderr)

        yield update


def _load_video(
    session: Session, video: Path, start: float | None = None, end: float | None = None, quiet: bool = False
) -> None:
    with status("reading the video …", quiet) as update:
        session.load_video(video, start, end, progress=update)


def _answer_json(session: Session, answer: Answer, question: str) -> dict[str, object]:
    clip, encoded = session.clip, session.video
    assert clip is not None
    assert encoded is not None
    return {
        "question": question,
        "answer": answer.text,
        "token_ids": answer.token_ids,
        "finish_reason": answer.finish_reason,
        "frames": {
            "indices": list(clip.indices),
            "timestamps_s": [round(t, 3) for t in clip.timestamps_s],
            "scores": [float(s) for s in encoded.frame_scores.reshape(-1)],
            "key_frames": [int(k) for k in encoded.key_frames],
        },
        "stats": answer.stats,
    }


def _print_manifest(manifest: Manifest) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    sizes = manifest.sizes
    console.print(
        f"[bold]{manifest.model.name}[/]  {manifest.model.parameters / 1e6:.1f} M parameters · {manifest.backend} · "
        f"{manifest.recipe} · {manifest.kernels} kernels · "
        f"contract {manifest.contract_version} · {manifest.model.license}",
        highlight=False,
    )
    console.print(
        f"{sizes.num_frames} frames of {sizes.image_size} px, {sizes.key_frames} key frames, {sizes.visual_tokens} "
        f"visual tokens; KV cache of {sizes.max_context} positions, prefill in chunks of {sizes.prefill_chunk}",
        highlight=False,
    )
    table = Table("stage", "file", "MB", "delegates", "operators outside", box=None, pad_edge=False)
    for name, stage in manifest.stages.items():
        size = manifest.bytes_of(name) / 1e6
        table.add_row(name, stage.file, f"{size:.1f}", str(stage.delegates), str(sum(stage.undelegated.values())))
    console.print(table)
    if own := manifest.own_operators:
        console.print(f"needs a runtime with: {', '.join(own)}", highlight=False)
    memory = manifest.memory
    # Only ExecuTorch plans activations ahead; what the other runtimes take for them no file says.
    without = "the process" if manifest.backends == ("xnnpack",) else "the process and most activations"
    console.print(
        f"memory estimate, without {without}: {memory.all_loaded / 1e6:.0f} MB, "
        f"low_memory {memory.low_memory / 1e6:.0f} MB",
        highlight=False,
    )
    if (verified := manifest.verified) is None:
        console.print("[bold red]not verified[/]: exported with --no-verify")
    else:
        worst, least = min(verified.sqnr_db.items(), key=lambda item: item[1])
        console.print(
            f"verified against the eager model on {' and '.join(verified.inputs)} inputs: {worst} {least:.1f} dB, the "
            f"others more; same next token at {verified.argmax_agreement:.0%} of positions, "
            f"KL {verified.kl_divergence:.2g} nats",
            highlight=False,
        )
    console.print(f"made from {manifest.source.checkpoint}", highlight=False, markup=False)
    console.print("tools: " + ", ".join(f"{name} {v}" for name, v in manifest.tools.items()), highlight=False)
