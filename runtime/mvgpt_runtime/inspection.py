"""`mvgpt inspect --graph` and `--profile`: what a bundle's graphs are made of, and where their time goes."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from .engines.onnx import read_operators
from .engines.profile import Profile, profile
from .engines.program import Method, read_program
from .errors import MvgptError
from .kernels import NAMESPACE
from .manifest import Bundle, StageInfo

TOP = 12


@dataclass(frozen=True)
class Graph:
    """One stage's graph, read from its file."""

    delegates: int
    nodes: dict[str, int]  # what the backend runs (of ExecuTorch programs, inside the delegates), with counts
    own: dict[str, int]  # our operators outside, with counts
    portable: dict[str, int]  # the runtime's operators outside, with counts


def show(bundle: Bundle, graph: bool, profiled: bool, threads: int | None, as_json: bool) -> None:
    """Print what was asked for, as text or as one JSON object."""
    backends = bundle.manifest.backends
    if profiled and backends != ("xnnpack",):
        raise MvgptError(
            "only ExecuTorch programs can be profiled", stage="inspect", expected="xnnpack", got=", ".join(backends)
        )
    graphs = stage_graphs(bundle) if graph else {}
    profiles = _profile_with_status(bundle, threads) if profiled else []
    if as_json:
        parts: dict[str, object] = {}
        if graph:
            parts["graph"] = {name: dataclasses.asdict(g) for name, g in graphs.items()}
        if profiled:
            parts["profile"] = [dataclasses.asdict(p) for p in profiles]
        print(json.dumps(parts, indent=1))
        return
    console = Console()
    if graph:
        _print_graphs(console, graphs)
    for p in profiles:
        _print_profile(console, p)


def stage_graphs(bundle: Bundle) -> dict[str, Graph]:
    """Every stage's graph; MvgptError if the manifest says otherwise than the program, or a backend's are not read."""
    readers = {"xnnpack": _program_graph, "coreml-delegate": _program_graph, "onnx": _onnx_graph}
    if unknown := [name for name in bundle.manifest.backends if name not in readers]:
        raise MvgptError(
            "graphs of this backend cannot be looked into",
            stage="inspect",
            expected=", ".join(readers),
            got=unknown[0],
        )
    return {name: readers[info.backend](bundle, name, info) for name, info in bundle.manifest.stages.items()}


def _program_graph(bundle: Bundle, name: str, info: StageInfo) -> Graph:
    method = read_program(bundle.path(name)).get(info.method, Method((), {}))
    claimed = {"delegates": info.delegates, **info.undelegated}
    found = {"delegates": method.delegates, **method.outside}
    if claimed != found:
        raise MvgptError(
            "the manifest and the program disagree on what runs outside the delegates",
            stage=name,
            expected=_difference(claimed, found),
            got=_difference(found, claimed),
            remedy="export the bundle again: another version of mvgpt made it",
        )
    own = {op: n for op, n in method.outside.items() if op.startswith(f"{NAMESPACE}::")}
    portable = {op: n for op, n in method.outside.items() if op not in own}
    return Graph(method.delegates, method.nodes, own, portable)


def _onnx_graph(bundle: Bundle, name: str, info: StageInfo) -> Graph:
    return Graph(info.delegates, read_operators(bundle.path(name)), {}, {})


def _difference(counts: dict[str, int], others: dict[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in counts.items() if others.get(name) != n) or "none of these"


def _profile_with_status(bundle: Bundle, threads: int | None) -> list[Profile]:
    console = Console(stderr=True)
    with console.status("profiling …") as status:
        if not console.is_terminal:
            status.stop()
        return profile(bundle, threads, lambda what: status.update(f"{what} …"))


def _print_graphs(console: Console, graphs: dict[str, Graph]) -> None:
    table = Table("stage", "delegates", "nodes inside", "operators outside", box=None, padding=(0, 2, 1, 0))
    for name, graph in graphs.items():
        table.add_row(name, str(graph.delegates), _counts(graph.nodes), _counts({**graph.own, **graph.portable}))
    console.print(table)


def _counts(counts: dict[str, int]) -> str:
    return "\n".join(f"{n:4} {name}" for name, n in counts.items())


def _print_profile(console: Console, p: Profile) -> None:
    console.print(
        f"[bold]{p.stage}[/], {p.workload}: {p.wall_ms:.2f} ms, the median of {p.runs} runs; "
        f"{p.execute_ms:.2f} ms of it in ExecuTorch",
        highlight=False,
    )
    table = Table("operator", box=None, pad_edge=False)
    for column in ("calls", "ms", "share"):
        table.add_column(column, justify="right")
    for row in p.operators[:TOP]:
        table.add_row(row.name, str(row.calls or ""), f"{row.ms:.3f}", f"{row.ms / p.wall_ms:.1%}")
    if rest := p.operators[TOP:]:
        calls, ms = sum(r.calls for r in rest), sum(r.ms for r in rest)
        table.add_row(f"{len(rest)} others", str(calls), f"{ms:.3f}", f"{ms / p.wall_ms:.1%}")
    console.print(table, highlight=False)
    console.print()
