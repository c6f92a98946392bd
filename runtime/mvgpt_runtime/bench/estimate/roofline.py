"""The least time of every stage and question on a device: operations at its highest rate, bytes at its bandwidth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ... import contract
from ...generate import chunk_plan
from ...ingest import video_blocks
from ...manifest import Bundle
from ...prompt import Prompt
from .. import metrics
from .counts import Counts, Work
from .devices import Device

LABEL = "estimate, not a measurement: a floor for times and a ceiling for rates"


@dataclass(frozen=True)
class Call:
    stage: str
    rows: int = 1  # of the stages with a dynamic dimension
    start_pos: int = 0


@dataclass(frozen=True)
class Bound:
    """Of some calls of one stage. `floor_ms` is the sum of each call's larger one of compute and memory."""

    stage: str
    what: str
    calls: int
    work: Work
    compute_ms: float
    memory_ms: float
    floor_ms: float

    @property
    def by(self) -> Literal["compute", "memory"]:
        return "compute" if self.compute_ms >= self.memory_ms else "memory"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "by": self.by, "work": self.work.as_dict()}


@dataclass(frozen=True)
class Estimate:
    """What `device` needs for a bundle at least.

    Attributes:
        stages: what the first question about a video needs in the order of the data, and decode steps.
        headlines: floors in ms and ceilings in tokens/s, named as in `metrics.METRICS`.
    """

    device: Device
    stages: tuple[Bound, ...]
    headlines: dict[str, float]

    def as_dict(self, measured_ms: Sequence[float] | None = None) -> dict[str, Any]:
        """For JSON; with what the calls of each row of `stages` took, if they were measured."""
        stages = [row.as_dict() for row in self.stages]
        for row, ms in zip(stages, measured_ms or (), strict=measured_ms is not None):
            row.update(measured_ms=ms, measured_over_floor=ms / row["floor_ms"])
        return {"label": LABEL, "device": self.device.as_dict(), "stages": stages, "headlines": self.headlines}


def estimate(bundle: Bundle, device: Device) -> Estimate:
    """Of a video of as many frames as the bundle takes, and of the protocol's questions (metrics.py).

    Raises:
        MvgptError: the bundle has no tokenizer, or operators that cannot be counted.
    """
    counts, geometry, prompt = Counts(bundle), bundle.geometry, Prompt(bundle)
    prefix, end = len(prompt.prefix_ids), len(prompt.prefix_ids) + geometry.visual_tokens
    first, follow_up = (len(prompt.suffix_ids(text)) for text in (metrics.PROMPT, metrics.FOLLOW_UP))
    blocks = video_blocks(prefix, geometry)
    chunk = geometry.prefill_chunk

    def prefill(rows: Sequence[int], start: int) -> list[Call]:
        return [Call("text_decoder", count, at) for at, count in chunk_plan(rows, chunk, start)]

    def embed(rows: int) -> list[Call]:
        return [Call("token_embedding", count) for _, count in chunk_plan([rows], chunk)]

    def question(rows: int) -> list[Call]:
        return [*embed(rows), *prefill([rows], end)]

    def decode(depth: int) -> list[Call]:
        return [Call("token_embedding"), Call("text_decoder", 1, depth)]

    short, full = (metrics.depths(end + first)[i] for i in (0, -1))
    frame, finish = [Call("image_encoder"), Call("image_projector")], [Call("video_encoder"), Call("video_projector")]
    scoring = [Call("frame_scorer")]
    video = [*frame * geometry.num_frames, *scoring * geometry.num_chunks, *finish, *embed(prefix), *prefill(blocks, 0)]
    last = end - sum(blocks[-2:])  # where the last frame's tokens go
    tail = [*frame, *scoring, *finish, *prefill(blocks[-2:], last), *question(first)]

    def floor(calls: Sequence[Call]) -> float:
        works = (counts.work(call.stage, call.rows, call.start_pos) for call in calls)
        return sum(max(seconds(work, device)) for work in works) * 1e3

    parts = {
        **{name: ("video", [c for c in video if c.stage == name]) for name in contract.ENCODER_STAGES},
        "prefill": (f"prefill of {end} rows", [c for c in video if c.stage == "text_decoder"]),
        "question": (f"prefill of {first} rows at {end}", prefill([first], end)),
        "short": (f"decode, 1 row at {short}", [Call("text_decoder", 1, short)]),
        "full": (f"decode, 1 row at {full}", [Call("text_decoder", 1, full)]),
    }
    return Estimate(
        device=device,
        stages=tuple(bound(counts, device, calls, what) for what, calls in parts.values()),
        headlines={
            "first_time_to_first_token_ms": floor([*video, *question(first)]),
            "follow_up_time_to_first_token_ms": floor(question(follow_up)),
            "stream_time_to_first_token_ms": floor(tail),
            f"prefill_tokens_per_s@{last}": geometry.image_tokens * 1e3 / floor(prefill(blocks[-2:-1], last)),
            f"decode_tokens_per_s@{short}": 1e3 / floor(decode(short)),
            f"decode_tokens_per_s@{full}": 1e3 / floor(decode(full)),
        },
    )


def bound(counts: Counts, device: Device, calls: Sequence[Call], what: str) -> Bound:
    """The least time of `calls` of one stage, one after the other."""
    total, times = Work(), []
    for call in calls:
        work = counts.work(call.stage, call.rows, call.start_pos)
        total += work
        times.append(seconds(work, device))
    compute, memory = (sum(t[i] for t in times) * 1e3 for i in (0, 1))
    return Bound(calls[0].stage, what, len(calls), total, compute, memory, sum(map(max, times)) * 1e3)


def seconds(work: Work, device: Device) -> tuple[float, float]:
    """(computing, reading): of which the larger is the floor, if both go on at once."""
    computing = sum(macs / device.rate(kind) for kind, macs in work.macs.items())
    computing += work.vector_operations / device.rate("fp32")
    return computing, work.bytes_read / device.bandwidth
