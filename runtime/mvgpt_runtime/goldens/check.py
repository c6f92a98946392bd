"""The other way round: a bundle on this machine against vectors that were made elsewhere."""

from __future__ import annotations

import tokenize
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..errors import MvgptError
from .vectors import MARGIN, Case, Output, Progress, Result, Table, Vectors, read_vectors, thinned


def first_difference(cases: Iterable[Case], folder: Path, progress: Progress = lambda case: None) -> str | None:
    """The first case, in data order, that differs from the folder's, and how; None if none does.

    Raises:
        MvgptError: the folder holds no vectors, or they are not of these cases.
    """
    vectors = read_vectors(folder)
    for case in cases:
        for output, result in zip(_outputs(vectors, case), case.results, strict=True):
            difference = _difference(output, folder / output.file, result)
            if difference == _TIE:
                break  # the rest of the case follows from another choice
            if difference:
                return f"{case.id}: {result.name}: {difference}"
        progress(case.id)
    return None


def _outputs(vectors: Vectors, case: Case) -> tuple[Output, ...]:
    for entry in vectors.cases:
        names = [output.name for output in entry.outputs]
        if (entry.id, entry.inputs, names) == (case.id, case.inputs, [result.name for result in case.results]):
            return entry.outputs
    raise MvgptError(
        "the vectors lack a case",
        stage="goldens",
        expected=f"{case.id}, with the same inputs",
        got=f"vectors of {' '.join(vectors.provenance.values())}",
        remedy="make them with this version of mvgpt, from a bundle of the same sizes",
    )


_TIE = "a tie"
# What numpy lets through of its reading of an array's header, which is a Python expression.
_HEADER_ERRORS = (EOFError, OverflowError, SyntaxError, TypeError, tokenize.TokenError)


def _difference(output: Output, path: Path, result: Result) -> str | None:
    try:
        if isinstance(result.value, Table):
            return _table(output, path.read_text(encoding="ascii"), result.value.text())
        # Mapped, not read: a header may claim more than there is memory for.
        return _array(output, np.load(path, mmap_mode="r", allow_pickle=False), result)
    except (OSError, ValueError, *_HEADER_ERRORS) as e:
        raise MvgptError(
            f"{path.name} is no {'table' if output.dtype == 'table' else 'array'}",
            stage="goldens",
            got=e,
            remedy="make the vectors again",
        ) from None


def _table(output: Output, expected: str, got: str) -> str | None:
    wanted, have = expected.splitlines(), got.splitlines()
    if len(wanted) != len(have):
        return f"expected {len(wanted)} lines, got {len(have)}"
    for line, (a, b) in enumerate(zip(wanted, have, strict=True), start=1):
        if output.compare == "choices" and line > 1:
            *chosen, margin, tie_below = a.split("\t")
            if chosen == b.split("\t")[: -len(MARGIN)]:
                continue
            if float(margin) < float(tie_below):
                return _TIE
        if a != b:
            return f"line {line}: expected {_short(a)}, got {_short(b)}"
    return None


def _short(line: str) -> str:
    return repr(line if len(line) <= 120 else line[:119] + "…")


def _array(output: Output, expected: np.ndarray, result: Result) -> str | None:
    assert isinstance(result.value, np.ndarray)
    got = thinned(result.value, output.stride)
    if (got.dtype, got.shape) != (expected.dtype, expected.shape):
        return f"expected {expected.dtype} {list(expected.shape)}, got {got.dtype} {list(got.shape)}"
    error = np.abs(got.astype(np.float64) - expected)
    limit = output.tolerance * float(np.abs(expected).max())
    if bool((error <= limit).all()):  # NaN is not
        return None
    at = int(np.argmax(~(error <= limit)))
    values = expected.reshape(-1)[at], got.reshape(-1)[at]
    return f"value {at * output.stride}: expected {values[0]}, got {values[1]}; at most {limit:.3g} apart"
