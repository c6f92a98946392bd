"""Running `adb` and `xcrun`: a command to its end, and one whose lines are read while it runs."""

from __future__ import annotations

import os
import pty
import queue
import shutil
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from ...errors import MvgptError

STAGE = "device"


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str

    @property
    def text(self) -> str:
        """Both streams: which of them a tool complains on varies with its version."""
        return "\n".join(part for part in (self.err.strip(), self.out.strip()) if part)


def find(tool: str, remedy: str) -> str:
    """Path of an executable, or MvgptError."""
    if (path := shutil.which(tool)) is None:
        raise MvgptError(f"there is no `{tool}` on this machine", stage=STAGE, remedy=remedy)
    return path


def call(argv: Sequence[str], timeout_s: float) -> Ended:
    """Run to the end, whatever the exit status. MvgptError if it takes longer than `timeout_s`."""
    try:
        done = subprocess.run(
            argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=timeout_s, start_new_session=True, check=False
        )
    except subprocess.TimeoutExpired:
        raise MvgptError(
            f"`{' '.join(argv[:6])} …` does not answer",
            stage=STAGE,
            expected=f"an answer within {timeout_s:.0f} s",
            remedy="look at the device: is it on, unlocked and asking something? Plug it in again",
        ) from None
    return Ended(done.returncode, *(s.decode("utf-8", "replace") for s in (done.stdout, done.stderr)))


class Lines:
    """A command that goes on, and the lines it writes to either stream.

    It has a session of its own: Ctrl-C reaches this process alone, which then stops things in order.
    """

    def __init__(self, argv: Sequence[str], *, terminal: bool = False) -> None:
        """Start it.

        Args:
            terminal: give it a terminal, for tools that hold back lines when there is none.
        """
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._last: deque[str] = deque(maxlen=20)
        ours, theirs = pty.openpty() if terminal else os.pipe()
        try:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, start_new_session=True
            )
        finally:
            os.close(theirs)
        self._reader = threading.Thread(target=self._read, args=(ours,), daemon=True)
        self._reader.start()

    def read(self, timeout_s: float) -> str | None:
        """The next line without its end, None if there is none within `timeout_s`. EOFError: it has ended."""
        try:
            line = self._queue.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if line is None:
            self._queue.put(None)  # for the next reader
            raise EOFError
        return line

    def wait(self, timeout_s: float) -> bool:
        """Whether it ended within `timeout_s`."""
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def tail(self) -> str:
        """The last lines that it wrote, read or not; all of them once it has ended."""
        if self.process.poll() is not None:
            self._reader.join(5)
        return "\n".join(self._last)

    def close(self) -> None:
        """End it: asked first, killed after 5 s."""
        if self.process.poll() is None:
            self.process.terminate()
            if not self.wait(5):
                self.process.kill()
                self.process.wait()
        self._reader.join(5)

    def _read(self, fd: int) -> None:
        # A terminal whose other side closed is an error on Linux and an end on macOS.
        with suppress(OSError), os.fdopen(fd, encoding="utf-8", errors="replace", newline="\n") as stream:
            for line in stream:
                text = line.rstrip("\r\n")
                self._last.append(text)
                self._queue.put(text)
        self._queue.put(None)


class Deadline:
    """A time from now on."""

    def __init__(self, seconds: float) -> None:
        self._start, self._seconds = time.monotonic(), seconds

    @property
    def passed_s(self) -> float:
        return time.monotonic() - self._start

    @property
    def over(self) -> bool:
        return self.passed_s >= self._seconds
