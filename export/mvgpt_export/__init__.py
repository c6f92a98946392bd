"""mvgpt export: a published checkpoint → eager model → bundle. Build time only; `mvgpt_runtime` runs what it makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bundle import export_bundle
    from .checkpoint import load_model
    from .parity import check_parity

__all__ = ["check_parity", "export_bundle", "load_model"]


def __getattr__(name: str) -> Any:
    """Import on first use: torch takes seconds, and `mvgpt --help` needs none of it."""
    if name == "load_model":
        from .checkpoint import load_model

        return load_model
    if name == "export_bundle":
        from .bundle import export_bundle

        return export_bundle
    if name == "check_parity":
        from .parity import check_parity

        return check_parity
    raise AttributeError(name)
