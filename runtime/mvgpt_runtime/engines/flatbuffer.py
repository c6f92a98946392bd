"""Flatbuffers read by ExecuTorch's own compiler and schemas, which its wheel carries: programs, delegates, ETDumps.

A process of a few milliseconds. The readers in `executorch.exir` and `executorch.devtools` import the export compiler
and pandas: 4 to 9 seconds.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import MvgptError

SCHEMAS = {
    "program": "exir/_serialize/program.fbs",
    "xnnpack": "backends/xnnpack/serialization/runtime_schema.fbs",
    "etdump": "devtools/etdump/etdump_schema_flatcc.fbs",
}
SIZE_PREFIXED = {"etdump"}
COMPILER, INCLUDES = "data/bin/flatc", "exir/_serialize"


def read(kind: str, buffers: Sequence[bytes]) -> list[Any]:
    """Decode flatbuffers of one of SCHEMAS to dicts with the schema's field names, absent scalars at their defaults.

    Raises:
        MvgptError: the buffers are not of this kind, or the installed executorch lacks its compiler or schemas.
    """
    spec = importlib.util.find_spec("executorch")
    roots = [Path(p) for p in spec.submodule_search_locations or ()] if spec else []
    root = next((r for r in roots if (r / SCHEMAS[kind]).is_file()), None)
    if root is None:
        raise MvgptError(
            "this executorch has no schema to read by",
            stage="inspect",
            expected=SCHEMAS[kind],
            remedy="install the wheel that mvgpt's pyproject.toml names",
        )
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.bin" for i in range(len(buffers))]
        for path, data in zip(paths, buffers, strict=True):
            path.write_bytes(data)
        options = ["--json", "--strict-json", "--defaults-json", "--raw-binary", "-I", root / INCLUDES, "-o", folder]
        options += ["--size-prefixed"] * (kind in SIZE_PREFIXED)
        command = [root / COMPILER, *options, root / SCHEMAS[kind], "--", *paths]
        ran = subprocess.run(list(map(str, command)), check=False, capture_output=True, text=True)
        if ran.returncode != 0:  # also when it crashes: it does not verify what it reads
            raise MvgptError(
                f"not a readable {kind} flatbuffer",
                stage="inspect",
                got=ran.stderr.strip().rpartition("\n")[2] or f"exit status {ran.returncode} of {COMPILER}",
                remedy="export the bundle with the executorch that is installed",
            )
        return [json.loads(path.with_suffix(".json").read_bytes()) for path in paths]
