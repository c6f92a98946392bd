"""An Android phone or emulator through the `adb` executable of the Android SDK's platform tools."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ...errors import MvgptError
from ..launch import TAG, Request
from ..results import Thermal
from . import Facts
from .command import STAGE, Ended, Lines, call, find

ACTIVITY = "org.mvgpt.demo.MainActivity"
ACTION = "org.mvgpt.demo.action.BENCHMARK"
RESULTS = "/sdcard/Android/data/{app}/files/bench"
"""Where the app writes: its external files, which the shell may read. It may not write where the shell does."""

THERMAL_STATUS = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")

ANSWER_S, HASH_S, POLL_S = 60, 600, 0.5

REMEDIES = {  # by what `adb devices` calls the state
    "unauthorized": "unlock the phone and allow USB debugging in the dialog; if there is none, revoke all in Developer "
    "options and plug it in again",
    "authorizing": "unlock the phone and allow USB debugging in the dialog",
    "offline": "plug it in again; if that does not help: adb kill-server",
    "no permissions": "your user may not use the USB device: install udev rules (package android-sdk-platform-tools-"
    "common) and log in again",
}


class Adb:
    root = "/data/local/tmp/mvgpt"

    def __init__(self, adb: str, serial: str, app: str) -> None:
        self._adb, self._serial, self._app = adb, serial, app
        self._pid, self._since = "", "0"
        names = "ro.product.manufacturer ro.product.model ro.build.version.release ro.kernel.qemu"
        values = self._shell(f"for name in {names}; do getprop $name; done").out.splitlines()
        maker, model, release, qemu = (values + [""] * 4)[:4]
        self.facts = Facts(
            name=model if model.lower().startswith(maker.lower()) else f"{maker} {model}",
            os=f"Android {release}",
            emulator=qemu == "1" or serial.startswith("emulator-"),
        )
        if self._shell(f"pm path {shlex.quote(app)}", check=False).status != 0:
            raise MvgptError(
                f"{app} is not installed on {self.facts.name}",
                stage=STAGE,
                remedy="install it: adb install app-release.apk, or name yours with --app",
            )

    @classmethod
    def connect(cls, serial: str | None, app: str) -> Adb:
        adb = find("adb", "install Android's platform tools and put them on PATH")
        serial = serial or os.environ.get("ANDROID_SERIAL")
        states = _devices(adb)
        if serial and ":" in serial and states.get(serial) != "device":  # HOST:PORT
            answer = call([adb, "connect", serial], ANSWER_S).text
            states = _devices(adb)
            if serial not in states:  # adb's exit status is 0 all the same
                raise MvgptError(
                    f"cannot connect to {serial}",
                    stage=STAGE,
                    got=answer,
                    remedy="both on one network? Wireless debugging on (Developer options), paired (adb pair), the "
                    "port that is shown there?",
                )
        if serial is None:
            ready = [name for name, state in states.items() if state == "device"]
            if len(ready) > 1 or (not ready and len(states) > 1):
                raise MvgptError(
                    "there are several devices",
                    stage=STAGE,
                    got=", ".join(f"{name} ({state})" for name, state in states.items()),
                    remedy=f"choose one: --device adb:{(ready or [*states])[0]}",
                )
            serial = next(iter(ready or states), None)
        if serial is None or serial not in states:
            raise MvgptError(
                f"adb knows no device {serial}" if serial else "adb sees no device",
                stage=STAGE,
                got=", ".join(states) or None,
                remedy="plug it in, switch on USB debugging (Developer options), or adb:HOST:PORT over the network",
            )
        if (state := states[serial]) != "device":
            raise MvgptError(
                f"{serial} is {state}", stage=STAGE, remedy=REMEDIES.get(state, "start Android normally on it")
            )
        return cls(adb, serial, app)

    def free_bytes(self) -> int | None:
        return parse_df(self._shell(f"mkdir -p {self.root} && df -k {self.root}").out)

    def hashes(self, folder: str) -> dict[str, str]:
        where = shlex.quote(folder)
        listing = self._shell(
            f"mkdir -p {where} && chmod 755 {where} && cd {where} && rm -f ./*.part && "
            'for f in *; do if [ -f "$f" ]; then sha256sum "$f" || exit 1; fi; done',
            timeout_s=HASH_S,
        ).out
        return {name: digest for digest, _, name in (line.partition("  ") for line in listing.splitlines())}

    def push(self, local: Path, folder: str, sha256: str, progress: Callable[[int], None]) -> None:
        path = f"{folder}/{local.name}"
        part, whole = shlex.quote(path + ".part"), shlex.quote(path)
        # The copy itself takes what it takes; the device's answers to `stat` tell that it goes on.
        copy = Lines([self._adb, "-s", self._serial, "push", str(local), path + ".part"])
        try:
            while not copy.wait(POLL_S):
                size = self._shell(f"stat -c %s {part}", check=False).out.strip()
                progress(int(size) if size.isdigit() else 0)
        finally:
            copy.close()
        if copy.process.returncode != 0:
            self._fail("push", Ended(copy.process.returncode, copy.tail(), ""))
        arrived = self._shell(
            f"chmod 644 {part} && set -- $(sha256sum {part}) && echo $1 && "
            f"if [ $1 = {sha256} ]; then mv -f {part} {whole}; fi",
            timeout_s=HASH_S,
        ).out.strip()
        if arrived != sha256:
            raise MvgptError(
                f"{local.name} arrived damaged",
                stage=STAGE,
                expected=sha256,
                got=arrived,
                remedy="try again, with another cable or port",
            )
        progress(local.stat().st_size)

    def start(self, request: Request) -> Lines:
        self._since = self._shell("date +%s").out.strip()
        log = Lines([self._adb, "-s", self._serial, *f"logcat -v raw -T {self._since}.000 -s {TAG}:V".split()])
        try:
            extras = " ".join(f"--es {name} {shlex.quote(value)}" for name, value in request.parameters().items())
            component = shlex.quote(f"{self._app}/{ACTIVITY}")
            started = self._shell(f"am start -S -W -n {component} -a {ACTION} {extras}", check=False)
            if started.status != 0 or re.search(r"^(Error|Exception|java\.)|Exception:", started.text, re.M):
                self._fail("am start", started, "is it this release's app? Install it again")
            self._pid = self._shell(f"pidof {shlex.quote(self._app)}", check=False).out.strip()
        except BaseException:
            log.close()
            raise
        return log

    def check(self) -> None:
        state = call([self._adb, "-s", self._serial, "get-state"], ANSWER_S)
        if state.out.strip() != "device":
            raise MvgptError(
                f"{self._serial} was disconnected",
                stage=STAGE,
                got=state.text,
                remedy="connect it and run the command again: what is on the phone already is not copied twice",
            )

    def running(self) -> bool:
        return self._shell(f"pidof {shlex.quote(self._app)}", check=False).status == 0

    def stop(self) -> None:
        with suppress(MvgptError):
            self._shell(f"am force-stop {shlex.quote(self._app)}", check=False)

    def pull(self, name: str, local: Path) -> None:
        remote = f"{RESULTS.format(app=self._app)}/{name}"
        copied = call([self._adb, "-s", self._serial, "pull", remote, str(local)], ANSWER_S)
        if copied.status != 0:
            self._fail("pull", copied)

    def thermal(self) -> Thermal:
        thermal = parse_thermalservice(self._shell("dumpsys thermalservice", check=False).out)
        if thermal.status is None and thermal.temperature_c is None:  # before Android 10
            tenths = re.search(r"^\s*temperature: (\d+)", self._shell("dumpsys battery", check=False).out, re.M)
            return Thermal(status=None, temperature_c=int(tenths[1]) / 10 if tenths else None)
        return thermal

    def crash_log(self) -> str:
        crash = self._shell(f"logcat -b crash -d -v brief -T {self._since}.000", check=False).out.splitlines()
        lines = [line for line in crash if line.strip() and not line.startswith("---------")][-20:]
        exits = self._shell(f"dumpsys activity exit-info {shlex.quote(self._app)}", check=False).out
        if self._pid and (why := re.search(rf"pid={self._pid}\b.*\n.*?(reason=.*)\n(?:.*?(description=.*))?", exits)):
            lines += [part.strip() for part in why.groups() if part]
        return "\n".join(lines)

    def _shell(self, command: str, *, check: bool = True, timeout_s: float = ANSWER_S) -> Ended:
        """A command line for the phone's shell, whose exit status adb passes on."""
        ended = call([self._adb, "-s", self._serial, "shell", command], timeout_s)
        if check and ended.status != 0:
            self._fail(command.split(maxsplit=1)[0], ended)
        return ended

    def _fail(self, what: str, ended: Ended, remedy: str | None = None) -> None:
        """Raise what a command's failure means; adb's texts vary with its version, so the connection is looked at."""
        self.check()
        text = ended.text[-1000:]
        if "No space left on device" in text:
            raise MvgptError("the phone's storage is full", stage=STAGE, got=text, remedy="make room on the phone")
        raise MvgptError(
            f"`{what}` failed on {self._serial}", stage=STAGE, got=text or f"status {ended.status}", remedy=remedy
        )


