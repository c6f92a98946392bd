"""Runs a function on hostile input in a process of its own, where a crash or a hang is not the end of the tests."""

from __future__ import annotations

import multiprocessing
import os
import resource
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from mvgpt_runtime.errors import MvgptError

Target = Callable[[Any], object]

TIMEOUT_S = 60  # a hang; cases take milliseconds, a megabyte of text seconds, and the machine may be busy
MEMORY = 8 << 30  # address space of the process; a file of some kilobytes that wants more is a failure


class Sandbox:
    """`sandbox(case)` calls `make(*args)(case)` over there, in a process that lives until a case ends it.

    Returns "accepted", or "refused" for an MvgptError. Any other exception, a crash or a hang is an AssertionError.
    """

    def __init__(self, make: Callable[..., Target], *args: object) -> None:
        self._make, self._args = make, args
        self._process: multiprocessing.process.BaseProcess | None = None

    def __call__(self, case: object) -> str:
        if self._process is None:
            self._start()
        assert self._process is not None
        try:
            self._pipe.send(case)
            # Second by second: a machine that sleeps in between is no hang.
            if not any(self._pipe.poll(1) for _ in range(TIMEOUT_S)):
                self.close()
                raise AssertionError(f"no result after {TIMEOUT_S} s")
            result: str = self._pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            code = self._process.exitcode
            self._process = None
            raise AssertionError(f"the process died, exit code {code}") from None
        assert result in ("accepted", "refused"), result
        return result

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._make, self._args), daemon=True)
        self._process.start()
        theirs.close()


def _serve(pipe: Connection, make: Callable[..., Target], args: tuple[object, ...]) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)  # Rust prints its panics
    os.environ["HF_HUB_OFFLINE"] = "1"
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    target = make(*args)
    while True:
        try:
            case = pipe.recv()
        except EOFError:
            return
        try:
            target(case)
            result = "accepted"
        except MvgptError:
            result = "refused"
        except BaseException:  # noqa: BLE001  a Rust panic is no Exception
            result = traceback.format_exc()
        pipe.send(result)
