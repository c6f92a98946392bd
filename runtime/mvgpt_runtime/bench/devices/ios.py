"""An iPhone or iPad (iOS 17 or later) through `xcrun devicectl` of Xcode 15 or later."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ...errors import MvgptError
from ..launch import Request
from . import Facts
from .command import STAGE, Lines, call, find

ENVIRONMENT = "MVGPT_BENCH_"
"""Before the upper-case names of the app's parameters in its environment."""

DEVICE_ERROR = "com.apple.dt.CoreDeviceError"

MARK, RECORD = ".mvgpt", "pushed.json"
"""Beside the files on the phone: one that makes the folder; sha256 and bytes of what was pushed whole, by name.

devicectl can neither hash on the phone nor rename there.
"""

ANSWER_S, COPY_S = 60, 3600
XCODE = "install Xcode 15 or later and choose it: sudo xcode-select -s /Applications/Xcode.app"


class Ios:
    root = "Documents/bench"

    def __init__(self, xcrun: str, identifier: str, facts: Facts, app: str) -> None:
        self._xcrun, self._identifier, self._app = xcrun, identifier, app
        self.facts = facts
        self._console: Lines | None = None
        self._whole: dict[str, dict[str, tuple[str, int]]] = {}  # sha256 and bytes, by folder and name
        if not self._run("device", "info", "apps", "--bundle-id", app).get("apps"):
            raise MvgptError(
                f"{app} is not installed on {facts.name}",
                stage=STAGE,
                remedy="run it from Xcode once, or name yours with --app",
            )

    @classmethod
    def connect(cls, udid: str | None, app: str) -> Ios:
        xcrun = find("xcrun", "iPhones are reached from a Mac: " + XCODE)
        listed = devicectl(xcrun, "list", "devices").get("devices", [])
        phones = [d for d in listed if _get(d, "hardwareProperties", "platform") == "iOS"]
        names = {str(d["identifier"]): _get(d, "deviceProperties", "name") for d in phones}
        if udid is not None:
            phones = [
                d
                for d in phones
                if udid in (d["identifier"], _get(d, "hardwareProperties", "udid"), _get(d, "deviceProperties", "name"))
            ]
        elif len(phones) > 1:  # those in reach
            phones = [d for d in phones if _get(d, "connectionProperties", "tunnelState") != "unavailable"] or phones
        if len(phones) > 1:
            raise MvgptError(
                "there are several devices",
                stage=STAGE,
                got=", ".join(f"{d['identifier']} ({_get(d, 'deviceProperties', 'name')})" for d in phones),
                remedy=f"choose one: --device ios:{phones[0]['identifier']}",
            )
        if not phones:
            raise MvgptError(
                f"Xcode knows no device {udid}" if udid else "Xcode knows no iPhone or iPad with iOS 17 or later",
                stage=STAGE,
                got=", ".join(f"{i} ({name})" for i, name in names.items()) or None,
                remedy="plug it in, unlock it and trust this Mac; Xcode, Window, Devices and Simulators must show it",
            )
        (phone,) = phones
        name = _get(phone, "hardwareProperties", "marketingName") or _get(phone, "deviceProperties", "name")
        for path, wanted, remedy in (
            (("connectionProperties", "pairingState"), "paired", "unlock it, plug it in and trust this Mac"),
            (("deviceProperties", "developerModeStatus"), "enabled", "Settings, Privacy & Security, Developer Mode"),
        ):
            if (state := _get(phone, *path)) not in (wanted, None):
                raise MvgptError(
                    f"{name} is not ready", stage=STAGE, expected=f"{path[1]} {wanted}", got=state, remedy=remedy
                )
        version = _get(phone, "deviceProperties", "osVersionNumber")
        facts = Facts(name=str(name), os=f"iOS {version}", emulator=False)
        return cls(xcrun, str(phone["identifier"]), facts, app)

    def free_bytes(self) -> int | None:
        return None  # devicectl tells the capacity only; a copy that does not fit fails

    def hashes(self, folder: str) -> dict[str, str]:
        self._copy_folder({MARK: ""}, folder)  # which makes it, if need be: a listing of no folder is an error
        sizes = self._sizes(folder)
        record: dict[str, tuple[str, int]] = {}
        if RECORD in sizes:
            with tempfile.TemporaryDirectory() as scratch:
                local = Path(scratch) / RECORD
                self._copy("from", f"{folder}/{RECORD}", local)
                record = read_record(local.read_bytes())
        self._whole[folder] = {name: (digest, n) for name, (digest, n) in record.items() if sizes.get(name) == n}
        return {name: digest for name, (digest, _) in self._whole[folder].items()}

    def push(self, local: Path, folder: str, sha256: str, progress: Callable[[int], None]) -> None:
        size, whole = local.stat().st_size, self._whole.setdefault(folder, {})
        if whole.pop(local.name, None) is not None:  # it will be overwritten in place, perhaps keeping its size
            self._copy_folder({RECORD: json.dumps(whole)}, folder)
        self._copy("to", local, f"{folder}/{local.name}")
        # The tool has been seen to report success for a file cut short.
        if (arrived := self._sizes(folder).get(local.name)) != size:
            raise MvgptError(
                f"{local.name} arrived damaged",
                stage=STAGE,
                expected=f"{size} bytes",
                got=f"{arrived} bytes",
                remedy="make room on the phone if its storage is full, then try again",
            )
        whole[local.name] = (sha256, size)
        self._copy_folder({RECORD: json.dumps(whole)}, folder)
        progress(size)

    def start(self, request: Request) -> Lines:
        environment = {ENVIRONMENT + name.upper(): value for name, value in request.parameters().items()}
        # With a terminal: into a pipe, devicectl may hold the app's output back.
        self._console = Lines(
            [
                *(self._xcrun, "devicectl", "device", "process", "launch", "--device", self._identifier),
                *("--terminate-existing", "--console", "--environment-variables", json.dumps(environment)),
                self._app,
            ],
            terminal=True,
        )
        return self._console

    def check(self) -> None:
        self._run("device", "info", "lockState")  # must reach the phone; others answer from memory

    def running(self) -> bool:
        """As long as the console is attached."""
        return self._console is not None and self._console.process.poll() is None

    def stop(self) -> None:
        if self._console is not None:
            self._console.close()  # devicectl passes the signal on to the app

    def pull(self, name: str, local: Path) -> None:
        self._copy("from", f"{self.root}/{name}", str(local))

    def thermal(self) -> None:
        return None  # devicectl does not tell; the app does, in its results

    def crash_log(self) -> str:
        """The console's last words: the signal that ended the app, or why the launch was refused."""
        text = self._console.tail() if self._console is not None else ""
        if "could not be, unlocked" in text:
            raise MvgptError("the phone is locked", stage=STAGE, remedy="unlock it and keep it so (Auto-Lock: Never)")
        return text

    def _copy_folder(self, files: dict[str, str], folder: str) -> None:
        """Files given by their text, into a folder that is made if need be; others in it stay."""
        with tempfile.TemporaryDirectory() as scratch:
            for name, text in files.items():
                (Path(scratch) / name).write_text(text)
            self._copy("to", Path(scratch), folder)

    def _copy(self, direction: str, source: Path | str, destination: Path | str) -> None:
        where = ("--source", str(source), "--destination", str(destination))
        self._run("device", "copy", direction, *self._container, *where, timeout_s=COPY_S)

    def _sizes(self, folder: str) -> dict[str, int]:
        """Bytes by name of a folder's files."""
        listing = self._run("device", "info", "files", *self._container, "--subdirectory", folder)
        return parse_files(listing, folder)

    @property
    def _container(self) -> tuple[str, ...]:
        return ("--domain-type", "appDataContainer", "--domain-identifier", self._app)

    def _run(self, *arguments: str, timeout_s: float = ANSWER_S) -> Any:
        return devicectl(self._xcrun, *arguments[:3], "--device", self._identifier, *arguments[3:], timeout_s=timeout_s)


