"""Golden vectors as files: cases → a folder of .npy and .tsv with vectors.json, and back. docs/golden-vectors.md."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveInt

from .. import contract
from ..errors import MvgptError
from ..folders import check_output, folder_in_the_making
from ..manifest import Bundle, FileName, file_sha256
from . import generator

Progress = Callable[[str], None]
"""(id of the case that was just made)."""
MARGIN = ("margin", "tie_below")
"""Last columns of a table of choices: a choice whose margin is smaller may fall otherwise on another machine."""
Cell = int | float | str | Sequence[int] | Sequence[float] | None
Compare = Literal["exact", "close", "choices"]
Row = tuple[Cell, ...]

_MOST_VALUES = 8192
"""Of an output, larger ones are thinned."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Input(_Part):
    """How an input is made; of the fields after `generator`, those that it needs are there."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    generator: Literal["frames", "floats", "integers", "values", "text"]
    seed: int | None = None
    scale: float | None = None  # floats
    below: int | None = None  # integers
    values: tuple[float, ...] | None = None
    text: str | None = None

    def array(self) -> np.ndarray:
        """The input, made anew. A text has none."""
        if self.generator == "values" and self.values is not None:
            return generator.values(self.values, self.shape, self.dtype)
        assert self.seed is not None
        if self.generator == "floats" and self.scale is not None:
            return generator.floats(self.seed, self.shape, self.scale)
        if self.generator == "integers" and self.below is not None:
            return generator.integers(self.seed, self.shape, self.below)
        return generator.frames(self.seed, self.shape)


class Output(_Part):
    """One file."""

    name: str
    file: FileName
    dtype: str  # numpy's name, or "table"
    shape: tuple[int, ...]  # before thinning; of a table: rows, columns
    stride: PositiveInt  # every so many-th value is stored, beginning with the first; 1: all, in their shape
    sha256: str
    compare: Compare
    tolerance: NonNegativeFloat  # of the largest value; 0 where exact


class Entry(_Part):
    """One case: run `stage` on `inputs`, compare with `outputs`."""

    id: str
    stage: str
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]


class Vectors(_Part):
    schema_version: int
    provenance: dict[str, str]
    cases: tuple[Entry, ...]


@dataclass(frozen=True)
class Table:
    """Rows for a .tsv: integers, doubles, ASCII strings, or lists of numbers; None is an empty cell."""

    columns: tuple[str, ...]
    rows: list[Row]

    def text(self) -> str:
        lines = ["\t".join(self.columns), *("\t".join(map(_cell, row)) for row in self.rows)]
        return "\n".join(lines) + "\n"


def _cell(value: Cell) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return repr(value) if isinstance(value, int | float) else " ".join(map(repr, value))


@dataclass(frozen=True)
class Result:
    """What a case gave: an array, or a table."""

    name: str
    value: np.ndarray | Table
    compare: Compare = "exact"
    tolerance: float = 0.0


@dataclass(frozen=True)
class Case:
    id: str
    stage: str
    inputs: tuple[Input, ...]
    results: tuple[Result, ...]


def write_vectors(
    cases: Iterable[Case], output: Path, provenance: dict[str, str], progress: Progress = lambda case: None
) -> Vectors:
    """Write the folder `output`, whole or not at all. MvgptError if it is there and holds anything but vectors."""
    check_output(output, "folder of golden vectors", lambda folder: (folder / contract.VECTORS_NAME).is_file())
    with folder_in_the_making(output) as folder:
        entries = []
        for case in cases:
            outputs = tuple(_write(case.id, result, folder) for result in case.results)
            entries.append(Entry(id=case.id, stage=case.stage, inputs=case.inputs, outputs=outputs))
            progress(case.id)
        vectors = Vectors(schema_version=contract.VECTORS_SCHEMA_VERSION, provenance=provenance, cases=tuple(entries))
        text = vectors.model_dump_json(indent=1, exclude_none=True, ensure_ascii=True)
        (folder / contract.VECTORS_NAME).write_text(text + "\n", encoding="ascii")
    return vectors


def _write(case: str, result: Result, folder: Path) -> Output:
    value = result.value
    if isinstance(value, Table):
        path, stride, dtype, shape = (
            folder / f"{case}-{result.name}.tsv",
            1,
            "table",
            (len(value.rows), len(value.columns)),
        )
        path.write_bytes(value.text().encode("ascii"))
    else:
        path, stride, dtype, shape = folder / f"{case}-{result.name}.npy", _stride(value), value.dtype.name, value.shape
        stored = thinned(value, stride)
        np.save(path, stored.astype(stored.dtype.newbyteorder("<")))
    return Output(
        name=result.name,
        file=path.name,
        dtype=dtype,
        shape=shape,
        stride=stride,
        sha256=file_sha256(path),
        compare=result.compare,
        tolerance=result.tolerance,
    )


def _stride(array: np.ndarray) -> int:
    """The least that leaves few enough values, and visits every column."""
    stride = -(-array.size // _MOST_VALUES)
    while stride > 1 and math.gcd(stride, array.shape[-1]) > 1:
        stride += 1
    return max(1, stride)


def thinned(array: np.ndarray, stride: int) -> np.ndarray:
    """What is stored of an array."""
    return array if stride == 1 else array.reshape(-1)[::stride]


def read_vectors(folder: Path) -> Vectors:
    """The manifest of a folder of vectors, after a check of every file's hash. MvgptError for anything else."""
    path = folder / contract.VECTORS_NAME
    try:
        if not path.is_file():  # nor a pipe, which would be waited for
            raise FileNotFoundError(f"no {path.name}")
        vectors = Vectors.model_validate_json(path.read_text(encoding="ascii"))
        if vectors.schema_version != contract.VECTORS_SCHEMA_VERSION:
            raise ValueError(f"schema {vectors.schema_version}")
    except (OSError, ValueError) as e:
        raise MvgptError(
            "no golden vectors",
            stage="goldens",
            expected=f"a folder with {contract.VECTORS_NAME}, schema {contract.VECTORS_SCHEMA_VERSION}",
            got=f"{folder}: {str(e).splitlines()[0]}",
            remedy="make them with `mvgpt goldens`",
        ) from None
    for entry in vectors.cases:
        for output in entry.outputs:
            file = folder / output.file
            if _digest(file) != output.sha256:
                raise MvgptError(f"{file.name} is missing or was changed", stage="goldens", got=folder)
    return vectors


def _digest(path: Path) -> str | None:
    try:
        return file_sha256(path) if path.is_file() else None
    except OSError:
        return None


def bundle_provenance(bundle: Bundle) -> dict[str, str]:
    """Where vectors come from: the same on every run of one machine."""
    manifest = bundle.manifest
    return {
        "mvgpt": version("mvgpt"),
        "model": manifest.model.name,
        "license": manifest.model.license,
        "recipe": manifest.recipe,
        "backend": manifest.backend,
        "kernels": manifest.kernels,
        "bundle_sha256": file_sha256(bundle.folder / contract.MANIFEST_NAME),  # which has every file's
        "platform": f"{platform.system()} {platform.machine()}",
    }
