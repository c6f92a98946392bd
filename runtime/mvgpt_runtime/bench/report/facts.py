"""What a result says of its making, in words: a table that is shown, compared and warned from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..results import Result, Thermal
from .words import clean, number, plural, size

METRIC_NAMES = {"rss": "RSS", "pss": "PSS", "phys_footprint": "phys_footprint"}
TIME, RATE, MEMORY = "waiting times", "tokens per second", "peak memory"
"""Kinds of figures: what a fact that differs between two results can make incomparable."""


@dataclass(frozen=True)
class Fact:
    group: str
    name: str
    text: Callable[[Result], str | None]  # None: not known
    matters: bool = False  # whether readers are told at the top of the page that it differs
    spoils: tuple[str, ...] = ()  # kinds of figures that cannot be compared then

    def of(self, result: Result) -> str:
        return clean(self.text(result) or "not known")


def runs(result: Result) -> str:
    protocol = result.protocol
    return f"{plural(protocol.repeats, 'counted run')} after {plural(protocol.warmup, 'warm-up')}"


def day(result: Result) -> str:
    return clean(result.runs[0].test_time[:10]) if result.runs else "no date"


def backends(result: Result) -> str:
    return ", ".join(sorted(set(result.model.backends.values()))) or "none"


def threads(result: Result) -> str:
    return str(result.protocol.n_threads or "as the runtime chose")


def _cpu(result: Result) -> str:
    return f"{result.device.cpu_info}, {plural(result.device.n_cores, 'core')}"


def _memory(result: Result) -> str | None:
    return size(result.device.memory_bytes) if result.device.memory_bytes else None


def _model(result: Result) -> str:
    return f"{result.model.name}, {result.model.model_n_params / 1e6:,.1f} M parameters"


def _sizes(result: Result) -> str | None:
    return ", ".join(f"{name} {value:,}" for name, value in result.model.geometry.items()) or None


def _power(result: Result) -> str | None:
    power = result.environment.power
    source = {"ac": "mains", "battery": "battery", None: None}[power.source]
    percent = None if power.battery_percent is None else f"battery at {power.battery_percent:.0f}%"
    if source == "battery" and percent:
        source = None
    return ", ".join(filter(None, (source, percent))) or None


def _low_power(result: Result) -> str | None:
    return {True: "on", False: "off", None: None}[result.environment.power.low_power_mode]


def thermal(found: Thermal) -> str | None:
    degrees = None if found.temperature_c is None else f"{found.temperature_c:.1f} °C"
    return ", ".join(filter(None, (found.status, degrees))) or None


def _heat(result: Result) -> str | None:
    before, after = thermal(result.environment.thermal_before), thermal(result.environment.thermal_after)
    return f"{before or 'not known'} → {after or 'not known'}" if before or after else None


def _load(result: Result) -> str | None:
    load = result.environment.load_average
    return None if load is None else f"{load:.2f}"


def _when(result: Result) -> str | None:
    times = [run.test_time for run in result.runs]
    return f"{times[0]} to {times[-1]}" if len(times) > 1 else "".join(times) or None


def _cold(result: Result) -> str:
    return "from the disk" if result.environment.page_cache_evicted else "not measured: the page cache was not emptied"


FACTS = (
    Fact("Device", "device", lambda r: r.device.name),
    Fact("Device", "device model", lambda r: r.device.model),
    Fact("Device", "kind", lambda r: r.device.kind),
    Fact("Device", "CPU", _cpu),
    Fact("Device", "memory", _memory),
    Fact("Device", "system", lambda r: f"{r.os.name} {r.os.version}"),
    Fact("Device", "app", lambda r: f"{r.app.name} {r.app.version} ({r.app.language})"),
    Fact("Device", "app’s commit", lambda r: r.app.build_commit),
    Fact("Bundle", "model", _model, matters=True),
    Fact("Bundle", "recipe", lambda r: r.model.recipe, matters=True),
    Fact("Bundle", "kernels", lambda r: r.model.kernels, matters=True),
    Fact("Bundle", "backends", backends, matters=True),
    Fact("Bundle", "bundle size", lambda r: size(r.model.bundle_bytes)),
    Fact("Bundle", "bundle’s sha256", lambda r: r.model.bundle_sha256, matters=True),
    Fact("Bundle", "sizes", _sizes),
    Fact("Protocol", "protocol version", lambda r: str(r.protocol.version), True, (TIME, RATE, MEMORY)),
    Fact("Protocol", "clip", lambda r: r.protocol.video),
    Fact("Protocol", "clip’s sha256", lambda r: r.protocol.video_sha256, True, (TIME,)),
    Fact("Protocol", "frames", lambda r: str(r.protocol.n_frames), True, (TIME,)),
    Fact("Protocol", "first question", lambda r: r.protocol.prompt, True, (TIME,)),
    Fact("Protocol", "second question", lambda r: r.protocol.follow_up, True, (TIME,)),
    Fact("Protocol", "decode steps at a depth", lambda r: str(r.protocol.n_gen), True, (RATE,)),
    Fact("Protocol", "depths", lambda r: ", ".join(f"{depth:,}" for depth in r.protocol.n_depths)),
    Fact("Protocol", "threads", threads, True),
    Fact("Protocol", "low memory", lambda r: "yes" if r.protocol.low_memory else "no", True),
    Fact("Protocol", "memory metric", lambda r: METRIC_NAMES[r.memory_metric], True, (MEMORY,)),
    Fact("Protocol", "runs", runs, True),
    Fact("Protocol", "pause between runs", lambda r: f"{number(r.protocol.cool_down_s)} s", True),
    Fact("Conditions", "measured", _when),
    Fact("Conditions", "power", _power),
    Fact("Conditions", "low-power mode", _low_power, True),
    Fact("Conditions", "frequency governor", lambda r: r.environment.power.governor, True),
    Fact("Conditions", "heat before → after", _heat),
    Fact("Conditions", "load average before", _load),
    Fact("Conditions", "cold load", _cold, True),
)
