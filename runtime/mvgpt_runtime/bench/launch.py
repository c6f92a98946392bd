"""What the demo apps are told to measure, and the lines they answer with: docs/benchmarking-phones.md.

The same on Android and iOS: a few named strings go in, lines of JSON come out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError

from ..errors import MvgptError
from ..manifest import Sha256
from . import metrics

APP = "org.mvgpt.demo"
"""Application id on Android and bundle id on iOS, unless the user built the app under another one."""

TAG = "mvgpt-bench"
"""Log tag on Android, and what every line for this program begins with, followed by a space and a JSON object."""

RESULT = "result.json"


@dataclass(frozen=True)
class Request:
    """One launch of the app: `warmup` runs and `repeats` counted ones in one process."""

    run: str  # names this launch; every line repeats it
    bundle: str  # folder, as the app finds it
    video: str  # file, likewise
    repeats: int
    warmup: int
    threads: int | None  # None: the backend's choice
    low_memory: bool
    prompt: str

    def parameters(self) -> dict[str, str]:
        """By name; all are strings, booleans are "true" or "false", what is None is absent."""
        values = {**vars(self), "low_memory": str(self.low_memory).lower(), "out": RESULT}
        return {name: str(value) for name, value in values.items() if value is not None}


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    run: str


class Started(_Event):
    """The first line: before the bundle is opened."""

    event: Literal["started"]
    protocol: int  # metrics.VERSION
    version: str  # the app's


class Progress(_Event):
    """Before every step that may take more than a second."""

    event: Literal["progress"]
    step: str
    done: NonNegativeInt
    total: PositiveInt


class Done(_Event):
    """The last line of a launch that went well: the result is written."""

    event: Literal["done"]
    sha256: Sha256  # of the result's bytes


class Failed(_Event):
    """The last line of one that did not: `MvgptError` of the other language."""

    event: Literal["failed"]
    what: str
    expected: str | None = None
    got: str | None = None
    remedy: str | None = None


Event = Started | Progress | Done | Failed
_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


def parse_line(line: str, run: str) -> Event | None:
    """What the app says; None for lines that are not of this launch.

    Raises:
        MvgptError: the line is of this launch, and not as agreed.
    """
    _, found, text = line.partition(TAG + " ")
    if not found:
        return None
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError):
        return None  # somebody else's, or cut: the app's last word is missed then, and the wait for it ends
    if not isinstance(raw, dict) or raw.get("run") != run:
        return None
    if raw.get("event") == "started" and raw.get("protocol") != metrics.VERSION:
        raise MvgptError(
            "the app measures by another version of the protocol",
            stage="bench",
            expected=metrics.VERSION,
            got=raw.get("protocol"),
            remedy="install the app and mvgpt of the same release",
        )
    try:
        return _EVENT.validate_python(raw)
    except ValidationError as e:
        raise MvgptError(
            "the app says something that was not agreed",
            stage="bench",
            expected=e.errors()[0]["msg"],
            got=text[:200],
            remedy="install the app and mvgpt of the same release",
        ) from None
