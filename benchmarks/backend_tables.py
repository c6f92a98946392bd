"""The tables of docs/backends.md: sizes and errors of bundles, from their manifests.

python benchmarks/backend_tables.py BUNDLE…
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from mvgpt_export.parity.metrics import MOST_DB
from mvgpt_runtime import contract
from mvgpt_runtime.manifest import Bundle, Manifest


def megabytes(manifest: Manifest) -> list[str]:
    """All of the bundle, then each unit."""
    by_unit = [
        sum(file.bytes for name, file in manifest.files.items() if contract.unit(name) == unit)
        for unit in contract.UNITS
    ]
    return [f"{size / 1e6:.1f}" for size in (sum(file.bytes for file in manifest.files.values()), *by_unit)]


def decibels(manifest: Manifest) -> list[str]:
    """Each stage's own error: SQNR, the worse of the inputs that export compares."""
    if manifest.verified is None:
        sys.exit(f"{manifest.model.name} was exported with --no-verify")
    found = [manifest.verified.sqnr_db[stage] for stage in contract.STAGE_NAMES]
    return ["equal" if value == MOST_DB else f"{value:.1f}" for value in found]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    manifests = [Bundle.open(folder).manifest for folder in sys.argv[1:]]
    if not manifests:
        sys.exit(__doc__)
    names = [f"`{manifest.backend}` `{manifest.recipe}`" for manifest in manifests]
    units, stages = [f"`{u}`" for u in contract.UNITS], [f"`{s}`" for s in contract.STAGE_NAMES]
    print(table(["MB", "bundle", *units], ([n, *megabytes(m)] for n, m in zip(names, manifests, strict=True))))
    print()
    print(table(["SQNR, dB", *stages], ([n, *decibels(m)] for n, m in zip(names, manifests, strict=True))))


if __name__ == "__main__":
    main()
