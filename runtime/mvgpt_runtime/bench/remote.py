"""A benchmark on a phone: push the bundle, let the demo app measure, bring its results home as one.

docs/benchmarking-phones.md says what happens in which order, and what the app is to do.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import contract
from ..errors import MvgptError
from ..manifest import Bundle, file_sha256
from ..video import SAMPLE_CLIP
from . import metrics
from .devices import Device, connect
from .devices.command import STAGE, Deadline, Lines
from .launch import RESULT, Done, Failed, Progress, Request, Started, parse_line
from .results import Result, Thermal, read_result

Update = Callable[[str, int, int], None]
"""What is being done, how much of it is done, and how much there is; a part of it comes after a colon."""

STATUS = ("none", "nominal", "light", "fair", "moderate", "serious", "severe", "critical", "emergency", "shutdown")
"""Thermal states of Android and iOS, the coolest first."""

CLOSE_ENOUGH_C = 2.0
SPARE_BYTES = 64 << 20  # a phone that is full to the last byte does not work well


@dataclass(frozen=True)
class Limits:
    """Seconds."""

    start: float = 60  # until the app says its first word
    stall: float = 300  # between two words: the longest step on a slow phone
    cool_down: float = 300  # before a run, however hot the phone still is
    poll: float = 1  # between two looks
    last_words: float = 3  # until what an app wrote before it ended has arrived


def run_on_device(
    spec: str,
    bundle: str | Path,
    *,
    video: str | Path = SAMPLE_CLIP,
    prompt: str = metrics.PROMPT,
    repeats: int = metrics.REPEATS,
    warmup: int = metrics.WARMUP,
    threads: int | None = None,
    low_memory: bool = False,
    app: str | None = None,
    limits: Limits | None = None,
    progress: Update = lambda what, done, total: None,
) -> Result:
    """Measure a bundle on a phone. Nothing is written on this machine.

    Every repeat is a launch of the app of its own, which warms up by itself; in between the phone cools down to the
    temperature that it had before the first.

    Args:
        spec: the phone, as `devices.connect` takes it.
        video, prompt, threads, low_memory: as on this machine.
        repeats, warmup: launches, at least 1; runs in each before the one that counts, at least 0.
        app: the app's id, if it was built under another one than ours.
        limits: how long to wait for what.

    Raises:
        MvgptError: with the remedy. The app on the phone is stopped, as it is after Ctrl-C.
    """
    if repeats < 1 or warmup < 0:
        raise MvgptError("nothing to measure", stage="bench", expected="repeats ≥ 1, warmup ≥ 0", got=(repeats, warmup))
    limits, video = limits or Limits(), Path(video)
    opened = Bundle.open(bundle)
    if not video.is_file():
        raise MvgptError("no such video", stage="video", got=video)
    manifest = opened.folder / contract.MANIFEST_NAME
    bundle_sha256, video_sha256 = file_sha256(manifest), file_sha256(video)
    progress("connect", 0, 1)
    device = connect(spec, app)
    folder, videos = f"{device.root}/bundles/{opened.folder.resolve().name}", f"{device.root}/videos"
    folders: dict[str, dict[Path, str]] = {}
    for name, info in opened.manifest.files.items():
        folders.setdefault(f"{folder}/{name}".rpartition("/")[0], {})[opened.folder / name] = info.sha256
    top = {**folders.pop(folder, {}), manifest: bundle_sha256}
    for place, files in {**folders, folder: top}.items():  # the manifest last: it makes a bundle of them
        push(device, place, files, progress)
    push(device, videos, {video: video_sha256}, progress)

    results: list[Result] = []
    waits: list[float] = []
    cool_down(device, Thermal(status="none", temperature_c=None), None, limits, progress)
    before = device.thermal()
    for repeat in range(repeats):
        if results:
            start = before or results[0].environment.thermal_before
            waits.append(cool_down(device, start, results[-1].runs[-1].thermal, limits, progress))
        request = Request(
            run=uuid.uuid4().hex,
            bundle=folder,
            video=f"{videos}/{video.name}",
            repeats=1,
            warmup=warmup,
            threads=threads,
            low_memory=low_memory,
            prompt=prompt,
        )
        where = f"run {repeat + 1} of {repeats}"
        progress(where, repeat, repeats)
        result = launch(device, request, limits, _prefixed(progress, f"{where}: "))
        check_result(result, request, bundle_sha256, video_sha256)
        results.append(result)
    return merge(results, waits, emulator=device.facts.emulator)


def _prefixed(progress: Update, prefix: str) -> Update:
    return lambda what, done, total: progress(prefix + what, done, total)


def push(device: Device, folder: str, files: Mapping[Path, str], progress: Update) -> None:
    """Bring files (and their sha256) to a folder on the phone, in this order; those that are there are left alone."""
    progress("compare files", 0, 1)
    there = device.hashes(folder)
    missing = {path: digest for path, digest in files.items() if there.get(path.name) != digest}
    sizes = {path: path.stat().st_size for path in missing}
    total, done = sum(sizes.values()), 0
    free = device.free_bytes()
    if missing and free is not None and free < total + SPARE_BYTES:
        raise MvgptError(
            f"{device.facts.name} has not enough room",
            stage=STAGE,
            expected=f"{(total + SPARE_BYTES) / 1e6:.0f} MB",
            got=f"{free / 1e6:.0f} MB",
            remedy=f"make room on the phone; older bundles are in {device.root}/bundles",
        )
    if missing:
        progress(f"push {len(missing)} of {len(files)} files", 0, total)
    for path, digest in missing.items():
        device.push(path, folder, digest, _after(progress, f"push: {path.name}", done, total))
        done += sizes[path]


def _after(progress: Update, what: str, done: int, total: int) -> Callable[[int], None]:
    return lambda more: progress(what, done + more, total)


def launch(device: Device, request: Request, limits: Limits, progress: Update) -> Result:
    """One launch of the app, to its checked result."""
    progress("start", 0, 1)
    try:
        lines = device.start(request)
        try:
            done = follow(device, lines, request.run, limits, progress)
        finally:
            lines.close()
    finally:  # after Ctrl-C, and so that nothing of it is left in memory while the phone cools down
        device.stop()
    with tempfile.TemporaryDirectory() as scratch:
        local = Path(scratch) / RESULT
        device.pull(RESULT, local)
        if (digest := file_sha256(local)) != done.sha256:
            raise MvgptError(
                "the result changed on its way",
                stage=STAGE,
                expected=done.sha256,
                got=digest,
                remedy="run it again; the app must have written the whole file before its last line",
            )
        return read_result(local)


def follow(device: Device, lines: Lines, run: str, limits: Limits, progress: Update) -> Done:
    """Listen until the app says that it is done.

    Raises:
        MvgptError: it says that it failed, it ends without a word, or says nothing for too long.
    """
    started, silence, step = False, Deadline(limits.start), "start"
    ended: Deadline | None = None
    while not silence.over:
        try:
            line = lines.read(limits.poll)
        except EOFError:
            raise _ended(device, step) from None
        if line is None:
            if ended and ended.over:
                raise _ended(device, step)
            if ended is None and not device.running():
                ended = Deadline(limits.last_words)
            continue
        event = parse_line(line, run)
        if isinstance(event, Done):
            return event
        if isinstance(event, Failed):
            raise MvgptError(
                event.what, stage=device.facts.name, expected=event.expected, got=event.got, remedy=event.remedy
            )
        if isinstance(event, Progress):
            step = event.step
            progress(step, event.done, event.total)
        if event is not None:
            started, silence = started or isinstance(event, Started), Deadline(limits.stall)
    device.check()
    raise MvgptError(
        f"the app says nothing during {step!r}",
        stage=device.facts.name,
        expected=f"a line every {limits.stall if started else limits.start:.0f} s",
        remedy="is its screen on and unlocked, the app in front? On a very slow phone: fewer tokens, a smaller bundle"
        if started
        else "is its screen on and unlocked, and the app of this release?",
    )


def _ended(device: Device, step: str) -> MvgptError:
    device.check()
    return MvgptError(
        f"the app ended during {step!r}",
        stage=device.facts.name,
        got=device.crash_log().replace("\n", "\n    ") or "nothing in the system's log",
        remedy="if the system killed it for memory: close other apps, or measure a smaller bundle; else report this",
    )


def cool_down(device: Device, start: Thermal, last: Thermal | None, limits: Limits, progress: Update) -> float:
    """Wait until the phone is as cool as at the start, at most `limits.cool_down`.

    A phone that does not tell (iOS) is as hot as its app last said; unless that was cool, the wait is the whole limit.

    Returns:
        seconds waited.
    """
    waited = Deadline(limits.cool_down)
    while not is_back((now := device.thermal()) or last, start) and not waited.over:
        what = f": {now.temperature_c:.0f} °C" if now and now.temperature_c is not None else ""
        progress(f"cool down{what}", int(waited.passed_s), max(1, int(limits.cool_down)))
        time.sleep(limits.poll)
    return waited.passed_s


def is_back(now: Thermal | None, start: Thermal) -> bool:
    """What is not known does not count."""
    if now is None:
        return True
    if now.status in STATUS and STATUS.index(now.status) > _level(start.status):
        return False
    if now.temperature_c is None or start.temperature_c is None:
        return True
    return now.temperature_c <= start.temperature_c + CLOSE_ENOUGH_C


def _level(status: str | None) -> int:
    return max(STATUS.index(status) if status in STATUS else 0, STATUS.index("nominal"))


def check_result(result: Result, request: Request, bundle_sha256: str, video_sha256: str) -> None:
    """MvgptError unless the app measured what it was asked to."""
    protocol = result.protocol
    for what, expected, got in (
        ("protocol version", metrics.VERSION, protocol.version),
        ("bundle", bundle_sha256, result.model.bundle_sha256),
        ("video", video_sha256, protocol.video_sha256),
        ("low-memory mode", request.low_memory, protocol.low_memory),
        ("question", request.prompt, protocol.prompt),
        ("follow-up question", metrics.FOLLOW_UP, protocol.follow_up),
        ("number of tokens", metrics.N_GEN, protocol.n_gen),
        ("number of threads", request.threads or protocol.n_threads, protocol.n_threads),
        ("warm-up runs", [True] * request.warmup + [False] * request.repeats, [run.warmup for run in result.runs]),
    ):
        if expected != got:
            raise MvgptError(
                f"the result is of another {what}",
                stage="bench",
                expected=expected,
                got=got,
                remedy="install the app and mvgpt of the same release",
            )


def merge(results: Sequence[Result], waits: Sequence[float], *, emulator: bool) -> Result:
    """The results of launches as that of one benchmark, its aggregates computed here.

    Args:
        waits: seconds before every launch but the first; their mean becomes `cool_down_s`.
    """
    first, last = results[0], results[-1]
    runs = tuple(
        run.model_copy(update={"index": index}) for index, run in enumerate(run for r in results for run in r.runs)
    )
    warmup = sum(run.warmup for run in runs)
    return first.model_copy(
        update={
            "device": first.device.model_copy(update={"kind": "emulator"}) if emulator else first.device,
            "environment": first.environment.model_copy(
                update={
                    "thermal_after": last.environment.thermal_after,
                    "page_cache_evicted": all(r.environment.page_cache_evicted for r in results),
                }
            ),
            "protocol": first.protocol.model_copy(
                update={
                    "repeats": len(runs) - warmup,
                    "warmup": warmup,
                    "cool_down_s": sum(waits) / len(waits) if waits else 0.0,
                }
            ),
            "runs": runs,
            "peak_memory_bytes": max(r.peak_memory_bytes for r in results),
            "aggregates": metrics.aggregate(runs),
        }
    )
