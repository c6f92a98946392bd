"""What an ExecuTorch program says of itself, without running it: operators, delegates, XNNPACK's nodes."""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import MvgptError
from .flatbuffer import read

DELEGATE = "delegate"


@dataclass(frozen=True)
class Method:
    """One method's graph. An instruction is an operator's name, DELEGATE, or a jump or move between them."""

    instructions: tuple[str, ...]
    nodes: dict[str, int]  # what XNNPACK runs inside the delegates, with counts

    @property
    def delegates(self) -> int:
        return self.instructions.count(DELEGATE)

    @property
    def outside(self) -> dict[str, int]:
        """Operators outside the delegates, as the runtime registers them (`aten::mean.out`), with counts."""
        return count_operators(self.instructions)


def count_operators(instructions: Iterable[str]) -> dict[str, int]:
    """Of instructions, those that call an operator, by name."""
    return dict(sorted(Counter(i for i in instructions if "::" in i).items()))


@dataclass(frozen=True)
class Plan:
    """One method as the file has it, with the field names of executorch's schemas."""

    plan: dict[str, Any]  # ExecuTorch's ExecutionPlan
    graphs: tuple[dict[str, Any] | None, ...]  # XNNPACK's XNNGraph of each delegate; None: another backend's


def read_program(path: Path) -> dict[str, Method]:
    """The methods of a `.pte` file by name; MvgptError if it is none."""
    methods = {}
    for name, method in read_plans(path).items():
        nodes = Counter(node_kind(n) for graph in method.graphs if graph for n in graph["xnodes"])
        methods[name] = Method(tuple(_instructions(method.plan)), dict(sorted(nodes.items())))
    return methods


def read_plans(path: Path) -> dict[str, Plan]:
    """The methods of a `.pte` file by name, with everything but the constants; MvgptError if it is none."""
    with _program(path) as (program, payload):
        plans = program["execution_plan"]
        payloads = {
            (plan["name"], index): _xnnpack_graph(payload(delegate))
            for plan in plans
            for index, delegate in enumerate(plan.get("delegates", ()))
            if delegate["id"] == "XnnpackBackend"
        }
    decoded = read("xnnpack", list(payloads.values())) if payloads else []
    graphs = dict(zip(payloads, decoded, strict=True))
    return {
        plan["name"]: Plan(plan, tuple(graphs.get((plan["name"], i)) for i in range(len(plan.get("delegates", ())))))
        for plan in plans
    }


def read_payloads(path: Path, backend: str) -> list[bytes]:
    """What the delegates of `backend` in a `.pte` file were compiled to; MvgptError if it is no such file."""
    with _program(path) as (program, payload):
        delegates = [d for plan in program["execution_plan"] for d in plan.get("delegates", ())]
        return [payload(delegate) for delegate in delegates if delegate["id"] == backend]


@contextmanager
def _program(path: Path) -> Iterator[tuple[dict[str, Any], Callable[[dict[str, Any]], bytes]]]:
    """The file's flatbuffer, and a function that gives a delegate's payload."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        # Header: flatbuffer's root offset and identifier, then "eh00", its length, the program's size and where its
        # segments begin.
        if data[4:6] != b"ET" or data[8:12] != b"eh00":
            raise MvgptError("not an ExecuTorch program with a header", stage="inspect", got=path)
        size, base = (int.from_bytes(data[at : at + 8], "little") for at in (16, 24))
        (program,) = read("program", [data[:size]])

        def payload(delegate: dict[str, Any]) -> bytes:
            where = delegate["processed"]
            if where["location"] != "SEGMENT":
                return bytes(program["backend_delegate_data"][where["index"]]["data"])
            segment = program["segments"][where["index"]]
            return data[base + segment["offset"] : base + segment["offset"] + segment["size"]]

        yield program, payload


def node_kind(node: dict[str, Any]) -> str:
    """The kind of an XNNPACK node, as `FullyConnected`."""
    return str(node["xnode_union_type"]).removeprefix("_").removeprefix("XNN")


def operator_names(plan: dict[str, Any]) -> list[str]:
    """What the plan's instructions call operators by, in the order of their indices."""
    return [f"{o['name']}.{o.get('overload', '')}".rstrip(".") for o in plan.get("operators", ())]


def _xnnpack_graph(payload: bytes) -> bytes:
    """A delegate's flatbuffer. Header: 4 bytes, "XH00", its length, then offset and size of the flatbuffer."""
    if payload[4:8] != b"XH00":
        raise MvgptError("a delegate without XNNPACK's header", stage="inspect", got=payload[4:8])
    offset, size = (int.from_bytes(payload[at : at + 4], "little") for at in (10, 14))
    return payload[offset : offset + size]


def _instructions(plan: dict[str, Any]) -> Iterable[str]:
    operators = operator_names(plan)
    for chain in plan["chains"]:
        for instruction in chain["instructions"]:
            kind = instruction["instr_args_type"]
            if kind == "KernelCall":
                yield operators[instruction["instr_args"]["op_index"]]
            else:
                yield DELEGATE if kind == "DelegateCall" else kind
