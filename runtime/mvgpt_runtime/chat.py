"""`mvgpt chat` without its terminal: lines in, text out; a conversation about one video."""

from __future__ import annotations

import io
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import Cancelled, ContextFull, MvgptError
from .stats import summary

if TYPE_CHECKING:
    from .answer import Answer
    from .session import Session

HELP = """\
/reset       forget the conversation, keep the video
/video PATH  go on with another video
/stats       where the time of the last answer and of the video went
/help        this list
/quit        leave; so do Ctrl-D and, at the prompt, Ctrl-C
Ctrl-C while an answer comes stops the answer; what came of it stays in the conversation."""


class Chat:
    """One conversation.

    Args:
        session: with a video loaded.
        ask: question → answer that keeps the history.
        load: loads another video into the session.
        write: gets an answer's text as it comes.
        note: gets everything else, a line or some lines at a time.
    """

    def __init__(
        self,
        session: Session,
        ask: Callable[[str], Answer],
        load: Callable[[Path], object],
        write: Callable[[str], object],
        note: Callable[[str], object],
    ) -> None:
        self._session, self._ask, self._load, self._write, self._note = session, ask, load, write, note
        self._start = session.snapshot()
        self._answer: Answer | None = None

    def run(self, lines: Iterable[str]) -> None:
        """Until the lines end or one says /quit."""
        for line in lines:
            if not self.handle(line.strip()):
                return

    def handle(self, line: str) -> bool:
        """One line, a question or a command; False to leave. Bad input becomes a note."""
        command, _, argument = line.partition(" ")
        try:
            if command in ("/quit", "/exit"):
                return False
            if command == "/reset":
                self._session.restore(self._start)
                self._note("the conversation starts over")
            elif command == "/video":
                self._change_video(argument.strip())
            elif command == "/stats":
                self._note(summary(self._answer.stats if self._answer else self._session.video_stats))
            elif command == "/help":
                self._note(HELP)
            elif command.startswith("/"):
                self._note(f"no such command: {command}\n{HELP}")
            elif line:
                self._answer_question(line)
        except ContextFull as e:
            self._note(f"{e.what}. /reset starts the conversation over")
        except MvgptError as e:
            self._note(f"error: {e}" if self._session.video else f"error: {e}\n  /video PATH loads a video")
        return True

    def _answer_question(self, question: str) -> None:
        answer = self._ask(question)
        with _interrupt_cancels(self._session):
            for token in answer:
                self._write(str(token))
        self._write("\n")
        self._answer = answer
        if answer.finish_reason == "cancelled":
            self._note("(stopped)")
        elif answer.finish_reason == "length":
            full = self._session.snapshot().position >= self._session.geometry.max_context
            end = "the context is full, /reset starts the conversation over" if full else "--max-new-tokens reached"
            self._note(f"(cut off: {end})")

    def _change_video(self, path: str) -> None:
        if not path:
            self._note("which one? /video PATH")
            return
        try:
            with _interrupt_cancels(self._session):
                self._load(Path(path).expanduser())
        except Cancelled:
            self._note("(stopped)")
            raise
        self._start, self._answer = self._session.snapshot(), None
        self._note(f"now about {path}")


def read_lines() -> Iterator[str]:
    """Lines of standard input, with a prompt and line editing if that is a terminal; Ctrl-C and Ctrl-D end them."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # the prompt's check then says what is wrong with the line
    if prompt := "> " if sys.stdin.isatty() else "":
        with suppress(ImportError):  # not every Python has it
            import readline  # noqa: F401  only by being imported it gives input() its line editing
    while True:
        try:
            line = input(prompt)
        except (EOFError, KeyboardInterrupt):
            if prompt:
                print()
            return
        yield line


@contextmanager
def _interrupt_cancels(session: Session) -> Iterator[None]:
    """Ctrl-C ends the session's present step and not the program."""
    before = signal.signal(signal.SIGINT, lambda *_: session.cancel())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
