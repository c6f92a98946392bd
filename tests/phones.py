"""Phones to measure on: fake `adb` and `xcrun` on PATH, a small bundle that opens, and what a test may look at."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from mvgpt_runtime import contract
from mvgpt_runtime.bench import metrics
from mvgpt_runtime.bench.remote import Limits

TESTS = Path(__file__).parent
SHELL = "am pm pidof getprop dumpsys df logcat".split()
QUICK = Limits(start=10, stall=10, cool_down=0.2, poll=0.02, last_words=1)
ADB, IOS = "adb", "ios"

GEOMETRY = dict.fromkeys(contract.Geometry.__dataclass_fields__, 16) | {"chunk_frames": 8, "max_context": 4096}


class Phone:
    """A fake phone's folder, seen from a test."""

    def __init__(self, folder: Path, **state: Any) -> None:
        self.folder, self.root = folder, folder / "root"
        self.change(**{"serial": "R5CT", "state": "device", "thermal": [[0, 30.0]], **state})

    def change(self, **values: Any) -> None:
        path = self.folder / "state.json"
        state = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(state | values))

    def state(self) -> dict[str, Any]:
        return json.loads((self.folder / "state.json").read_text())

    @property
    def calls(self) -> list[list[str]]:
        path = self.folder / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def pushed(self) -> list[str]:
        """Names of what was copied to it, in order, but for what only this program reads."""
        names = [Path(c[4]).name for c in self.calls if c[0] == "adb" and c[3:4] == ["push"]]
        copies = [c for c in self.calls if c[:5] == ["xcrun", "devicectl", "device", "copy", "to"]]
        sources = [Path(c[c.index("--source") + 1]) for c in copies]
        return names + [path.name for path in sources if path.suffix]

    def files(self) -> dict[str, bytes]:
        """The phone's files by name."""
        return {p.name: p.read_bytes() for p in self.root.rglob("*") if p.is_file()}


def plug_in(folder: Path, monkeypatch: pytest.MonkeyPatch, **state: Any) -> Phone:
    """A phone that `adb` and `xcrun` reach."""
    for name in ("root/data/local/tmp", "root/sdcard", "root/container/Documents", "bin", "shell"):
        (folder / name).mkdir(parents=True)
    for where, names in (("bin", ["adb", "xcrun"]), ("shell", SHELL)):
        for name in names:
            script = folder / where / name
            fake = TESTS / f"fake_{'xcrun' if name == 'xcrun' else 'adb'}.py"
            script.write_text(f'#!/bin/sh\nFAKE_NAME={name} exec {sys.executable} -S -E {fake} "$@"\n')
            script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("FAKE_PHONE", str(folder))
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    (folder / "template.json").write_text(json.dumps(result()))
    return Phone(folder, **state)


def write_bundle(folder: Path, seed: str) -> Path:
    """A bundle whose manifest and hashes are right; its programs are not."""
    folder.mkdir()
    files = {f"{stage.unit}.pte": f"{stage.unit} {seed} ".encode() * 5000 for stage in contract.STAGES}
    files[contract.TOKENIZER_NAME] = b"{}"
    for name, data in files.items():
        (folder / name).write_bytes(data)
    stages = {
        stage.name: {
            "file": f"{stage.unit}.pte",
            "method": stage.name,
            "backend": "xnnpack",
            "delegates": 1,
            "undelegated": {},
        }
        for stage in contract.STAGES
    }
    manifest = {
        "schema_version": contract.MANIFEST_SCHEMA_VERSION,
        "contract_version": contract.CONTRACT_VERSION,
        "model": {"name": "tiny", "parameters": 1, "license": "none"},
        "source": {"checkpoint": "tiny", "clip": None, "videomamba": None, "weights": {}},
        "recipe": "fp32",
        "backend": "xnnpack",
        "kernels": "stock",
        "geometry": GEOMETRY,
        "stages": stages,
        "files": {n: {"sha256": hashlib.sha256(d).hexdigest(), "bytes": len(d)} for n, d in files.items()},
        "tokenizer": contract.TOKENIZER_NAME,
        "prompt": {"prefix": "", "suffix": "{question}", "next_turn": "{question}"},
        "stop_ids": [1],
        "special_ids": {},
        "sampling": {},
        "memory": {"all_loaded": 1, "low_memory": 1},
        "verified": None,
        "tools": {"seed": seed},
    }
    (folder / contract.MANIFEST_NAME).write_text(json.dumps(manifest))
    return folder


def result() -> dict[str, Any]:
    """What the demo app writes, of one run; the fake app puts in what it was asked to measure."""
    thermal = {"status": "none", "temperature_c": 31.5}
    question = {"time_to_first_token_ms": 50.0, "prompt_eval_ms": 40.0, "num_prefilled_tokens": 12}
    return {
        "schema_version": 1,
        "app": {"name": "mvgpt demo", "version": "1.0", "language": "kotlin", "build_commit": None},
        "device": {
            "name": "Pixel 8",
            "model": "shiba",
            "kind": "phone",
            "cpu_info": "Tensor G3",
            "n_cores": 9,
            "memory_bytes": 8 << 30,
        },
        "os": {"name": "Android", "version": "15"},
        "environment": {
            "power": {"source": "battery", "battery_percent": 80, "low_power_mode": False, "governor": None},
            "thermal_before": thermal,
            "thermal_after": thermal,
            "load_average": None,
            "page_cache_evicted": False,
        },
        "model": {
            "name": "tiny",
            "model_n_params": 1,
            "bundle_sha256": "0" * 64,
            "recipe": "fp32",
            "kernels": "stock",
            "backends": {stage.name: "xnnpack" for stage in contract.STAGES},
            "bundle_bytes": 1,
            "files": {},
            "geometry": GEOMETRY,
        },
        "protocol": {
            "version": metrics.VERSION,
            "repeats": 1,
            "warmup": 1,
            "n_threads": None,
            "low_memory": False,
            "prompt": "",
            "follow_up": metrics.FOLLOW_UP,
            "n_gen": metrics.N_GEN,
            "n_depths": [64],
            "video": "clip.mp4",
            "video_sha256": "0" * 64,
            "n_frames": 16,
            "cool_down_s": 0.0,
        },
        "runs": [
            {
                "index": 0,
                "warmup": False,
                "test_time": "2026-01-01T00:00:00+00:00",
                "load": {"cold_ms": None, "warm_ms": 120.0},
                "video": {"video_ready_ms": 9000.0},
                "stream": {"last_frame_to_ready_ms": 900.0},
                "first_question": question,
                "follow_up": question,
                "stream_question": question,
                "tests": [{"n_prompt": 0, "n_gen": 2, "n_depth": 64, "samples_ns": [20_000_000, 30_000_000]}],
                "energy_j": None,
                "thermal": thermal,
            }
        ],
        "peak_memory_bytes": 800_000_000,
        "memory_metric": "pss",
        "aggregates": {},
    }
