"""`mvgpt chat`: its logic line by line, and as a process with a pipe, a terminal and Ctrl-C."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from mvgpt_runtime import MvgptError, Session
from mvgpt_runtime.chat import Chat
from mvgpt_runtime.manifest import Bundle

MVGPT = str(Path(sys.executable).parent / "mvgpt")
SAMPLED = {
    "max_new_tokens": 6,
    "temperature": 1.0,
    "seed": 4,
}  # greedy, the random model says the same whatever it is asked


class Recorder:
    """A chat, with what it writes and notes."""

    def __init__(self, session: Session, **options: float) -> None:
        self.session, self.text, self.notes = session, "", list[str]()
        ask = partial(session.ask, keep_history=True, **options)  # type: ignore[arg-type]
        self.chat = Chat(session, ask, session.load_video, self.write, self.notes.append)

    def write(self, text: str) -> None:
        self.text += text

    def say(self, line: str) -> str:
        """What the chat writes in return."""
        self.text = ""
        assert self.chat.handle(line)
        return self.text


@pytest.fixture(scope="module")
def session(tiny_bundle: Bundle) -> Session:
    return Session(tiny_bundle)


@pytest.fixture
def recorder(session: Session, sample_clip: Path) -> Recorder:
    session.load_video(sample_clip)
    return Recorder(session, **SAMPLED)


def test_history_and_reset(recorder: Recorder) -> None:
    alone = recorder.say("And then?")
    again = recorder.say("And then?")
    assert alone.endswith("\n")
    assert alone != again
    recorder.say("/reset")
    assert recorder.say("And then?") == alone
    assert recorder.say("And then?") == again
    assert recorder.notes.count("(cut off: --max-new-tokens reached)") == 4


def test_another_video(recorder: Recorder, real_clip: Path, tmp_path: Path) -> None:
    """A bad one leaves the present one and its conversation."""
    recorder.say("What happens?")
    before = recorder.session.snapshot()
    recorder.say(f"/video {tmp_path / 'none.mp4'}")
    recorder.say("/video")
    assert "none.mp4" in recorder.notes[-2]
    assert "which one" in recorder.notes[-1]
    assert recorder.session.snapshot() == before
    recorder.say(f"/video {real_clip}")
    assert real_clip.name in recorder.notes[-1]
    after = recorder.say("What happens?")
    recorder.say("/reset")
    assert recorder.say("What happens?") == after


def test_without_a_video(recorder: Recorder, monkeypatch: pytest.MonkeyPatch, sample_clip: Path) -> None:
    """After loading was stopped, everything else says how to go on, and it does go on."""
    load = recorder.session.load_video

    def stopped(path: Path) -> None:
        load(path, progress=lambda stage: signal.raise_signal(signal.SIGINT))

    monkeypatch.setattr(recorder.chat, "_load", stopped)
    recorder.say(f"/video {sample_clip}")
    assert "(stopped)" in recorder.notes
    for line in ("What happens?", "/reset", "/stats"):
        recorder.say(line)
        assert "no video is loaded" in recorder.notes[-1]
        assert "/video PATH" in recorder.notes[-1]
    monkeypatch.undo()
    recorder.say(f"/video {sample_clip}")
    assert recorder.say("What happens?")


def test_ctrl_c_while_an_answer_comes(recorder: Recorder) -> None:
    """Stops the answer; its part stays in the conversation, and Ctrl-C means what it meant before."""
    before = signal.getsignal(signal.SIGINT)
    written = 0

    def write(text: str) -> None:
        nonlocal written
        written += 1
        if written == 3:
            signal.raise_signal(signal.SIGINT)

    recorder.chat._write = write
    recorder.say("What happens?")
    assert recorder.notes[-1] == "(stopped)"
    assert signal.getsignal(signal.SIGINT) is before
    first = recorder.chat._answer
    assert first is not None
    assert len(first.token_ids) == 3
    recorder.say("And then?")
    second = recorder.chat._answer
    assert second is not None
    assert second.suffix_ids[: len(first.suffix_ids) + 3] == first.suffix_ids + first.token_ids


def test_a_full_context(session: Session, sample_clip: Path) -> None:
    """Both when an answer runs into its end and when a question does; /reset helps."""
    session.load_video(sample_clip)
    recorder = Recorder(session, max_new_tokens=10_000)  # greedy, the random model finds no end
    recorder.say("What happens?")
    assert recorder.notes == ["(cut off: the context is full, /reset starts the conversation over)"]
    recorder.say("And then?")
    assert "too long" in recorder.notes[-1]
    assert "/reset" in recorder.notes[-1]
    recorder.say("/reset")
    assert len(recorder.say("What happens?")) > 1


def test_commands(recorder: Recorder) -> None:
    recorder.say("/stats")
    assert "video prefill" in recorder.notes[-1]
    assert "question prefill" not in recorder.notes[-1]
    recorder.say("What happens?")
    recorder.say("/stats")
    assert "question prefill" in recorder.notes[-1]
    count = len(recorder.notes)
    assert recorder.say("") == ""
    assert len(recorder.notes) == count
    recorder.say("/nonsense")
    assert "no such command: /nonsense" in recorder.notes[-1]
    assert all(command in recorder.notes[-1] for command in ("/reset", "/video", "/stats", "/help", "/quit"))
    assert not recorder.chat.handle("/quit")


def test_an_error_ends_no_chat(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise MvgptError("broken", stage="text_decoder")

    monkeypatch.setattr(recorder.session._generator, "prefill", broken)
    recorder.say("What happens?")
    assert recorder.notes[-1] == "error: text_decoder: broken"
    monkeypatch.undo()
    assert recorder.say("What happens?")


# --- As a process ---


def test_piped(tiny_bundle: Bundle, sample_clip: Path) -> None:
    """Answers on stdout, a line each; the rest on stderr; lines after /quit are not read."""
    script = b"What happens?\n/reset\n\nWhat happens?\nno \xff UTF-8\n/quit\nnot this\n"
    command = [MVGPT, "chat", str(tiny_bundle.folder), str(sample_clip), "--max-new-tokens", "5"]
    done = subprocess.run(command, input=script, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.decode().splitlines()
    assert first == second
    notes = done.stderr.decode()
    assert "Traceback" not in notes
    assert notes.count("--max-new-tokens reached") == 2
    assert "not valid Unicode" in notes
    ended = subprocess.run(command, input=b"What happens?", capture_output=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout.decode()) == (0, first + "\n")


def test_bad_options_are_refused_at_once(tiny_bundle: Bundle, sample_clip: Path) -> None:
    command = [MVGPT, "chat", str(tiny_bundle.folder), str(sample_clip), "--top-k", "-1"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: sampler: bad top_k")


# The tiny model would be done before the signal comes: 20 ms per token give it seconds. Each says that it is decoding.
SLOW = """
import sys, time
from mvgpt_runtime import generate
from mvgpt_runtime.cli import main
append = generate.Generator._append
def slow(self, rows):
    if len(rows) == 1:
        time.sleep(0.02)
        print("[decoding]", end="", flush=True)
    return append(self, rows)
