"""Facts of the machine that measures: what it is, its power, heat and energy, and emptying its page cache.

What a system does not tell is None. Functions read below `root`, which tests replace.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from .results import App, Device, OperatingSystem, Power, Thermal

ROOT = Path("/")

STILL_CACHED = 0.01
"""Most of the files' pages that may stay in memory after an eviction: some wait in a processor's own list."""


def app() -> App:
    source = Path(__file__).resolve().parents[3]
    commit = _output("git", "-C", str(source), "rev-parse", "HEAD") if (source / ".git").exists() else None
    return App(name="mvgpt", version=version("mvgpt"), language="python", build_commit=commit)


def device(root: Path = ROOT) -> Device:
    cpu = _cpuinfo(root).get("model name") or _output("sysctl", "-n", "machdep.cpu.brand_string")
    model = _read(root / "sys/class/dmi/id/product_name") or _read(root / "proc/device-tree/model")
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        memory = None
    # The cores that this process may use, where the system can tell; a container may have fewer than the machine.
    usable = getattr(os, "sched_getaffinity", None)
    return Device(
        name=platform.node() or "unnamed",
        model=model or _output("sysctl", "-n", "hw.model") or platform.machine(),
        kind="desktop",
        cpu_info=cpu or platform.processor() or platform.machine(),
        n_cores=len(usable(0)) if usable else os.cpu_count() or 1,
        memory_bytes=memory,
    )


def operating_system() -> OperatingSystem:
    if sys.platform == "darwin":
        return OperatingSystem(name="macOS", version=platform.mac_ver()[0])
    release = platform.release()
    with suppress(OSError):
        release += f", {platform.freedesktop_os_release()['PRETTY_NAME']}"
    return OperatingSystem(name=platform.system(), version=release)


def power(root: Path = ROOT) -> Power:
    governors = {_read(file) for file in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")}
    profile = _read(root / "sys/firmware/acpi/platform_profile")
    supplies = [_supply(folder) for folder in sorted((root / "sys/class/power_supply").glob("*"))]
    batteries = [s for s in supplies if s.get("type") == "Battery" and s.get("scope") != "Device"]  # not a mouse's
    levels = [float(level) for s in batteries if (level := s.get("capacity"))]
    source: Literal["ac", "battery"] | None = None
    if any(s.get("online") == "1" for s in supplies):
        source = "ac"
    elif any(s.get("status") == "Discharging" for s in batteries):
        source = "battery"
    elif sys.platform == "darwin" and (told := _output("pmset", "-g", "batt")):
        source = "battery" if "'Battery Power'" in told else "ac"
    return Power(
        source=source,
        battery_percent=levels[0] if levels else None,
        low_power_mode=None if profile is None else profile == "low-power",
        governor=", ".join(sorted(g for g in governors if g)) or None,
    )


def thermal(root: Path = ROOT) -> Thermal:
    """Linux has temperatures and no word for the state; macOS tells neither to a program without privileges."""
    found = [_number(zone) for zone in (root / "sys/class/thermal").glob("thermal_zone*/temp")]
    degrees = [value / 1e3 for value in found if value is not None and 0 < value < 150e3]  # else a sensor that is off
    return Thermal(status=None, temperature_c=max(degrees, default=None))


def load_average() -> float | None:
    """Of the last minute, in processes."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


class EnergyMeter:
    """Joules since it was made, of processors and memory (RAPL, which most systems let only root read).

    Intel and AMD count in a register that wraps after an hour or so at full power; a longer time is not to be measured.
    """

    def __init__(self, root: Path = ROOT) -> None:
        # "package-0" holds its cores; "dram" stands below it and is not in its sum. The rest would be counted twice.
        domains = (root / "sys/class/powercap").glob("intel-rapl:*")
        self._domains = [d for d in domains if (_read(d / "name") or "").startswith(("package", "dram"))]
        self._start = self._read()

    def joules(self) -> float | None:
        now, start = self._read(), self._start
        if not now or now.keys() != start.keys():
            return None
        total = 0.0
        for domain, micro in now.items():
            wrapped = (_number(domain / "max_energy_range_uj") or 0) if micro < start[domain] else 0
            total += micro - start[domain] + wrapped
        return total / 1e6 if total >= 0 else None

    def _read(self) -> Mapping[Path, float]:
        values = {domain: _number(domain / "energy_uj") for domain in self._domains}
        return {} if None in values.values() else {d: v for d, v in values.items() if v is not None}


def evict(files: Iterable[Path]) -> bool:
    """Empty the page cache of these files, which nobody may have mapped; whether it is empty now.

    posix_fadvise is a hint, which some file systems ignore: mincore tells.
    """
    if not hasattr(os, "posix_fadvise"):  # macOS empties its whole cache, for root
        return False
    pages = left = 0
    for file in files:
        with file.open("rb") as f:
            os.fsync(f.fileno())  # pages that are not on the disk yet stay
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            resident = _resident(f.fileno(), file.stat().st_size)
        if resident is None:
            return False
        pages, left = pages + len(resident), left + sum(page & 1 for page in resident)
    return left <= pages * STILL_CACHED


def _resident(fd: int, size: int) -> bytes | None:
    """A byte per page of a file, whose lowest bit says whether it is in memory; None if the system does not say."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
    libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
    if size == 0:
        return b""
    # Python's own mmap does not tell the address of a read-only mapping.
    address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    if address in (None, ctypes.c_void_p(-1).value):
        return None
    pages = ctypes.create_string_buffer(-(-size // mmap.PAGESIZE))
    failed = libc.mincore(address, size, pages)
    libc.munmap(address, size)
    return None if failed else pages.raw


def _cpuinfo(root: Path) -> dict[str, str]:
    lines = (_read(root / "proc/cpuinfo") or "").splitlines()
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def _supply(folder: Path) -> dict[str, str | None]:
    return {name: _read(folder / name) for name in ("type", "scope", "online", "status", "capacity")}


def _read(file: Path) -> str | None:
    try:
        return file.read_text(errors="replace").strip("\0 \n") or None
    except OSError:
        return None


def _number(file: Path) -> float | None:
    try:
        return float(_read(file) or "")
    except ValueError:
        return None


def _output(*command: str) -> str | None:
    """Of a program that may not be there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
