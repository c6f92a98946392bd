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
    """The caller cancelled while a video was being loaded: no video is loaded now."""

    def __init__(self, stage: str) -> None:
        super().__init__("cancelled by the caller", stage=stage)


class ContextFull(MvgptError):
    """A prompt of `positions` does not fit a KV cache of `max_context`."""

    def __init__(self, positions: int, max_context: int) -> None:
        super().__init__(
            f"the prompt is {positions - max_context} tokens too long for the KV cache",
            stage="text_decoder",
            expected=f"at most {max_context} positions",
            got=positions,
            remedy="ask a shorter question, start the conversation over, or export with a larger max_context",
        )
