"""Hypothesis strategies that damage valid input: bytes at places of interest, JSON by structure."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

_WORDS = [0, 1, 7, 8, 0x7F, 0xFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF]

# Values that stand for a kind of trouble; those that json.dumps cannot write are put in as text.
_RAW = [
    *("NaN", "Infinity", "-Infinity", "1e999", "-0.0", "1" * 400, "1" * 5000),
    *("[" * 500 + "]" * 500, "[" * 100_000, '{"a":' * 50_000, '"\\ud800"', '"\\u0000"'),
]
_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**53, 2**63, 2**64, 10**12, 10**30, 0.5, -1e308, 1e-320),
    *("", " ", "../../etc/passwd", "/etc/passwd", "x" * 300, "ü" * 200, "{question}", "\n\r\t\x7f"),
    *([], {}, [[]], [None], {"": None}, {"type": "x"}, [0] * 1000),
]
_RAW_MARK = "\x01raw{}"


@st.composite
def damaged_bytes(draw: st.DrawFn, valid: bytes, places: Sequence[int] = ()) -> bytes:
    """`valid` after one to six edits: flipped bits, extreme numbers, holes, repeats, cuts; half near `places`."""
    data = bytearray(valid)
    position = st.integers(0, max(len(valid) - 1, 0))
    if places:
        position |= st.builds(lambda p, d: max(p + d, 0), st.sampled_from(list(places)), st.integers(-4, 24))
    for _ in range(draw(st.integers(1, 6))):
        at = min(draw(position), max(len(data) - 1, 0))
        length = draw(st.integers(1, 64))
        edit = draw(st.sampled_from(["flip", "set", "word", "zero", "delete", "repeat", "insert", "cut"]))
        if edit == "flip" and data:
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif edit == "set" and data:
            data[at] = draw(st.integers(0, 255))
        elif edit == "word":
            order = draw(st.sampled_from(["big", "little"]))
            data[at : at + 4] = draw(st.sampled_from(_WORDS)).to_bytes(4, order)  # type: ignore[arg-type]
        elif edit == "zero":
            data[at : at + length] = bytes(len(data[at : at + length]))
        elif edit == "delete":
            del data[at : at + length]
        elif edit == "repeat":
            data[at:at] = data[at : at + length]
        elif edit == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=16))
        elif edit == "cut":
            del data[at:]
    return bytes(data)


@st.composite
def damaged_json(draw: st.DrawFn, valid: dict[str, Any]) -> bytes:
    """`valid` as JSON after one to three edits of its tree, and now and then of its bytes."""
    root = copy.deepcopy(valid)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        node, key = _place(draw, root)
        if node is None:
            break
        edit = draw(st.sampled_from(["value", "raw", "near", "delete", "add", "swap", "nest"]))
        if edit == "delete":
            del node[key]
        elif edit == "add" and isinstance(node, dict):
            node[draw(st.text(max_size=8))] = draw(st.sampled_from(_VALUES))
        elif edit == "raw":
            node[key] = _RAW_MARK.format(draw(st.integers(0, len(_RAW) - 1)))
        elif edit == "near":
            node[key] = _near(draw, node[key])
        elif edit == "swap":
            other, there = _place(draw, root)
            if other is not None:
                node[key] = copy.deepcopy(other[there])
        elif edit == "nest":
            node[key] = draw(st.sampled_from([[node[key]], {"a": node[key]}]))
        else:
            node[key] = copy.deepcopy(draw(st.sampled_from(_VALUES)))
    text = json.dumps(root, ensure_ascii=draw(st.booleans()))
    for i, raw in enumerate(_RAW):
        text = text.replace(json.dumps(_RAW_MARK.format(i)), raw)
    data = text.encode("utf-8", "surrogatepass")
    return draw(damaged_bytes(data)) if draw(st.integers(0, 9)) == 0 else data


def _place(draw: st.DrawFn, root: Any) -> tuple[Any, Any]:
    """A node of the tree and one of its keys; (None, None) if it has none."""
    node, key = None, None
    below = root
    while isinstance(below, (dict, list)) and below and (node is None or draw(st.integers(0, 3))):
        node = below
        keys = sorted(node) if isinstance(node, dict) else range(len(node))
        key = draw(st.sampled_from(keys))
        below = node[key]
    return node, key


def _near(draw: st.DrawFn, value: Any) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return draw(st.sampled_from([value + 1, value - 1, -value, value * 2, value // 2, value * 10**6]))
    if isinstance(value, float):
        return draw(st.floats())
    if isinstance(value, str):
        return draw(st.sampled_from([value[1:], value * 2, value.upper(), value + "\0", value[::-1]]) | st.text())
    if isinstance(value, list):
        return draw(st.sampled_from([value[::-1], value * 2, value[1:], value[:1] * 100]))
    if isinstance(value, dict):
        return dict(reversed(value.items()))
    return value