def _devices(adb: str) -> dict[str, str]:
    listed = call([adb, "devices"], ANSWER_S)
    if listed.status != 0:
        raise MvgptError("`adb devices` failed", stage=STAGE, got=listed.text, remedy="adb kill-server, then again")
    return parse_devices(listed.out)


def parse_devices(text: str) -> dict[str, str]:
    """State by serial, of the output of `adb devices`."""
    rows = (line.partition("\t") for line in text.splitlines())
    states = {serial.strip(): state.strip() for serial, tab, state in rows if tab}
    return {serial: "no permissions" if s.startswith("no permissions") else s for serial, s in states.items()}


def parse_df(text: str) -> int:
    """Bytes that are free, of the output of `df -k` for one path; the name before the numbers may hold spaces."""
    row = re.search(r"\s\d+\s+\d+\s+(\d+)\s+\d+%", text)
    if row is None:
        raise MvgptError("the phone does not say how much room it has", stage=STAGE, got=text.strip()[:300])
    return int(row[1]) * 1024


def parse_thermalservice(text: str) -> Thermal:
    """Of the output of `dumpsys thermalservice`: the status, and the hottest plausible sensor as it is now."""
    status = re.search(r"^Thermal Status: (\d+)", text, re.M)
    known = status is not None and int(status[1]) < len(THERMAL_STATUS)
    now = text.partition("Current temperatures from HAL:")[2] or text
    values = [float(v) for v in re.findall(r"Temperature\{mValue=(-?\d+(?:\.\d+)?),", now)]
    plausible = [v for v in values if 0 < v < 150]  # sensors that are off say 0, -40 or 999
    return Thermal(
        status=THERMAL_STATUS[int(status[1])] if status is not None and known else None,
        temperature_c=max(plausible, default=None),
    )
