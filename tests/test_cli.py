"""The command line as a user meets it: real processes, exit codes, stdout and stderr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mvgpt_export.backends import TARGETS
from mvgpt_export.quant import RECIPES
from mvgpt_runtime import cli, contract
from mvgpt_runtime.manifest import Bundle
from typer.testing import CliRunner

MVGPT = [str(Path(sys.executable).parent / "mvgpt")]


def run(*args: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "200", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [*MVGPT, *map(str, args)], capture_output=True, text=True, timeout=timeout, env=environment, check=False
    )


def refused(*args: object) -> str:
    """Exit 2, one message on stderr, no traceback, nothing on stdout."""
    result = run(*args)
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    return error_of(result.stderr)


def error_of(stderr: str) -> str:
    assert "Traceback" not in stderr
    before, error, message = stderr.partition("error: ")
    assert error
    assert all(line.startswith("[") for line in before.splitlines())  # only progress
    return message


def test_help_is_quick_and_teaches() -> None:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        result = run("--help")
        times.append(time.perf_counter() - start)
    assert all(
        command in result.stdout for command in ("export", "parity", "ask", "chat", "inspect", "goldens", "estimate")
    )
    assert min(times) < 0.5
    said = run("export", "--help").stdout
    assert "mvgpt export tiny" in said
    assert all(f"`{name}`" in said for name in (*TARGETS, *RECIPES))


def test_ask_streams_text_and_closes_with_times(tiny_bundle: Bundle, real_clip: Path) -> None:
    result = run("ask", tiny_bundle.folder, real_clip, "What happens?", "--max-new-tokens", "12")
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("\n")
    (line,) = result.stderr.splitlines()
    assert all(
        word in line for word in ("video_encoder", "video prefill", "question prefill", "first token", "decode", "peak")
    )


def test_ask_json(tiny_bundle: Bundle, real_clip: Path) -> None:
    args = ("ask", tiny_bundle.folder, real_clip, "What happens?", "--max-new-tokens", "6", "--json")
    result = run(*args)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    answer = json.loads(result.stdout)
    assert len(answer["token_ids"]) <= 6
    assert answer["finish_reason"] in ("stop", "length")
    assert len(answer["frames"]["indices"]) == 16
    assert len(answer["frames"]["key_frames"]) == 8
    assert set(answer["stats"]) <= set(contract.METRICS)
    assert json.loads(run(*args).stdout)["token_ids"] == answer["token_ids"]


def test_ask_part_of_a_clip_with_sampling(tiny_bundle: Bundle, sample_clip: Path) -> None:
    options = (
        "--temperature 0.9 --top-p 0.9 --top-k 40 --repetition-penalty 1.1 --seed 7 --start 2 --end 4 --json".split()
    )
    result = run("ask", tiny_bundle.folder, sample_clip, "And now?", "--max-new-tokens", "6", *options)
    assert result.returncode == 0, result.stderr
    frames = json.loads(result.stdout)["frames"]
    assert 1.9 <= min(frames["timestamps_s"]) <= max(frames["timestamps_s"]) <= 4.1


def test_inspect(tiny_bundle: Bundle) -> None:
    text = run("inspect", tiny_bundle.folder)
    assert text.returncode == 0
    assert all(name in text.stdout for name in contract.STAGE_NAMES)
    manifest = json.loads(run("inspect", tiny_bundle.folder, "--json").stdout)
    assert manifest["geometry"]["image_size"] == 48


def test_bad_input(tiny_bundle: Bundle, sample_clip: Path, tmp_path: Path) -> None:
    """Those of a kind in processes of their own, the others in this one, which is much sooner."""
    bundle = tiny_bundle.folder
    fake = tmp_path / "fake.mp4"
    fake.write_text("I am a text file.")
    assert "no manifest.json" in refused("inspect", tmp_path)
    assert "fake.mp4" in refused("ask", bundle, fake, "?")
    assert "no such checkpoint" in refused("export", "nonsense", "-o", tmp_path / "b")
    assert "from the hub" in refused("export", "owner/name", "-o", tmp_path / "b")
    assert "unknown recipe" in refused("export", "tiny", "-o", tmp_path / "b", "--recipe", "int3")
    assert "is no bundle" in refused("export", "tiny", "-o", tmp_path)
    assert not (tmp_path / "b").exists()
    for message, args in {
        "no such bundle": ("ask", tmp_path / "none", sample_clip, "?"),
        "--threads is for --profile": ("inspect", bundle, "--threads", "1"),
        "none.mp4": ("ask", bundle, tmp_path / "none.mp4", "?"),
        "start_s": ("ask", bundle, sample_clip, "?", "--start", "999"),
        "question is empty": ("ask", bundle, sample_clip, " "),
        "top_p": ("ask", bundle, sample_clip, "?", "--top-p", "2"),
        "top_k": ("ask", bundle, sample_clip, "?", "--top-k", "-2"),
        "repetition_penalty": ("ask", bundle, sample_clip, "?", "--repetition-penalty", "0"),
    }.items():
        result = CliRunner().invoke(cli.app, [str(argument) for argument in args])
        assert isinstance(result.exception, SystemExit), result.exception
        assert (result.exit_code, result.stdout) == (2, ""), message
        assert message in error_of(result.stderr)


@pytest.mark.parametrize("args", [["ask"], ["export", "tiny"], ["nonsense"], ["inspect", "--what"]])
def test_usage_errors(args: list[str]) -> None:
    result = run(*args)
    assert result.returncode == 2
    assert "Usage" in result.stderr
