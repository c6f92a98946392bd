"""Cases of what a host does itself, from sampling frames to statistics: exact on every machine."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np

from ..contract import METRICS, Geometry
from ..errors import MvgptError
from ..frames import FrameClock
from ..generate import chunk_plan
from ..ingest import video_blocks
from ..preprocess import resize_clip, resize_video
from ..prompt import Prompt, TextStream
from ..sampler import Sampler, SamplingOptions, SplitMix64
from ..stats import Stats
from ..video import sample_indices
from . import generator
from .texts import QUESTIONS, STREAMED
from .vectors import Case, Cell, Input, Result, Row, Table

# (height, width, size): down, up, portrait, odd sizes, equal, lines, one pixel; the published size.
RESIZES = (
    (270, 480, 32),
    (480, 270, 32),
    (13, 9, 32),
    (337, 211, 31),
    (99, 100, 33),
    (32, 32, 32),
    (3, 40, 32),
    (40, 1, 32),
    (1, 1, 32),
    (64, 64, 1),
    (240, 320, 224),
)


def host_cases(prompt: Prompt) -> Iterator[Case]:
    """In data order. Only the tokenizer's are of a bundle; the others are the same for all."""
    yield from _generator_cases()
    yield _table("sample_indices", ("num_frames", "fps", "start_s", "end_s", "max_frames", "indices"), _samples())
    yield _table("frame_clock", ("timestamps_s", "taken"), _clock())
    for height, width, size in RESIZES:
        name = f"{height}x{width}-to-{size}"
        frame = Input(name="frame", dtype="uint8", shape=(1, height, width, 3), generator="frames", seed=height)
        for stage, resize in (("resize_clip", resize_clip), ("resize_video", resize_video)):
            result = Result("pixels", resize(frame.array()[0], size))
            yield Case(f"{stage}-{name}", stage, (frame,), (result,))
    yield _table("prompt", ("piece", "text", "repeat", "ids"), _prompts(prompt))
    yield _table("text_stream", ("ids", "pieces"), _streams(prompt))
    columns = "prefix num_frames image_tokens num_chunks video_tokens question prefill_chunk plan".split()
    yield _table("chunk_plan", tuple(columns), _plans())
    columns = "logits_seed vocab levels seen temperature top_p top_k repetition_penalty seed tokens".split()
    yield _table("sampler", tuple(columns), _draws())
    yield _table("rate", ("count", "ms", "per_second"), _rates())
    yield _table("sum", ("values", "total"), _sums())


def _table(stage: str, columns: tuple[str, ...], rows: list[Row]) -> Case:
    return Case(stage, stage, (), (Result("rows", Table(columns, rows)),))


def _generator_cases() -> Iterator[Case]:
    """First of all: whoever fails here has other inputs everywhere else."""
    seeds = (0, 1234567, 2**64 - 1)
    yield _table("splitmix64", ("seed", "draws"), [(s, SplitMix64(s).many(4).tolist()) for s in seeds])
    for input_ in (
        Input(name="values", dtype="int64", shape=(3, 4), generator="integers", seed=1, below=600),
        Input(name="values", dtype="float32", shape=(3, 4), generator="floats", seed=2, scale=0.5),
        Input(name="values", dtype="uint8", shape=(3, 5, 7, 3), generator="frames", seed=3),
    ):
        yield Case(f"generator-{input_.generator}", "generator", (input_,), (Result("values", input_.array()),))


def _samples() -> list[Row]:
    cases: list[tuple[int, float, float | None, float | None, int]] = [
        (120, 30.0, None, None, 16),  # fewer seconds than frames: denser
        (1000, 25.0, None, None, 16),  # more seconds: spread
        (480, 30.0, None, None, 16),  # as many
        (1, 30.0, None, None, 16),
        (5, 30.0, None, None, 16),
        (17, 30.0, None, None, 16),
        (31, 30.0, None, None, 16),
        (40, 0.4, None, None, 16),  # round(fps) is 0
        (80, 2.5, None, None, 16),  # halves round to even
        (105, 3.5, None, None, 16),
        (9000, 30000 / 1001, None, None, 16),
        (1200, 59.94, 2.5, 11.25, 16),
        (120, 30.0, 2.0, None, 16),
        (120, 30.0, None, 1.0, 16),
        (120, 30.0, 1.0, 1.0, 16),
        (120, 30.0, 0.0, 99.0, 16),
        (900, 30.0, None, None, 8),
        (900, 30.0, None, None, 1),
    ]
    return [(*case, sample_indices(*case)) for case in cases]


