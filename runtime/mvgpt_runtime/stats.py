"""Metrics of a question and its video, under the contract's names; every division is here."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from . import contract


class Stats:
    """Milliseconds, counts and rates by the contract's metric names. A metric that was not measured is absent."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def add(self, name: str, value: float) -> None:
        if name not in contract.METRICS:
            raise KeyError(name)
        self.values[name] = self.values.get(name, 0) + value

    def __add__(self, other: Stats) -> Stats:
        """Both, what stands in both added up."""
        total = Stats()
        for name, value in (*self.values.items(), *other.values.items()):
            total.add(name, value)
        return total

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Add the wall-clock time of the block, whatever ends it."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, (time.perf_counter() - start) * 1e3)

    def rate(self, name: str, count: float, ms: float) -> None:
        """count per second; absent where there is nothing to divide by."""
        if count > 0 and ms > 0:
            self.add(name, count / ms * 1e3)

    def as_dict(self) -> dict[str, float]:
        """In the contract's order."""
        return {name: self.values[name] for name in contract.METRICS if name in self.values}


def summary(values: dict[str, float]) -> str:
    """One line: where the time went, and how fast. Of what was measured; a video without an answer too."""
    parts = [
        f"{name.removesuffix('_ms')} {values[name]:.0f} ms"
        for name in ("model_load_ms", "video_decode_ms", "preprocess_ms", *(f"{s}_ms" for s in contract.ENCODER_STAGES))
        if name in values
    ]
    for what, count, ms, rate in (
        ("video prefill", "num_video_prefilled_tokens", "video_prefill_ms", "video_prefill_tokens_per_s"),
        ("question prefill", "num_prefilled_tokens", "prompt_eval_ms", "prefill_tokens_per_s"),
    ):
        if rate in values:
            parts.append(f"{what} {values[count]:.0f} tokens {values[ms]:.0f} ms, {values[rate]:.1f} tokens/s")
    for what, name in (
        ("video ready", "video_ready_ms"),
        ("after its last frame", "last_frame_to_ready_ms"),
        ("first token", "time_to_first_token_ms"),
    ):
        if name in values:
            parts.append(f"{what} {values[name]:.0f} ms")
    if "decode_tokens_per_s" in values:
        parts.append(f"decode {values['decode_tokens_per_s']:.1f} tokens/s")
    if "peak_rss_bytes" in values:
        parts.append(f"peak {values['peak_rss_bytes'] / 1e6:.0f} MB")
    return " · ".join(parts)


def peak_rss_bytes() -> int:
    """Highest resident set size of this process so far: interpreter, libraries and mapped files too."""
    with suppress(OSError, IndexError):  # Linux; there getrusage also counts the program that started this one
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB
