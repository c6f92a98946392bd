"""Step 1, video: what the decoder does not tell about a file, read from its container (MP4/MOV and Matroska/WebM).

The decoder neither notices that a file was cut off, nor when an edit list ends, nor mirrored pictures, nor on which key
frames a seek may rely. All of it stands in the container's own tables, and this file reads those, nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from mvgpt_runtime.errors import MvgptError

_FIRST_BOXES = (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"pnot")
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
_COPY = "copy or download the file again"
_CONVERT = "if a player shows it, convert it: ffmpeg -i INPUT -c:v libx264 -pix_fmt yuv420p OUTPUT.mp4"
_MAX_SAMPLES = 1 << 24  # six days at 30 fps; more is a damaged table, which must not be unrolled in memory


@dataclass(frozen=True)
class Container:
    """Facts of the video track.

    Attributes:
        closed_gops: no frame that is shown before a key frame is stored after it, so decoding may start at any of them.
            False also means "not known".
        shown_s: seconds that the edit list shows, counted from the first shown frame; None without an edit list.
        mirror_axis: the axis (0 rows, 1 columns) along which a rotated frame must still be reversed; None for none.
    """

    closed_gops: bool = False
    shown_s: float | None = None
    mirror_axis: int | None = None


def inspect(path: Path) -> Container:
    """Check that `path` is a complete MP4/MOV or Matroska/WebM file, and read its facts.

    Other formats are refused before any decoder sees them: a play list could make it open other files and addresses.

    Raises:
        MvgptError: (stage "video") the file is missing, unreadable, empty, of another format, or cut off.
    """
    try:
        if not path.is_file():
            got = "a directory" if path.is_dir() else "a special file" if path.exists() else "nothing"
            raise _error("there is no video file at this path", path, "a file", got, "correct the path")
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
            if head[:4] == _EBML:
                _check_matroska(file, size, path)
                return Container()
            if head[4:] in _FIRST_BOXES:
                return _read_movie(_find_movie(file, size, path), path)
    except OSError as error:
        raise _error(
            "this video file cannot be read", path, "a readable file", error, "check its permissions"
        ) from error
    except (struct.error, ValueError, IndexError) as error:
        raise _error("the index of this video file is damaged", path, "complete tables", error, _COPY) from error
    got = f"a file that begins with {head!r}" if head else "an empty file"
    raise _error("this file is no video of a known format", path, "MP4, MOV, MKV or WebM", got, _CONVERT)


def _find_movie(file: BinaryIO, size: int, path: Path) -> memoryview:
    """The payload of the `moov` box; every box that decoding needs must end inside the file."""
    movie = None
    found = set()
    start = 0
    while start + 8 <= size:
        file.seek(start)
        header = file.read(16)
        length, kind = struct.unpack(">I4s", header[:8])
        payload = start + 8
        if length == 1:
            (length,) = struct.unpack(">Q", header[8:])
            payload += 8
        stop = start + length if length else size
        if stop < payload:
            break  # not a box: phones append data of their own
        if stop > size and kind in (b"moov", b"moof", b"mdat"):
            raise _cut_off(path, stop, size)
        found.add(kind)
        if kind == b"moov":
            file.seek(payload)
            movie = memoryview(file.read(stop - payload))
        start = stop
    if movie is None or b"mdat" not in found:
        expected, got = "an index (moov) and pictures (mdat)", b", ".join(sorted(found)).decode("latin-1")
        raise _error("this video file is incomplete; was the recording finished?", path, expected, got, _COPY)
    return movie


def _check_matroska(file: BinaryIO, size: int, path: Path) -> None:
    end = 0
    for identifier in (_EBML, _SEGMENT):  # a header, then everything else
        file.seek(end)
        if file.read(4) != identifier:
            raise _error("this video file is incomplete", path, "a Matroska header and a segment", "less", _COPY)
        length, known = _element_size(file)
        end = file.tell() + length
        if known and end > size:
            raise _cut_off(path, end, size)


def _element_size(file: BinaryIO) -> tuple[int, bool]:
    """An EBML size, and whether it is one: live recordings leave it open, with all bits set."""
    first = file.read(1)[0]
    extra = 8 - first.bit_length()
    bits = 7 * (extra + 1)
    value = int.from_bytes(bytes([first]) + file.read(extra), "big") & ((1 << bits) - 1)
    return value, value != (1 << bits) - 1


def _read_movie(movie: memoryview, path: Path) -> Container:
    tracks = [box for kind, box in _boxes(movie) if kind == b"trak" and _is_video(box)]
    if not tracks:
        raise _error("this file has no pictures", path, "a video track", "other tracks, or none", "choose another file")
    # A cover picture is a video track too, with one sample.
    track = max(tracks, key=_num_samples)
    mirror_axis = _mirror_axis(_find(track, b"tkhd"))
    if _find(movie, b"mvex"):
        return Container(mirror_axis=mirror_axis)  # fragmented: these tables tell only the beginning
    return Container(
        closed_gops=_has_closed_gops(_find(track, b"mdia", b"minf", b"stbl")),
        shown_s=_shown_seconds(_find(track, b"edts", b"elst"), _find(movie, b"mvhd")),
        mirror_axis=mirror_axis,
    )


def _is_video(track: memoryview) -> bool:
    return bytes(_find(track, b"mdia", b"hdlr")[8:12]) == b"vide"


def _num_samples(track: memoryview) -> int:
    sizes = _find(track, b"mdia", b"minf", b"stbl", b"stsz")
    return int.from_bytes(sizes[8:12], "big")


def _has_closed_gops(table: memoryview) -> bool:
    durations, offsets, syncs = (_find(table, kind) for kind in (b"stts", b"ctts", b"stss"))
    # Recovery points and partial syncs become key frames for the decoder without standing in `stss`.
    if any(kind in (b"sbgp", b"stps") for kind, _ in _boxes(table)):
        return False
    count, delta = _runs(durations)
    num_samples = int(count.sum())
    if not 0 < num_samples <= _MAX_SAMPLES:
        return False
    if not syncs or not offsets:
        return True  # only key frames, or shown in the order of storage
    count_offset, offset = _runs(offsets)
    key_frames = np.frombuffer(syncs, ">u4", offset=8).astype(np.int64) - 1
    if int(count_offset.sum()) != num_samples or not ((key_frames >= 0) & (key_frames < num_samples)).all():
        return False
    shown_at = np.cumsum(np.repeat(delta, count)) - np.repeat(delta, count) + np.repeat(offset, count_offset)
    earliest_from = np.minimum.accumulate(shown_at[::-1])[::-1]
    return bool((shown_at[key_frames] == earliest_from[key_frames]).all())


def _runs(box: memoryview) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """A run-length table: how often, which value. Writers disagree on the sign of offsets; read signed, both work."""
    pairs = np.frombuffer(box, ">i4", offset=8).reshape(-1, 2).astype(np.int64) if box else np.zeros((0, 2), np.int64)
    return pairs[:, 0], pairs[:, 1]


def _shown_seconds(edits: memoryview, header: memoryview) -> float | None:
    if not edits or not header:
        return None
    entry = struct.Struct(">QqI" if edits[0] else ">IiI")
    (count,) = struct.unpack_from(">I", edits, 4)
    entries = (entry.unpack_from(edits, 8 + i * entry.size) for i in range(count))
    shown = sum(length for length, start, _ in entries if start >= 0)  # -1: a pause
    (timescale,) = struct.unpack_from(">I", header, 20 if header[0] else 12)
    return shown / timescale if shown and timescale else None


def _mirror_axis(header: memoryview) -> int | None:
    a, b, _, c, d, *_ = struct.unpack_from(">9i", header, 52 if header[0] else 40)
    if a * d - b * c >= 0:
        return None
    return 0 if abs(a) > abs(b) else 1


def _boxes(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    start = 0
    while start + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, start)
        payload = start + 8
        if length == 1:
            (length,) = struct.unpack_from(">Q", data, payload)
            payload += 8
        stop = start + length if length else len(data)
        if not payload <= stop <= len(data):
            return  # QuickTime ends some lists with four zero bytes
        yield kind, data[payload:stop]
        start = stop


def _find(data: memoryview, *path: bytes) -> memoryview:
    """The first box at `path`, empty if there is none."""
    for name in path:
        data = next((box for kind, box in _boxes(data) if kind == name), memoryview(b""))
    return data


def _cut_off(path: Path, expected: int, got: int) -> MvgptError:
    return _error("this video file is cut off", path, f"{expected} bytes or more", f"{got} bytes", _COPY)


def _error(what: str, path: Path, expected: object, got: object, remedy: str) -> MvgptError:
    return MvgptError(f"{what}: {path}", stage="video", expected=expected, got=got, remedy=remedy)
