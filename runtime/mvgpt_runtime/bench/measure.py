"""The protocol of docs/benchmark-protocol.md on this machine: a bundle and a clip → `Result`.

One process, one session. Every run goes through the same steps in the same order; what a step prepares (emptying the
page cache, decoding a stream's frames) is not timed, and nothing is printed while a clock runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from .. import contract
from ..engines import Engine
from ..engines.compute_units import COMPUTE_UNITS, UNITS_VARIABLE, compute_units
from ..errors import ContextFull, MvgptError
from ..manifest import Bundle, file_sha256
from ..prompt import Prompt
from ..session import Session
from ..stats import peak_rss_bytes
from ..video import SAMPLE_CLIP, open_clip
from . import machine, metrics
from .results import Environment, Load, Model, Protocol, Question, Result, Run, Test

Progress = Callable[[str, int, int], None]

STEPS = ("load", "video", "questions", "stream", "language model")


def measure(
    bundle: str | Path | Bundle,
    *,
    video: str | Path = SAMPLE_CLIP,
    prompt: str = metrics.PROMPT,
    repeats: int = metrics.REPEATS,
    warmup: int = metrics.WARMUP,
    threads: int | None = None,
    low_memory: bool = False,
    engine: Engine | None = None,
    progress: Progress = lambda what, done, total: None,
) -> Result:
    """Measure a bundle on this machine.

    Args:
        video: the clip that is asked about.
        prompt: the first question.
        repeats, warmup: runs that count, at least 1; runs before them that do not, at least 0.
        threads, low_memory, engine: see `Session`.
        progress: called with a step's name, how many are done and how many there are, while nothing is timed.

    Raises:
        MvgptError: a damaged bundle, one without a tokenizer, no such video, or a question too long for the KV cache;
            before anything runs.
    """
    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    protocol = _protocol(opened, Path(video), prompt, repeats, warmup, threads, low_memory)
    session = Session(opened, low_memory=low_memory, threads=threads, engine=engine)
    power, load, before = machine.power(), machine.load_average(), machine.thermal()
    total = (warmup + repeats) * len(STEPS)
    runs: list[Run] = []
    for index in range(warmup + repeats):

        def say(step: str, index: int = index) -> None:
            which = f"warm-up {index + 1}" if index < warmup else f"run {index - warmup + 1} of {repeats}"
            progress(f"{which}, {step}", index * len(STEPS) + STEPS.index(step), total)

        runs.append(_run(session, protocol, Path(video), index, say))
    progress("done", total, total)
    return Result(
        schema_version=1,
        app=machine.app(),
        device=machine.device(),
        os=machine.operating_system(),
        environment=Environment(
            power=power,
            thermal_before=before,
            thermal_after=runs[-1].thermal,
            load_average=load,
            page_cache_evicted=all(run.load.cold_ms is not None for run in runs),
        ),
        model=_model(opened),
        protocol=protocol,
        runs=tuple(runs),
        peak_memory_bytes=peak_rss_bytes(),
        memory_metric="rss",
        aggregates=metrics.aggregate(runs),
    )


def _protocol(
    bundle: Bundle, video: Path, prompt: str, repeats: int, warmup: int, threads: int | None, low_memory: bool
) -> Protocol:
    """Whatever can be refused is refused here."""
    if any(name.startswith("coreml") for name in bundle.manifest.backends) and compute_units() != COMPUTE_UNITS[0]:
        raise MvgptError(
            "results do not tell compute units apart",
            stage="bench",
            expected=COMPUTE_UNITS[0],
            got=compute_units(),
            remedy=f"unset {UNITS_VARIABLE}",
        )
    texts, sizes = Prompt(bundle), bundle.geometry
    clip = open_clip(video, max_frames=sizes.num_frames)
    positions = [
        len(texts.prefix_ids) + sizes.visual_tokens + len(texts.suffix_ids(question))
        for question in (prompt, metrics.FOLLOW_UP)
    ]
    room = sizes.max_context - max(metrics.N_GEN, _prefill_rows(bundle))
    if max(positions) > sizes.max_context:
        raise ContextFull(max(positions), sizes.max_context)
    return Protocol(
        version=metrics.VERSION,
        repeats=repeats,
        warmup=warmup,
        n_threads=threads,
        low_memory=low_memory,
        prompt=prompt,
        follow_up=metrics.FOLLOW_UP,
        n_gen=metrics.N_GEN,
        n_depths=metrics.depths(min(positions[0], room)),
        video=video.name,
        video_sha256=file_sha256(video),
        n_frames=len(clip.indices),
        cool_down_s=0,
    )


def _model(bundle: Bundle) -> Model:
    manifest = bundle.manifest
    files = {name: info.bytes for name, info in manifest.files.items()}
    return Model(
        name=manifest.model.name,
        model_n_params=manifest.model.parameters,
        bundle_sha256=file_sha256(bundle.folder / contract.MANIFEST_NAME),
        recipe=manifest.recipe,
        kernels=manifest.kernels,
        backends={name: stage.backend for name, stage in manifest.stages.items()},
        bundle_bytes=sum(files.values()),
        files=files,
        geometry=manifest.geometry,
    )


def _run(session: Session, protocol: Protocol, video: Path, index: int, say: Callable[[str], None]) -> Run:
    began, energy = datetime.now(timezone.utc), machine.EnergyMeter()
    say("load")
    load = Load(cold_ms=_load(session) if _evict(session) else None, warm_ms=_load(session))
    say("video")
    session.load_video(video)
    from_file = session.video_stats
    say("questions")
    first, follow_up = _ask(session, protocol.prompt), _ask(session, protocol.follow_up)
    say("stream")
    _stream(session, video)
    from_stream = session.video_stats
    stream_question = _ask(session, protocol.prompt)
    say("language model")
    tests = [test for depth in protocol.n_depths for test in _language_model(session, depth)]
    return Run(
        index=index,
        warmup=index < protocol.warmup,
        test_time=began.isoformat(timespec="seconds"),
        load=load,
        video=from_file,
        stream=from_stream,
        first_question=first,
        follow_up=follow_up,
        stream_question=stream_question,
        tests=tuple(tests),
        energy_j=energy.joules(),
        thermal=machine.thermal(),
    )


def _evict(session: Session) -> bool:
    """Whether the programs must now come from the disk."""
    _unload(session, contract.STAGE_NAMES)
    files = session.bundle.manifest.files.keys() - {session.bundle.manifest.tokenizer}
    return machine.evict({session.bundle.folder / name for name in files})


def _load(session: Session) -> float:
    """Milliseconds of loading every stage. In low memory, the encoders have made room for the language model."""
    _unload(session, contract.STAGE_NAMES)
    elapsed = 0.0
    for stages in (contract.ENCODER_STAGES, contract.LANGUAGE_STAGES):
        start = time.perf_counter()
        for stage in stages:
            session.engine.load(stage)
        elapsed += time.perf_counter() - start
        if session.low_memory:
            _unload(session, stages)
    return elapsed * 1e3


def _unload(session: Session, stages: Sequence[str]) -> None:
    for stage in stages:
        session.engine.unload(stage)


def _ask(session: Session, question: str) -> Question:
    answer = session.ask(question, max_new_tokens=1, temperature=0, top_p=1, top_k=0, repetition_penalty=1)
    for _ in answer:
        pass
    stats = answer.stats
    return Question(
        time_to_first_token_ms=stats["time_to_first_token_ms"],
        prompt_eval_ms=stats["prompt_eval_ms"],
        num_prefilled_tokens=int(stats["num_prefilled_tokens"]),
    )


def _stream(session: Session, video: Path) -> None:
    """The file's frames, a second apart, so that each is taken. Decoded before: a camera's frames cost nothing."""
    frames = list(open_clip(video, max_frames=session.geometry.num_frames).frames())
    session.begin()
    for second, frame in enumerate(frames):
        session.add_frame(frame, float(second))
    session.finish()


def _language_model(session: Session, depth: int) -> tuple[Test, Test]:
    """Prefill and decode from one depth on. The video fills the KV cache beyond it: it takes a smaller start_pos only.

    Calls the stages themselves, so that counts are fixed: no token ends anything.
    """
    engine, video = session.engine, session.video
    assert video is not None
    rows = video.visual_tokens[None, : _prefill_rows(session.bundle)]
    prefill, decode = [], []
    for _ in range(metrics.PREFILL_CALLS):
        start = time.perf_counter_ns()
        (logits,) = engine.run("text_decoder", [rows, np.array([depth], np.int64)])
        prefill.append(time.perf_counter_ns() - start)
    token = int(np.argmax(logits))
    for position in range(depth, depth + metrics.N_GEN):
        start = time.perf_counter_ns()
        (row,) = engine.run("token_embedding", [np.array([[token]], np.int64)])
        (logits,) = engine.run("text_decoder", [row, np.array([position], np.int64)])
        token = int(np.argmax(logits))
        decode.append(time.perf_counter_ns() - start)
    return (
        Test(n_prompt=rows.shape[1], n_gen=0, n_depth=depth, samples_ns=tuple(prefill)),
        Test(n_prompt=0, n_gen=len(decode), n_depth=depth, samples_ns=tuple(decode)),
    )


def _prefill_rows(bundle: Bundle) -> int:
    """A frame's image tokens, or what one call takes of them."""
    return min(bundle.geometry.image_tokens, bundle.geometry.prefill_chunk)
