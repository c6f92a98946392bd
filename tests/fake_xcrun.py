"""An `xcrun` whose `devicectl` has one iPhone: JSON, exit statuses and console as those of Xcode 15 to 26.

Shapes follow what Qt Creator's and Flutter's tests recorded and devicectl's help says.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import fake_phone as phone

APP = "org.mvgpt.demo"
CONTAINER = phone.ROOT / "container"
IDENTIFIER, UDID = "12345BB5-AEDE-4A22-B653-6037262550DD", "00008120-000A3C0134A3401E"


def error(domain: str, code: int, text: str, below: dict[str, Any] | None = None) -> dict[str, Any]:
    info: dict[str, Any] = {"NSLocalizedDescription": {"string": text}}
    if below:
        info["NSUnderlyingError"] = {"error": below}
    return {"domain": domain, "code": code, "userInfo": info}


GONE = error(
    "com.apple.CoreDevice.ControlChannelConnectionError",
    1,
    "Internal logic error: Connection was invalidated",
    error("com.apple.CoreDevice.ControlChannelConnectionError", 0, "Transport error"),
)


def answer(
    options: argparse.Namespace, result: dict[str, Any] | None, failure: dict[str, Any] | None = None
) -> NoReturn:
    info = {"arguments": sys.argv[1:], "commandType": "devicectl", "jsonVersion": 2, "version": "355.7.7"}
    body = {"info": info | {"outcome": "failed" if failure else "success"}}
    body |= {"error": failure} if failure else {"result": result}
    if options.json_output:
        Path(options.json_output).write_text(json.dumps(body, indent=2))
    if failure:
        text = failure["userInfo"]["NSLocalizedDescription"]["string"]
        print(f"ERROR: {text} ({failure['domain']} error {failure['code']}.)", file=sys.stderr)
    sys.exit(1 if failure else 0)


def device(name: str, identifier: str, udid: str) -> dict[str, Any]:
    s = phone.state()
    return {
        "connectionProperties": {
            "pairingState": s.get("pairing", "paired"),
            "transportType": "wired",
            "tunnelState": "disconnected" if s["state"] == "device" else "unavailable",
        },
        "deviceProperties": {
            "developerModeStatus": s.get("developer_mode", "enabled"),
            "name": name,
            "osVersionNumber": "18.1",
        },
        "hardwareProperties": {
            "marketingName": "iPhone 16",
            "platform": "iOS",
            "productType": "iPhone17,3",
            "reality": "physical",
            "udid": udid,
        },
        "identifier": identifier,
    }


def copy_to(options: argparse.Namespace) -> None:
    source, target = Path(options.source), CONTAINER / options.destination
    if source.is_dir():  # the destination names the folder itself; what is there stays
        target.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target, dirs_exist_ok=True)
        return
    if not target.parent.is_dir():
        answer(options, None, error("NSCocoaErrorDomain", 4, "The file doesn’t exist."))
    problem = phone.copy(source, target)
    if problem == "gone":
        answer(options, None, GONE)
    if problem == "full":
        below = error("NSPOSIXErrorDomain", 28, "No space left on device")
        answer(
            options, None, error("com.apple.dt.CoreDeviceError", 7000, "The operation couldn’t be completed.", below)
        )


def launch(options: argparse.Namespace) -> NoReturn:
    if phone.state().get("locked"):
        print(
            f"ERROR: The application failed to launch. (com.apple.dt.CoreDeviceError error 10002)\n"
            f"Unable to launch {options.app} because the device was not, or could not be, unlocked.",
            file=sys.stderr,
        )
        sys.exit(1)
    assert options.console
    assert options.terminate_existing
    bridged = sys.stdout.isatty()

    def end(signal_number: int) -> NoReturn:
        print(f"App terminated due to signal {signal_number}.", flush=True)
        os._exit(1)

    signal.signal(signal.SIGTERM, lambda n, frame: end(n))
    print(f"Launched application with {options.app} bundle identifier.")
    print("Waiting for the application to terminate…", flush=True)
    environment = json.loads(options.environment_variables)
    assert all(isinstance(value, str) for value in environment.values())
    parameters = {
        k.removeprefix("MVGPT_BENCH_").lower(): v for k, v in environment.items() if k.startswith("MVGPT_BENCH_")
    }
    status = phone.app(
        parameters, CONTAINER, CONTAINER / "Documents/bench", lambda line: print(line, flush=True) if bridged else None
    )
    if status < 0:
        end(-status)
    sys.exit(0)


def main() -> NoReturn:
    if sys.argv[1] != "devicectl" or phone.state().get("xcode") == 14:
        print(f'xcrun: error: unable to find utility "{sys.argv[1]}", not a developer tool or in PATH', file=sys.stderr)
        sys.exit(72)
    command = [word for word in sys.argv[2:5] if not word.startswith("-")]
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in "device json-output domain-type domain-identifier source destination subdirectory bundle-id".split():
        parser.add_argument(f"--{name}")
    parser.add_argument("--environment-variables")
    for name in ("quiet", "console", "terminate-existing"):
        parser.add_argument(f"--{name}", action="store_true")
    options, words = parser.parse_known_args(sys.argv[2 + len(command) :])
    assert not any(word.startswith("-") for word in words), words  # an option that devicectl does not have
    options.app = words[0] if words else None

    if command == ["list", "devices"]:
        devices = [device("Anna's iPhone", IDENTIFIER, UDID)]
        devices += [device(name, f"{name}-id", f"{name}-udid") for name in phone.state().get("others", ())]
        watch = {"hardwareProperties": {"platform": "watchOS"}, "identifier": "a watch"}
        answer(options, {"devices": [*devices, watch] if phone.state().get("known", True) else [watch]})
    if phone.state()["state"] != "device":
        answer(options, None, error("com.apple.dt.CoreDeviceError", 1000, "The specified device was not found."))
    assert options.device == IDENTIFIER
    if command == ["device", "process", "launch"]:
        launch(options)
    if command == ["device", "info", "apps"]:
        installed = phone.state().get("app") != "absent" and options.bundle_id == APP
        answer(options, {"apps": [{"bundleIdentifier": APP, "name": "mvgpt", "version": "1.0"}] if installed else []})
    if command == ["device", "info", "lockState"]:
        answer(options, {"deviceIdentifier": IDENTIFIER})
    assert (options.domain_type, options.domain_identifier) == ("appDataContainer", APP)
    if phone.state().get("app") == "from the store":
        answer(options, None, error("ContainerLookupErrorDomain", 7, "The container could not be found."))
    if command == ["device", "copy", "to"]:
        copy_to(options)
    elif command == ["device", "copy", "from"]:
        source = CONTAINER / options.source
        if not source.is_file():
            answer(options, None, error("NSCocoaErrorDomain", 260, f"The file “{source.name}” couldn’t be opened."))
        shutil.copyfile(source, options.destination)
    elif command == ["device", "info", "files"]:
        folder = CONTAINER / options.subdirectory
        if not folder.is_dir():
            answer(options, None, error("NSCocoaErrorDomain", 260, "The folder doesn’t exist."))
        files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
        rows = [
            {"name": p.name, "relativePath": str(p.relative_to(folder)), "metadata": {"size": p.stat().st_size}}
            for p in files
        ]
        answer(options, {"deviceIdentifier": IDENTIFIER, "files": rows})
    else:
        raise AssertionError(command)
    answer(options, {"deviceIdentifier": IDENTIFIER})


if __name__ == "__main__":
    phone.note_call()
    main()
