"""Golden vectors as another language reads them: from docs/golden-vectors.md, sharing nothing with the package."""

from __future__ import annotations

import ast
import json
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

Json = dict[str, Any]


def read_npy(path: Path) -> np.ndarray:
    data = path.read_bytes()
    assert data[:8] == b"\x93NUMPY\x01\x00"
    start = 10 + struct.unpack("<H", data[8:10])[0]
    header = ast.literal_eval(data[10:start].decode("ascii"))
    assert not header["fortran_order"]
    letter = {"|u1": "B", "<i8": "q", "<f4": "f"}[header["descr"]]
    count = (len(data) - start) // struct.calcsize(letter)
    return np.array(struct.unpack(f"<{count}{letter}", data[start:]), header["descr"]).reshape(header["shape"])


def read_tsv(path: Path) -> list[dict[str, str]]:
    header, *lines = path.read_bytes().decode("ascii").split("\n")[:-1]
    return [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]


def splitmix64(state: int) -> Iterator[int]:
    while True:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        yield z ^ (z >> 31)


@lru_cache
def frames(seed: int, n: int, height: int, width: int) -> np.ndarray:
    draw = splitmix64(seed)
    waves = [[next(draw) >> 48 for _ in range(4)] for _ in range(3)]
    values = bytearray()
    for t in range(n):
        for y in range(height):
            for x in range(width):
                noise = next(draw)
                for c, (a, b, d, phase) in enumerate(waves):
                    turn = (1 + a % 4) * x * 65536 // width + (1 + b % 4) * y * 65536 // height
                    turn += (1 + d % 2) * t * 65536 // n + phase
                    level = (abs(turn % 65536 - 32768) * 320 >> 15) - 48 + (noise >> 8 * c) % 32
                    values.append(min(max(level, 0), 255))
    return np.frombuffer(values, np.uint8).reshape(n, height, width, 3)


def make(input_: Json) -> np.ndarray:
    shape, size = input_["shape"], int(np.prod(input_["shape"]))
    if input_["generator"] == "frames":
        return frames(input_["seed"], *shape[:3])
    draw = splitmix64(input_.get("seed", 0))
    if input_["generator"] == "floats":
        values = [((next(draw) >> 40) - 2**23) / 2**23 * input_["scale"] for _ in range(size)]
    elif input_["generator"] == "integers":
        values = [(next(draw) >> 33) % input_["below"] for _ in range(size)]
    else:
        values = [input_["values"][i % len(input_["values"])] for i in range(size)]
    return np.array(values, input_["dtype"]).reshape(shape)


def assert_equal(folder: Path, output: Json, got: np.ndarray) -> None:
    expected = read_npy(folder / output["file"])
    assert (got.dtype, list(got.shape)) == (output["dtype"], output["shape"])
    if output["stride"] > 1:
        got = got.reshape(-1)[:: output["stride"]]
    difference = np.abs(got.astype(np.float64) - expected).max()
    assert difference <= output["tolerance"] * np.abs(expected.astype(np.float64)).max(), output["file"]


def numbers(cell: str) -> list[int]:
    return [int(n) for n in cell.split()]


def optional(cell: str) -> float | None:
    return float(cell) if cell else None


def manifest(folder: Path) -> Json:
    value: Json = json.loads((folder / "vectors.json").read_bytes().decode("ascii"))
    return value


def cases(folder: Path, stage: str) -> list[Json]:
    found = [case for case in manifest(folder)["cases"] if case["stage"] == stage]
    assert found
    return found


def table(folder: Path, stage: str) -> list[dict[str, str]]:
    (case,) = cases(folder, stage)
    (output,) = case["outputs"]
    rows = read_tsv(folder / output["file"])
    assert output["shape"] == [len(rows), len(rows[0])]
    return rows
