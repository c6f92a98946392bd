"""Output folders and files: written beside their place and put there in one step; a kill never leaves half of one."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import MvgptError


def check_output(output: Path, kind: str, is_one: Callable[[Path], bool]) -> None:
    """MvgptError unless the output is absent, empty or one of its kind, to replace; nobody's other files are touched.

    Args:
        kind: what is written, for the message.
        is_one: whether a folder that is not empty is one.
    """
    with _failures(output):
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
    """A hidden folder beside `output` that takes its place when the block ends, and vanishes when it fails.

    A folder that stands at `output` is replaced: the two change places in one system call, and whoever opens `output`
    finds one of them whole. Hidden folders that killed exports left behind are removed first.

    Raises:
        MvgptError: the folder cannot be written.
    """
    with _failures(output):
        output = output.resolve()  # what a symbolic link names is replaced, not the link
        output.parent.mkdir(parents=True, exist_ok=True)
        folder, lock = _make(output)
    try:
        with _failures(output, _DISK):  # whatever else goes wrong in the block is not the output's fault
            yield folder
        with _failures(output):
            if output.exists():
                _exchange(folder, output)
            else:
                folder.rename(output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def check_file(output: Path) -> None:
    """MvgptError unless a file can be written there: for before the work whose result it is to take."""
    with _failures(output):
        if _is_file(output):
            partial = _partial(output)
            partial.touch()
            partial.unlink()


def write_file(output: Path, text: str) -> None:
    """Write UTF-8 text beside `output` and put it there in one step; to a pipe or a device, directly.

    Raises:
        MvgptError: it cannot be written; a file that was there still is.
    """
    with _failures(output):
        if not _is_file(output):
            output.write_text(text, encoding="utf-8")
            return
        partial = _partial(output)
        try:
            partial.write_text(text, encoding="utf-8")
            partial.replace(output.resolve())  # what a symbolic link names, not the link
        finally:
            partial.unlink(missing_ok=True)


def _is_file(output: Path) -> bool:
    """Is one, or would be."""
    if output.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(output))
    return output.is_file() or not output.exists()


def _partial(output: Path) -> Path:
    output = output.resolve()
    return output.with_name(f".{output.name}.partial-{os.getpid()}")


_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}


@contextmanager
def _failures(output: Path, codes: Collection[int] | None = None) -> Iterator[None]:
    """The system's errors, or those with these numbers, as one that names the output."""
    try:
        yield
    except OSError as e:
        if codes is not None and e.errno not in codes:
            raise
        raise MvgptError(
            f"cannot write {output}",
            stage="output",
            got=e,
            remedy="choose a folder where you may write, on a disk with room",
        ) from e


def _make(output: Path) -> tuple[Path, int]:
    """A new hidden folder, and the lock that tells other exports it is in use; the system drops locks of the dead."""
    prefix = f".{output.name}.partial-"
    parent = os.open(output.parent, os.O_RDONLY)
    try:
        fcntl.flock(parent, fcntl.LOCK_EX)  # a new folder is not yet locked: nobody may look meanwhile
        for left in output.parent.glob(glob.escape(prefix) + "?" * 8):
            _remove_unless_locked(left)
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=output.parent))
        folder.chmod(0o755)  # mkdtemp's folders are private
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
    finally:
        os.close(parent)
    return folder, lock


def _remove_unless_locked(folder: Path) -> None:
    with suppress(OSError):  # in use, or another user's
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


def _exchange(new: Path, old: Path) -> None:
    """Two folders change places, in one step where the file system can; Python has no function for it."""
    libc = ctypes.CDLL(None, use_errno=True)
    a, b = os.fsencode(new), os.fsencode(old)
    try:
        if sys.platform == "darwin":
            failed = libc.renamex_np(a, b, ctypes.c_uint(2))  # RENAME_SWAP
        else:
            failed = libc.renameat2(-100, a, -100, b, ctypes.c_uint(2))  # AT_FDCWD, RENAME_EXCHANGE
    except AttributeError:  # an older C library
        failed = True
        ctypes.set_errno(errno.ENOSYS)
    if not failed:
        return
    if (code := ctypes.get_errno()) not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        raise OSError(code, os.strerror(code), str(old))
    # Some network and FUSE file systems cannot. Killed between these lines, both folders are whole, under hidden names.
    spare = Path(tempfile.mkdtemp(prefix=f".{old.name}.old-", dir=old.parent))
    old.rename(spare / old.name)
    new.rename(old)
    (spare / old.name).rename(new)
    spare.rmdir()
