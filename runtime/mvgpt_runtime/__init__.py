"""mvgpt runtime: runs a bundle exactly as a phone does. `Session` is the way in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .errors import Cancelled, MvgptError

if TYPE_CHECKING:
    from .session import Session

__all__ = ["Cancelled", "MvgptError", "Session"]


def __getattr__(name: str) -> Any:
    """Import on first use: the manifest's schema and numpy are not needed for `mvgpt --help`."""
    if name == "Session":
        from .session import Session

        return Session
    raise AttributeError(name)
