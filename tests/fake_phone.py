"""What both fake tools share: the phone's state in a folder, and the demo app on it.

The folder (environment variable FAKE_PHONE) holds `state.json`, the phone's files below `root`, its log, and the
template of the results that the app writes. Standard library only: the tools start a Python per call.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PHONE = Path(os.environ["FAKE_PHONE"])
ROOT, LOG, CALLS, CRASHES = PHONE / "root", PHONE / "log", PHONE / "calls", PHONE / "crashes"

STEPS = ("load", "image_encoder", "prefill@64", "decode@64")


def state() -> dict[str, Any]:
    return json.loads((PHONE / "state.json").read_text())


def change(**values: Any) -> None:
    new = PHONE / f"state.{os.getpid()}"
    new.write_text(json.dumps(state() | values))
    new.rename(PHONE / "state.json")


def note_call() -> None:
    with CALLS.open("a") as f:
        f.write(json.dumps([os.environ["FAKE_NAME"], *sys.argv[1:]]) + "\n")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def copy(source: Path, target: Path) -> str | None:
    """Bytes over the cable; returns what went wrong: "gone", "full"."""
    s = state()
    data = source.read_bytes()
    for kind, room in (("gone", s.get("disconnect_after")), ("full", s.get("full_after"))):
        if room is not None:
            if len(data) > room:
                target.write_bytes(data[:room])
                if kind == "gone":
                    change(state="gone", disconnect_after=None)
                return kind
            change(**{{"gone": "disconnect_after", "full": "full_after"}[kind]: room - len(data)})
    if s.get("cut_short") == target.name.removesuffix(".part"):
        data = data[: len(data) // 2]
        change(cut_short=None)
    target.write_bytes(data)
    return None


def wait_until_seen() -> None:
    """Until somebody asked for the app's process id, where they do."""
    until = time.monotonic() + (5 if os.environ["FAKE_NAME"] == "am" else 0)
    while time.monotonic() < until and not (PHONE / "seen").exists():
        time.sleep(0.01)


def app(parameters: dict[str, str], base: Path, results: Path, say: Callable[[str], None]) -> int:
    """The demo app's benchmark, one launch of it. Returns its exit status, or minus the signal that ended it."""
    behaves = state().get("app", "well")

    def event(name: str, **values: Any) -> None:
        say("mvgpt-bench " + json.dumps({"run": parameters["run"], "event": name, **values}))

    if behaves == "silent":
        time.sleep(60)
    say('mvgpt-bench {"run": "another launch", "event": "done", "sha256": "' + "0" * 64 + '"}')
    event("started", protocol=2 if behaves == "newer" else 1, version="1.0")
    for i, step in enumerate(STEPS):
        event("progress", step=step, done=i, total=len(STEPS))
        if step == "prefill@64":
            if behaves == "crashes":
                wait_until_seen()
                return -6
            if behaves == "hangs":
                time.sleep(60)
            if behaves == "unplugged":
                change(state="gone")
                time.sleep(60)
            if behaves == "babbles":
                event("progress", step=step, done="many", total=1)
    if behaves == "refuses":
        event("failed", what="slm.pte has another sha256 than the manifest says", remedy="push it again")
        return 1
    bundle, video = base / parameters["bundle"], base / parameters["video"]
    result = json.loads((PHONE / "template.json").read_text())
    warmup, repeats = int(parameters["warmup"]), int(parameters["repeats"])
    result["runs"] = [result["runs"][0] | {"index": i, "warmup": i < warmup} for i in range(warmup + repeats)]
    result["model"]["bundle_sha256"] = "0" * 64 if behaves == "other bundle" else sha256(bundle / "manifest.json")
    result["protocol"] |= {
        "prompt": parameters["prompt"],
        "low_memory": {"true": True, "false": False}[parameters["low_memory"]],
        "repeats": repeats,
        "warmup": warmup,
        "n_threads": int(parameters["threads"]) if "threads" in parameters else None,
        "video": video.name,
        "video_sha256": sha256(video),
    }
    if behaves == "forgets":
        del result["os"]
    results.mkdir(parents=True, exist_ok=True)
    path = results / parameters["out"]
    path.write_text(json.dumps(result))
    digest = sha256(path)
    if behaves == "writes late":
        path.write_text("{")
    event("done", sha256=digest)
    return 0
