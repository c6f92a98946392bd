"""What torch does over and over while it traces graphs, done once. All of it is private to torch 2.13, so in one place.

Exporting is Python on one core; a graph is traced again by every pass of the lowering, dozens of times.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch._export.utils
from torch.fx.traceback import NodeSource


@contextmanager
def without_repetition() -> Iterator[None]:
    """The same files to the byte, 13 to 21% sooner (tests/test_lowering.py; docs/language-model.md).

    - Every new node gets a deep copy of the history of the one that it comes from, passes and all. Nothing changes a
      history once it is made, so nodes can share it.
    - Every namespace of operators is searched for those that decompose, and all of the dispatcher's are looked up again
      for each. None may be registered meanwhile.
    """
    namespace: Any = torch._export.utils
    look_up_all = namespace._materialize_cpp_cia_ops
    namespace._materialize_cpp_cia_ops = cache(look_up_all)
    shared: Any = NodeSource
    shared.__deepcopy__ = lambda history, _: history
    try:
        yield
    finally:
        del shared.__deepcopy__
        namespace._materialize_cpp_cia_ops = look_up_all
