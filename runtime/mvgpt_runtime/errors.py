"""The project's one error type: what went wrong, where, what was expected, what was found and what to do about it."""

from __future__ import annotations


class MvgptError(Exception):
    """Bad input, a bad bundle or a broken contract. Command lines print it and exit with status 2.

    Attributes:
        what: one sentence that names the problem.
        stage: the pipeline stage, file or step it belongs to (for example ``"video"`` or ``"image_encoder"``).
        expected, got: the two sides that disagree, if there are two sides.
        remedy: what the reader can do next.
    """

    def __init__(
        self,
        what: str,
        *,
        stage: str,
        expected: object | None = None,
        got: object | None = None,
        remedy: str | None = None,
    ) -> None:
        self.what = what
        self.stage = stage
        self.expected = expected
        self.got = got
        self.remedy = remedy
        lines = [f"{stage}: {what}"]
        lines += [f"  {name}: {value}" for name, value in (("expected", expected), ("got", got)) if value is not None]
        if remedy is not None:
            lines.append(f"  remedy: {remedy}")
        super().__init__("\n".join(lines))


class Cancelled(MvgptError):
    """The caller cancelled while the video was being loaded; nothing of the session's previous video is lost."""

    def __init__(self, stage: str) -> None:
        super().__init__("cancelled by the caller", stage=stage)
