"""Phones that a bundle is measured on: what remote.py needs of one, and finding it by what the user typed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ...errors import MvgptError
from ..launch import APP, Request
from ..results import Thermal
from .command import STAGE, Lines

SPEC = "adb[:SERIAL] or ios[:UDID]"


@dataclass(frozen=True)
class Facts:
    name: str  # "Google Pixel 8", for messages
    os: str  # "Android 15"
    emulator: bool


class Device(Protocol):
    """A connected phone with the demo app on it. What needs a phone that is gone raises MvgptError."""

    facts: Facts
    root: str
    """Folder on the phone that bundles and videos go to."""

    def free_bytes(self) -> int | None:
        """Room for files; None if the phone does not say."""

    def hashes(self, folder: str) -> dict[str, str]:
        """sha256 by name of the whole files in a folder; leftovers of an interrupted push are removed or not listed."""

    def push(self, local: Path, folder: str, sha256: str, progress: Callable[[int], None]) -> None:
        """Copy a file there under its own name, where it appears whole or not at all.

        Args:
            sha256: of its bytes; what arrived is compared with it, or with their number where no hash can be had.
            progress: called with the bytes that are over.

        Raises:
            MvgptError: the storage is full, or the file arrived damaged.
        """

    def start(self, request: Request) -> Lines:
        """Start the app afresh: everything it writes from then on, among other lines perhaps.

        Raises:
            MvgptError: it cannot be started: not installed, the phone is locked.
        """

    def check(self) -> None:
        """MvgptError if the phone is gone."""

    def running(self) -> bool:
        """Whether the app that was started still runs."""

    def stop(self) -> None:
        """End the app, if it runs. Never raises: it is called when something else has failed already."""

    def pull(self, name: str, local: Path) -> None:
        """Copy a result of the app here."""

    def thermal(self) -> Thermal | None:
        """How hot it is now; None if the phone does not tell."""

    def crash_log(self) -> str:
        """What the system has to say about the end of the app, a few lines."""


def connect(spec: str, app: str | None = None) -> Device:
    """The phone that `spec` names.

    Args:
        spec: `adb`, `adb:SERIAL`, `adb:HOST:PORT` (connected to first), `ios`, `ios:UDID`.
        app: application or bundle id, if the app was built under another than ours.

    Raises:
        MvgptError: no such phone, or it refuses; several, and none is named; the app is not installed.
    """
    kind, _, name = spec.partition(":")
    if kind == "adb":
        from .adb import Adb

        return Adb.connect(name or None, app or APP)
    if kind == "ios":
        from .ios import Ios

        return Ios.connect(name or None, app or APP)
    raise MvgptError("no such kind of device", stage=STAGE, expected=SPEC, got=spec)
