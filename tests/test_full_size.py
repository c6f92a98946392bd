"""Full shapes, seeded random weights, the recipe for phones: minutes, and 6 GB of memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mvgpt_export import export_bundle
from mvgpt_runtime.manifest import Bundle
from tolerances import BUNDLE_BYTES, FOLLOW_UP_SHARE, PEAK_BYTES, STREAM_TAIL_SHARE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Exporting compares every stage with the eager model."""
    return export_bundle("random:0.5b", tmp_path_factory.mktemp("bundles") / "random-0.5b", recipe="mobile")


@pytest.mark.timeout(2400)
def test_random_half_billion_exports_and_answers(bundle: Bundle, real_clip: Path) -> None:
    assert bundle.geometry.visual_tokens == 2402
    assert 600e6 < bundle.manifest.model.parameters < 700e6
    assert sum(path.stat().st_size for path in bundle.folder.iterdir()) <= BUNDLE_BYTES
    command = [sys.executable, "-m", "mvgpt_export", "ask", str(bundle.folder), str(real_clip), "What happens?"]
    output = subprocess.check_output([*command, "--max-new-tokens", "16", "--json"], text=True)
    answer = json.loads(output)
    assert len(answer["token_ids"]) == 16 or answer["finish_reason"] == "stop"
    assert answer["stats"]["num_prompt_tokens"] > 2402


# In a process of its own: what it adds to an interpreter that has imported torch, and its metrics.
MEASURE = """
import json, pathlib, sys
import torch
from mvgpt_runtime import Session, video

def resident(key):
    return int(pathlib.Path("/proc/self/status").read_text().split(key + ":")[1].split()[0]) * 1024

before = resident("VmRSS")
session = Session(sys.argv[1], low_memory=sys.argv[3] == "low")
clip = video.open_clip(sys.argv[2], None, None, session.geometry.num_frames)
if sys.argv[3] == "stream":
    session.begin()
    for i, frame in enumerate(clip.frames()):
        assert session.add_frame(frame, float(i))
    session.finish()
else:
    session.load_frames(clip.frames())
answers = []
for question in ("What happens?", "And what is in the background?"):
    answer = session.ask(question, max_new_tokens=8)
    list(answer)
    answers.append(answer)
print(json.dumps({
    "peak": resident("VmHWM") - before,
    "tokens": [a.token_ids for a in answers],
    "stats": [a.stats for a in answers],
}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.timeout(2400)
def test_memory_and_waiting_time(bundle: Bundle, real_clip: Path) -> None:
    found = {}
    for mode in ("batch", "stream", "low"):
        command = [sys.executable, "-c", MEASURE, str(bundle.folder), str(real_clip), mode]
        found[mode] = json.loads(subprocess.check_output(command, text=True))
        print(mode, f"{found[mode]['peak'] / 1e6:.0f} MB", found[mode]["stats"][1])
    assert found["batch"]["tokens"] == found["stream"]["tokens"] == found["low"]["tokens"]
    assert found["batch"]["peak"] <= PEAK_BYTES["all loaded"]
    assert found["low"]["peak"] <= PEAK_BYTES["low_memory"]
    stats = found["batch"]["stats"][1]
    cold = stats["video_ready_ms"] + found["batch"]["stats"][0]["time_to_first_token_ms"]
    assert stats["time_to_first_token_ms"] <= FOLLOW_UP_SHARE * cold
    assert found["stream"]["stats"][0]["last_frame_to_ready_ms"] <= STREAM_TAIL_SHARE * stats["video_ready_ms"]
