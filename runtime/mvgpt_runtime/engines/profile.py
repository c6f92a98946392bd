"""Where a stage's time goes, by ExecuTorch's event tracer (ETDump): operators, and the nodes inside the delegates."""

from __future__ import annotations

import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import contract
from ..contract import Geometry
from ..errors import MvgptError
from ..manifest import Bundle
from .executorch import ExecuTorchEngine
from .flatbuffer import read
from .program import Method, read_program

TIME_BUDGET_S, LEAST_RUNS, MOST_RUNS = 2.0, 3, 25
# What is no operator's: the parts of a call that remain when the operators are subtracted.
REST_OF_DELEGATES, BETWEEN_INSTRUCTIONS, PYTHON = "(rest of delegates)", "(between instructions)", "(Python, copies)"


@dataclass(frozen=True)
class Operator:
    """An operator by its registered name, a kind of XNNPACK node (`XNNPACK Softmax (NC, F32)`), or a remainder."""

    name: str
    calls: int  # of one run
    ms: float


@dataclass(frozen=True)
class Profile:
    """The run of median time. The operators' times sum to `wall_ms`."""

    stage: str
    workload: str
    runs: int
    wall_ms: float  # of `Engine.run`
    execute_ms: float  # of this, inside ExecuTorch's Method::execute
    operators: tuple[Operator, ...]  # the longest first


@dataclass(frozen=True)
class Workload:
    stage: str
    name: str
    inputs: tuple[np.ndarray, ...]


def workloads(geometry: Geometry) -> Iterator[Workload]:
    """Seeded inputs as a video and a question give them; the language model prefills a frame, then decodes a token."""
    last_frame = (geometry.num_frames - 1) * geometry.image_tokens
    rows = min(geometry.image_tokens, geometry.prefill_chunk)
    for stage in contract.STAGES:
        if stage.name == "token_embedding":
            yield _workload(stage.name, "1 token", geometry, 1)
        elif stage.name == "text_decoder":
            yield _workload(stage.name, f"prefill, {rows} rows at {last_frame}", geometry, rows, last_frame)
            end = geometry.visual_tokens
            yield _workload(stage.name, f"decode, 1 row at {end}", geometry, 1, end)
        else:
            yield _workload(stage.name, "1 call", geometry, 0)


def profile(bundle: Bundle, threads: int | None, report: Callable[[str], None]) -> list[Profile]:
    """Run every workload, warm and traced. `report` is told which comes next.

    Raises:
        MvgptError: the bundle is not of ExecuTorch programs, or the installed executorch has no event tracer.
    """
    engine = TracingEngine(bundle, threads)
    profiles = []
    for workload in workloads(bundle.geometry):
        report(f"profiling {workload.stage}, {workload.name}")
        method = read_program(bundle.path(workload.stage))[bundle.manifest.stages[workload.stage].method]
        profiles.append(_measure(engine, workload, method))
        if workload.stage in contract.ENCODER_STAGES:
            engine.unload(workload.stage)
    return profiles


class TracingEngine(ExecuTorchEngine):
    """An engine that records what it runs."""

    def _open(self, path: Path) -> Any:
        return self._runtime._load_program(str(path), enable_etdump=True)

    def take_events(self, stage: str) -> bytes:
        """The ETDump of all that this stage's program has run since the last call."""
        program = self._programs[self._bundle.manifest.stages[stage].file]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "run.etdp"
            try:
                program.write_etdump_result_to_file(str(path))
                return path.read_bytes()
            except (RuntimeError, OSError) as e:
                raise MvgptError(
                    "this executorch records no events",
                    stage=stage,
                    expected="one built with EXECUTORCH_ENABLE_EVENT_TRACER, as PyPI's wheels are",
                    got=e,
                ) from None


def _measure(engine: TracingEngine, workload: Workload, method: Method) -> Profile:
    engine.run(workload.stage, workload.inputs)
    engine.take_events(workload.stage)
    runs: list[tuple[float, bytes]] = []  # seconds, events
    while len(runs) < LEAST_RUNS or (len(runs) < MOST_RUNS and sum(s for s, _ in runs) < TIME_BUDGET_S):
        start = time.perf_counter()
        engine.run(workload.stage, workload.inputs)
        seconds = time.perf_counter() - start
        runs.append((seconds, engine.take_events(workload.stage)))
    seconds, events = sorted(runs)[len(runs) // 2]
    (dump,) = read("etdump", [events])
    execute_ms, operators = summarize(dump, method, seconds * 1e3)
    return Profile(workload.stage, workload.name, len(runs), seconds * 1e3, execute_ms, operators)


def summarize(dump: dict[str, Any], method: Method, wall_ms: float) -> tuple[float, tuple[Operator, ...]]:
    """(time in Method::execute, operators) of a decoded ETDump of one run that took `wall_ms` for its caller."""
    calls: Counter[str] = Counter()
    ticks: Counter[str] = Counter()  # nanoseconds, as ExecuTorch counts on POSIX systems
    execute = 0
    events = [e["profile_event"] for run in dump["run_data"] for e in run["events"] if "profile_event" in e]
    for event in events:
        duration, name = event["end_time"] - event["start_time"], event.get("name")
        if node := event.get("delegate_debug_id_str"):
            operator = "XNNPACK " + re.sub(r" #\d+$", "", node)  # a number within its delegate
        elif name == "OPERATOR_CALL":
            operator = method.instructions[event["instruction_id"]]
        elif name == "DELEGATE_CALL":
            operator = REST_OF_DELEGATES
        else:
            execute += duration if name == "Method::execute" else 0
            continue
        calls[operator] += 1
        ticks[operator] += duration
    if not execute:
        raise MvgptError("the ETDump has no Method::execute", stage="inspect", got=f"{len(events)} events")
    ticks[REST_OF_DELEGATES] -= sum(t for name, t in ticks.items() if name.startswith("XNNPACK "))
    ticks[BETWEEN_INSTRUCTIONS] = execute - sum(ticks.values())
    ticks[PYTHON] = round(wall_ms * 1e6) - execute
    rows = (Operator(name, calls[name], t / 1e6) for name, t in ticks.items() if calls[name] or t)
    return execute / 1e6, tuple(sorted(rows, key=lambda row: -row.ms))


def _workload(stage: str, name: str, geometry: Geometry, rows: int, start_pos: int = 0) -> Workload:
    generator = np.random.default_rng(0)
    inputs = []
    for tensor in contract.stage(stage).inputs:
        shape = [most if least == most else rows for least, most in tensor.shape(geometry)]
        if tensor.name == "frame_mask":
            inputs.append(np.ones(shape, np.float32))
        elif tensor.name == "start_pos":
            inputs.append(np.full(shape, start_pos, np.int64))
        elif tensor.dtype == "float32":
            inputs.append(generator.standard_normal(shape, np.float32))
        else:
            limit = 256 if tensor.dtype == "uint8" else geometry.vocab_size
            inputs.append(generator.integers(0, limit, shape, np.dtype(tensor.dtype).type))
    return Workload(stage, name, tuple(inputs))
