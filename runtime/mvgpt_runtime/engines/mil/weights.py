"""A package's weights where they are: arrays on the memory-mapped file, which coremltools would copy for each function.

The layout is `MILBlob/Blob/StorageFormat.hpp` of coremltools: what a constant refers to is 64 bytes of metadata, which
say where its data lie.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

METADATA = struct.Struct("<IIQQ")  # sentinel, kind, bytes, place of the data; padding follows
SENTINEL = 0xDEADBEEF
# By MIL's names, types that lie there as numpy has them. Others are packed; 4 bits are unpacked here, since coremltools
# does it by way of single bits.
PLAIN: dict[str, type[np.generic]] = {
    "fp32": np.float32,
    "fp16": np.float16,
    "int8": np.int8,
    "uint8": np.uint8,
    "int16": np.int16,
    "uint16": np.uint16,
    "int32": np.int32,
}


@contextmanager
def mapped_weights() -> Iterator[None]:
    """Inside, coremltools' reader of programs makes one array of what lies at a place of a weight file, without a copy
    where it lies as numpy has it."""
    from coremltools.converters.mil.frontend.milproto import load
    from coremltools.converters.mil.mil import types

    original: Any = load._load_value
    files: dict[Path, np.ndarray] = {}  # a mapping is an open file
    arrays: dict[tuple[Any, ...], Any] = {}

    def value(context: Any, spec: Any) -> Any:
        if spec.WhichOneof("value") != "blobFileValue":
            return original(context, spec)
        place = spec.blobFileValue
        path = Path(context.weights_dir) / place.fileName.rsplit("/", 1)[-1]
        tensor = load.proto_to_types(spec.type)
        kind, shape = types.builtin_to_string(tensor.get_primitive()), tensor.get_shape()
        if (key := (path, place.offset, kind, shape)) not in arrays:
            if path not in files:
                files[path] = np.memmap(path, np.uint8, mode="c")
            if kind in PLAIN:
                arrays[key] = read(files[path], place.offset, PLAIN[kind], shape)
            elif kind == "int4":
                packed = read(files[path], place.offset, np.uint8, (-(-math.prod(shape) // 2),))
                arrays[key] = unpack(packed, shape).view(types.np_int4_dtype)
            else:
                arrays[key] = original(context, spec)
        return arrays[key]

    load._load_value = value
    try:
        yield
    finally:
        load._load_value = original


def read(file: np.ndarray, offset: int, dtype: type[np.generic], shape: tuple[int, ...]) -> np.ndarray:
    """The array whose metadata are at `offset` of a file's bytes; ValueError if it has none such there."""
    metadata = file[offset : offset + METADATA.size].tobytes()
    if len(metadata) < METADATA.size:
        raise ValueError(f"the weights end before byte {offset}")
    sentinel, _, size, start = METADATA.unpack(metadata)
    expected = math.prod(shape) * np.dtype(dtype).itemsize
    if sentinel != SENTINEL or size != expected or start + size > file.size:
        raise ValueError(f"there are no {expected} bytes of weights at {offset}")
    return file[start : start + size].view(np.ndarray).view(dtype).reshape(shape)


def unpack(packed: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """uint8 with two signed values of 4 bits each, the first in the lower half → int8 of `shape`."""
    values = np.empty((packed.size, 2), np.int8)
    np.right_shift((packed << 4).view(np.int8), 4, out=values[:, 0])
    np.right_shift(packed.view(np.int8), 4, out=values[:, 1])
    return values.reshape(-1)[: math.prod(shape)].reshape(shape)