def _clock() -> list[Row]:
    jitter = generator.integers(4, [75], 16)
    clips = [
        [i / 30 for i in range(95)],
        [7.5 + i / 24 for i in range(75)],
        [(i * 40 + int(jitter[i])) / 1000 for i in range(75)],
        [i * 1.75 for i in range(6)],  # slower than one per second
        [0.0, 0.4, 0.8, 1.2, 1.6, 2.0, 2.4, 2.8, 9.0, 9.1, 10.05],
    ]
    rows: list[Row] = []
    for times in clips:
        clock = FrameClock()
        rows.append((times, [i for i, time in enumerate(times) if clock.takes(time)]))
    return rows


def _prompts(prompt: Prompt) -> list[Row]:
    rows: list[Row] = [("prefix", None, None, list(prompt.prefix_ids))]
    pieces = {"suffix": prompt.suffix_ids, "next_turn": prompt.next_turn_ids}
    for piece, text, repeat in (*(("suffix", *q) for q in QUESTIONS), ("next_turn", *QUESTIONS[0])):
        try:
            ids: Cell = pieces[piece](text * repeat)
        except MvgptError:
            ids = "refused"
        rows.append((piece, json.dumps(text), repeat, ids))
    return rows


def _streams(prompt: Prompt) -> list[Row]:
    """Each text whole, and cut before its last token: inside a character, the end is U+FFFD."""
    rows: list[Row] = []
    for text in STREAMED:
        whole: list[int] = prompt.tokenizer.encode(text, add_special_tokens=False).ids
        for ids in (whole, whole[:-1]):
            stream = TextStream(prompt.tokenizer)
            rows.append((ids, json.dumps([*(stream.push(i) for i in ids), stream.finish()])))
    return rows


def _plans() -> list[Row]:
    rows: list[Row] = []
    for prefix, frames, image, chunks, video, question, chunk in (
        (14, 16, 144, 2, 49, 21, 512),  # the published model
        (30, 16, 25, 2, 16, 600, 512),  # tiny; a question longer than a chunk
        (0, 8, 144, 1, 49, 1, 100),  # no prefix; blocks are cut
        (12, 8, 144, 1, 144, 144, 144),  # exactly a chunk
        (145, 8, 3, 1, 2, 5, 1),
    ):
        sizes = dict.fromkeys(Geometry.__dataclass_fields__, 1)
        sizes |= {"num_frames": frames, "chunk_frames": frames // chunks, "image_tokens": image, "video_tokens": video}
        plan = chunk_plan([*video_blocks(prefix, Geometry(**sizes)), question], chunk)
        rows.append((prefix, frames, image, chunks, video, question, chunk, " ".join(f"{p}:{n}" for p, n in plan)))
    return rows


def logits(seed: int, vocab: int, levels: int) -> np.ndarray:
    """float32 [vocab]: quarters, around zero; few levels give equal scores."""
    return ((generator.integers(seed, [vocab], levels) - levels // 2) / 4).astype(np.float32)


def _draws() -> list[Row]:
    rows: list[Row] = []
    for i, (vocab, levels, seen, options) in enumerate(
        (
            (600, 80, (), SamplingOptions()),
            (600, 80, (5, 17, 17), SamplingOptions(repetition_penalty=1.3)),
            (600, 80, (), SamplingOptions(temperature=1.0, seed=1)),
            (600, 80, (), SamplingOptions(temperature=0.7, top_p=0.9, seed=2**64 - 1)),
            (600, 80, (), SamplingOptions(temperature=1.5, top_k=40, seed=2**63)),
            (
                600,
                80,
                (1, 2, 3),
                SamplingOptions(temperature=0.8, top_p=0.95, top_k=50, repetition_penalty=1.2, seed=7),
            ),
            (600, 4, (), SamplingOptions(temperature=1.0, top_k=5, seed=3)),  # mostly ties
            (5000, 60, (), SamplingOptions(temperature=2.0, top_p=0.5, seed=4)),
            (1, 8, (), SamplingOptions(temperature=1.0, seed=5)),
            (600, 80, (), SamplingOptions(temperature=0.01, top_p=0.01, seed=6)),
        ),
        start=1,
    ):
        sampler, scores = Sampler(options, seen), logits(i, vocab, levels)
        tokens = [sampler(scores) for _ in range(16)]
        how = (options.temperature, options.top_p, options.top_k, options.repetition_penalty, options.seed)
        rows.append((i, vocab, levels, seen, *how, tokens))
    return rows


def _rates() -> list[Row]:
    rows: list[Row] = []
    name = "decode_tokens_per_s"
    for count, ms in ((66, 1000.0), (2416, 5512.75), (7, 3.5), (1, 0.001), (5, 0.0), (0, 5.0), (0, 0.0)):
        stats = Stats()
        stats.rate(name, count, ms)
        rows.append((count, ms, stats.values.get(name)))  # empty: no such metric
    return rows


def _sums() -> list[Row]:
    rows: list[Row] = []
    name = next(iter(METRICS))
    for values in ([0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [1e16, 1.0, 1.0], [12.5]):
        stats = Stats()
        for value in values:
            stats.add(name, value)
        rows.append((values, stats.values[name]))
    return rows