generate.Generator._append = slow
main()
"""


class Terminal:
    """The side of a pseudo-terminal that a person sits at."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self._unread = descriptor, b""

    def sees(self, what: bytes, timeout: float = 120) -> bool:
        """Read up to and including `what`; whether it came in time."""
        deadline = time.monotonic() + timeout
        while what not in self._unread:
            if not select.select([self.descriptor], [], [], max(0, deadline - time.monotonic()))[0]:
                return False
            self._unread += os.read(self.descriptor, 4096)
        self._unread = self._unread.partition(what)[2]
        return True


def test_ctrl_c_in_a_terminal(tiny_bundle: Bundle, sample_clip: Path) -> None:
    """With real signals: during an answer it is stopped and the chat goes on, at the prompt the chat is left."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, "chat", str(tiny_bundle.folder), str(sample_clip), "--max-new-tokens", "500"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, "TERM": "dumb", "NO_COLOR": "1"},
        # a runner in the background may have Ctrl-C ignored, and children would inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    terminal = Terminal(master)
    try:
        os.close(slave)
        assert terminal.sees(b"> ")
        for _ in range(2):
            os.write(master, b"What?\n")
            assert terminal.sees(b"[decoding]")
            os.kill(process.pid, signal.SIGINT)
            assert terminal.sees(b"(stopped)")
            assert terminal.sees(b"> ")
        for _ in range(15):
            os.kill(process.pid, signal.SIGINT)
            if terminal.sees(b"\n", timeout=2):
                break
            # again: between printing its prompt and waiting for keys, input() takes no notice
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        os.close(master)
