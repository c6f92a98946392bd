"""Estimates and devices as tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from .. import metrics
from .devices import Device
from .roofline import LABEL, Estimate


def show(estimate: Estimate, measured_ms: Sequence[float] | None = None) -> None:
    """`measured_ms`: of the calls of every row of `estimate.stages`, if they were measured."""
    console = _console()
    console.print(_device(estimate.device))
    console.print()
    table = Table("stage", "what", box=None, pad_edge=False)
    columns = ["calls", "GMAC", "G vector ops", "MB read", "compute ms", "memory ms", "floor ms"]
    for column in columns + ["measured ms", "× limit"] * (measured_ms is not None):
        table.add_column(column, justify="right", no_wrap=True)
    for i, row in enumerate(estimate.stages):
        cells = [
            str(row.calls),
            f"{sum(row.work.macs.values()) / 1e9:.2f}",
            f"{row.work.vector_operations / 1e9:.2f}",
        ]
        cells += [f"{row.work.bytes_read / 1e6:.1f}"]
        cells += [f"{ms:.2f}" for ms in (row.compute_ms, row.memory_ms, row.floor_ms)]
        if measured_ms is not None:
            cells += [f"{measured_ms[i]:.2f}", f"{measured_ms[i] / row.floor_ms:.2f}"]
        table.add_row(row.stage, row.what, *cells)
    console.print(table)
    console.print()
    if estimate.headlines:
        console.print(f"{LABEL}; no device reaches them")
    for name, value in estimate.headlines.items():
        metric = metrics.metric(name)
        sign = "≥" if metric.better == "lower" else "≤"
        console.print(f"  {sign} {value:,.1f} {metric.unit}  {name}: {metric.meaning}")


def show_devices(known: Sequence[tuple[Device, Sequence[str]]]) -> None:
    """What `--device` may be."""
    table = Table("device", "phones", "GB/s", "fp32 GMAC/s", "int8 GMAC/s", "from", box=None, pad_edge=False)
    for device, phones in known:
        rates = [f"{rate / 1e9:.1f}" for rate in (device.bandwidth, device.rate("fp32"), device.rate("8da8w"))]
        table.add_row(device.name, ", ".join(phones), *rates, device.derivation)
    _console().print(table)
    print("here: this machine, measured. Sources: phones.json, docs/estimate.md. Published peaks; sustained is lower.")


def _device(device: Device) -> str:
    rates = ", ".join(f"{kind} {rate / 1e9:.0f}" for kind, rate in device.macs_per_s.items())
    return (
        f"{device.name}, {device.threads} threads: {device.bandwidth / 1e9:.1f} GB/s; GMAC/s {rates}\n"
        f"from: {device.derivation}"
    )


def _console() -> Console:
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, 140)  # a narrow terminal wraps lines, which is easier to read than cut cells
    return console