def devicectl(xcrun: str, *arguments: str, timeout_s: float = ANSWER_S) -> Any:
    """The `result` of a command's JSON, the only output that Apple keeps stable.

    Raises:
        MvgptError: it failed; what is told apart is what has another remedy.
    """
    with tempfile.TemporaryDirectory() as scratch:
        output = Path(scratch) / "output.json"
        ended = call([xcrun, "devicectl", *arguments, "--quiet", "--json-output", str(output)], timeout_s)
        try:
            answer = json.loads(output.read_bytes())
        except (OSError, ValueError):
            answer = {}
    if ended.status == 0 and "result" in answer:
        return answer["result"]
    if "unable to find utility" in ended.text:
        raise MvgptError("this Xcode has no devicectl", stage=STAGE, got=ended.text, remedy=XCODE)
    errors = list(error_chain(answer.get("error")))
    said = "; ".join(text for *_, text in errors if text) or ended.text[-1000:] or f"status {ended.status}"
    domains = {(domain, code) for domain, code, _ in errors}
    if {("NSPOSIXErrorDomain", 28), ("NSCocoaErrorDomain", 640)} & domains or "No space left" in said:
        raise MvgptError("the phone's storage is full", stage=STAGE, got=said, remedy="make room on the phone")
    if any("ContainerLookupErrorDomain" in domain for domain, _ in domains) or "ContainerLookupErrorDomain" in said:
        raise MvgptError(
            "the app's files are out of reach",
            stage=STAGE,
            got=said,
            remedy="install the app from Xcode: those of the App Store and TestFlight keep their files to themselves",
        )
    if any("Connection" in domain for domain, _ in domains) or (DEVICE_ERROR, 1000) in domains or "error 1000" in said:
        raise MvgptError(
            "the phone was disconnected",
            stage=STAGE,
            got=said,
            remedy="connect it and run the command again: what is on the phone already is not copied twice",
        )
    raise MvgptError(f"`devicectl {' '.join(arguments[:3])}` failed", stage=STAGE, got=said)


