"""Folders that are written whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import MvgptError


def check_output(output: Path, kind: str, is_one: Callable[[Path], bool]) -> None:
    """MvgptError unless the output is absent, empty or one of its kind, to replace; nobody's other files are touched.

    Args:
        kind: what is written, for the message.
        is_one: whether a folder that is not empty is one.
    """
    if not output.exists() or (output.is_dir() and (not any(output.iterdir()) or is_one(output))):
        return
    raise MvgptError(
        f"the output exists and is no {kind}",
        stage="output",
        expected=f"a new or empty folder, or a {kind} to replace",
        got=output,
        remedy="choose another name, or remove it yourself",
    )


@contextmanager
def folder_in_the_making(output: Path) -> Iterator[Path]:
    """A hidden folder beside `output` that takes its place when the block ends, and vanishes when it fails."""
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.partial-", dir=output.parent))
    try:
        folder.chmod(0o755)  # mkdtemp's folders are private
        yield folder
        if output.exists():
            old = Path(tempfile.mkdtemp(prefix=f".{output.name}.old-", dir=output.parent))
            output.rename(old / output.name)
            folder.rename(output)
            shutil.rmtree(old)
        else:
            folder.rename(output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
