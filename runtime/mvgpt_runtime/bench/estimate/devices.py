"""What devices can do at most: phones, by their published memory and cores (phones.json)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import MvgptError

PHONES = Path(__file__).with_name("phones.json")
HERE, LIST = "here", "list"

# Multiply-accumulates of a 128-bit SIMD pipe in a cycle: FMLA on 4 floats or 8 halves; SMMLA, 32 products of 8 bits
# (all cores listed have it; SDOT does 16). 4-bit weights are unpacked and multiplied as 8-bit ones.
PIPE_MACS = {"fp32": 4, "16a16w": 8, "8da8w": 32, "8da4w": 32}


@dataclass(frozen=True)
class Device:
    """Rates that nothing exceeds, or nearly so.

    Attributes:
        bandwidth: bytes per second read from memory.
        macs_per_s: multiply-accumulates per second of all threads by arithmetic, named as in `Work`.
        threads: how many that is for.
        derivation: where the figures come from.
    """

    name: str
    bandwidth: float
    macs_per_s: Mapping[str, float]
    threads: int
    derivation: str

    def rate(self, arithmetic: str) -> float:
        """Of `arithmetic`; where groups of weights have no rate of their own, that without groups."""
        rates = self.macs_per_s
        return rates[arithmetic] if arithmetic in rates else rates[arithmetic.partition("-")[0]]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "macs_per_s": dict(self.macs_per_s)}


def phone(name: str, threads: int | None = None) -> Device:
    """The device whose chip or phone is called `name`, in any spelling of spaces and case, on its fastest cores.

    Raises:
        MvgptError: no such device, or it has fewer big cores than `threads`.
    """
    table = _table()
    found = {_key(title): soc for soc in table["socs"] for title in (*soc["phones"], soc["name"])}.get(_key(name))
    if found is None:
        raise MvgptError(
            "no such device",
            stage="estimate",
            expected=", ".join([HERE, *(soc["name"] for soc in table["socs"])]),
            got=name,
            remedy=f"--device {LIST} prints what is known of them",
        )
    return _device(found, table["cores"], threads)


def phones() -> list[tuple[Device, list[str]]]:
    """All of them, with the names of phones that have them."""
    table = _table()
    return [(_device(soc, table["cores"], None), soc["phones"]) for soc in table["socs"]]


def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(PHONES.read_text(encoding="utf-8"))
    return table


def _key(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().lower()


def _device(soc: dict[str, Any], cores: dict[str, Any], threads: int | None) -> Device:
    memory, clusters = soc["memory"], soc["cores"]
    # Pipes times clock of every big core, the fastest first.
    speeds = sorted((cores[c["core"]]["pipes"] * c["ghz"] for c in clusters for _ in range(c["count"])), reverse=True)
    if threads is not None and not 1 <= threads <= len(speeds):
        raise MvgptError(
            "no such number of big cores", stage="estimate", expected=f"1 … {len(speeds)} threads", got=threads
        )
    used = speeds[:threads]
    bus = f"{memory['type']}-{memory['mt_per_s']} × {memory['bus_bits']} bit"
    types = " + ".join(f"{c['count']} × {c['core']} at {c['ghz']} GHz" for c in clusters)
    return Device(
        name=soc["name"],
        bandwidth=memory["mt_per_s"] * 1e6 * memory["bus_bits"] / 8,
        macs_per_s={kind: sum(used) * 1e9 * macs for kind, macs in PIPE_MACS.items()},
        threads=len(used),
        derivation=f"{bus}; {types}",
    )