def error_chain(error: Any) -> Iterator[tuple[str, int, str]]:
    """Domain, code and text of an error of devicectl's JSON and of those below it."""
    while isinstance(error, dict):
        info = error.get("userInfo")
        info = info if isinstance(info, dict) else {}
        texts = (_get(info, key, "string") for key in ("NSLocalizedDescription", "NSLocalizedFailureReason"))
        code = error.get("code")
        yield str(error.get("domain")), code if isinstance(code, int) else 0, ". ".join(str(t) for t in texts if t)
        error = _get(info, "NSUnderlyingError", "error")


def parse_files(listing: Any, folder: str) -> dict[str, int]:
    """Bytes by name of the files in `folder` itself, of the result of `device info files`, which may list those of its
    folders too, by paths from it or from the container."""
    files = _get(listing, "files")
    sizes = {}
    for entry in files if isinstance(files, list) else ():
        name, size = _get(entry, "name"), _get(entry, "metadata", "size")
        if not isinstance(name, str) or not isinstance(size, int):
            continue
        path = _get(entry, "relativePath")
        path = path if isinstance(path, str) else name
        if "/" not in path.removeprefix(f"{folder}/"):
            sizes[name.rpartition("/")[2]] = size
    return sizes


def read_record(data: bytes) -> dict[str, tuple[str, int]]:
    """sha256 and bytes by name; nothing if it is not what `push` writes, and everything is pushed again."""
    try:
        return {str(name): (str(digest), int(size)) for name, (digest, size) in json.loads(data).items()}
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _get(value: Any, *path: str) -> Any:
    """What lies at a path of nested objects; None where there is none."""
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value
