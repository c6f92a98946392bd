"""The result of a benchmark as JSON: what a desktop or a phone writes, and every reader checks.

`Result` is the schema; benchmark.schema.json is made from it, for apps in other languages. A run holds what was
measured (times, counts, bytes), `aggregates` what metrics.py computes from that, so that a reader can compute it again.
Where ExecuTorch's `Stats` or llama-bench has a name for a thing, it has it here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from ..errors import MvgptError
from ..manifest import FileName, Sha256

SCHEMA_VERSION = 1
SCHEMA_NAME = "benchmark.schema.json"

Milliseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Quantity = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Part(BaseModel):
    # Not strict: a phone's JSON library may write 3.0 as 3.
    model_config = ConfigDict(extra="forbid", frozen=True)


class App(_Part):
    name: str  # "mvgpt", or the demo app's
    version: str
    language: Literal["python", "kotlin", "swift"]
    build_commit: str | None = None


class Device(_Part):
    name: str  # as its maker or its user calls it
    model: str  # the maker's model number, or the machine's
    kind: Literal["desktop", "phone", "emulator"]
    cpu_info: str
    n_cores: PositiveInt
    memory_bytes: PositiveInt | None


class OperatingSystem(_Part):
    name: str  # "Linux", "Android", "iOS", "macOS"
    version: str


class Thermal(_Part):
    """As the system tells it; what it does not tell is null."""

    status: str | None  # its own word: Android "none" … "shutdown", iOS "nominal" … "critical"
    temperature_c: float | None  # of the hottest sensor that can be read


class Power(_Part):
    source: Literal["ac", "battery"] | None
    battery_percent: Annotated[float, Field(ge=0, le=100)] | None
    low_power_mode: bool | None
    governor: str | None  # of the CPU's frequency


class Environment(_Part):
    power: Power
    thermal_before: Thermal
    thermal_after: Thermal
    load_average: Quantity | None  # of the minute before, in processes
    page_cache_evicted: bool  # whether a cold load read from the disk


class Model(_Part):
    name: str
    model_n_params: PositiveInt
    bundle_sha256: Sha256  # of the manifest, which has those of all other files
    recipe: str
    kernels: str
    backends: dict[str, str]  # by stage
    bundle_bytes: PositiveInt
    files: dict[FileName, NonNegativeInt]  # bytes
    geometry: dict[str, PositiveInt]


class Protocol(_Part):
    version: int
    repeats: PositiveInt  # counted runs
    warmup: NonNegativeInt  # runs before them, which no aggregate counts
    n_threads: PositiveInt | None  # None: the backend's choice
    low_memory: bool  # encoders and language model were never loaded at the same time
    prompt: str
    follow_up: str
    n_gen: PositiveInt  # decode steps per depth, whatever the tokens are
    # Positions before a test, ascending. The last: video and prompt, or as much of them as leaves room for the test.
    n_depths: tuple[NonNegativeInt, ...]
    video: str  # file name
    video_sha256: Sha256
    n_frames: PositiveInt  # sampled from it
    cool_down_s: Quantity  # waited between runs


class Load(_Part):
    """Loading the programs of all stages, after their files were checked."""

    cold_ms: Milliseconds | None  # not in the page cache; None: the system cannot empty it
    warm_ms: Milliseconds


class Question(_Part):
    time_to_first_token_ms: Milliseconds  # the video was loaded before
    prompt_eval_ms: Milliseconds
    num_prefilled_tokens: PositiveInt


class Test(_Part):
    """Calls of the language model from one depth on, as llama-bench's: prefill (n_prompt > 0) or decode (n_gen > 0)."""

    n_prompt: NonNegativeInt  # rows of each prefill call
    n_gen: NonNegativeInt  # decode steps: embed a token, run the decoder, choose the likeliest
    n_depth: NonNegativeInt  # positions before the first call
    samples_ns: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]  # of every call


class Run(_Part):
    """One repeat: the same steps in the same order."""

    index: NonNegativeInt
    warmup: bool
    test_time: str  # ISO 8601 with a time zone: when it began
    load: Load
    video: dict[str, Quantity]  # contract.METRICS of loading the video as a file
    stream: dict[str, Quantity]  # of the same frames arriving one by one
    first_question: Question
    follow_up: Question
    stream_question: Question  # the first one after `stream`
    tests: tuple[Test, ...]
    energy_j: Quantity | None  # of the whole run, as the system counts it
    thermal: Thermal  # at its end


class Aggregate(_Part):
    """Of one metric over the counted runs. Outliers are in it, and named."""

    unit: str
    better: Literal["lower", "higher"]
    n: PositiveInt  # runs that have it
    median: Quantity
    p25: Quantity
    p75: Quantity
    minimum: Quantity
    maximum: Quantity
    outliers: tuple[NonNegativeInt, ...]  # indices of runs


class Result(_Part):
    schema_version: Literal[1]
    app: App
    device: Device
    os: OperatingSystem
    environment: Environment
    model: Model
    protocol: Protocol
    runs: tuple[Run, ...]
    peak_memory_bytes: PositiveInt  # of the process, over all runs
    memory_metric: Literal["rss", "pss", "phys_footprint"]  # what the system's figure is
    aggregates: dict[str, Aggregate]


def schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a result."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"mvgpt benchmark result, version {SCHEMA_VERSION}",
        **Result.model_json_schema(),
    }


def read_result(path: str | Path) -> Result:
    """Read a result, checked against the schema.

    Raises:
        MvgptError: no such file, another version, or not as the schema says.
    """
    path = Path(path)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:
        raise MvgptError(
            f"cannot read {path.name}", stage="bench", expected="a JSON file of `mvgpt bench --json`", got=e
        ) from None
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if version != SCHEMA_VERSION:
        raise MvgptError(
            f"{path.name} has another schema version",
            stage="bench",
            expected=SCHEMA_VERSION,
            got=version,
            remedy="measure again with this version of mvgpt and of the app",
        )
    try:
        return Result.model_validate(raw)
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise MvgptError(
            f"{path.name} is no benchmark result", stage="bench", expected=first["msg"], got=where
        ) from None
