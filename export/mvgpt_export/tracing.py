"""What torch and ExecuTorch do over and over while they trace graphs, done once. All of it is private to torch 2.13 and
ExecuTorch 1.5.1, so in one place.

Exporting is Python on one core; a graph is traced again by every pass of the lowering, dozens of times.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from weakref import WeakSet

import torch._export.utils
from torch.export import ExportedProgram
from torch.fx.traceback import NodeSource


@contextmanager
def without_repetition() -> Iterator[None]:
    """The same files to the byte, sooner (tests/test_lowering.py; docs/language-model.md).

    - Every new node gets a deep copy of the history of the one that it comes from, passes and all. Nothing changes a
      history once it is made, so nodes can share it.
    - Every namespace of operators is searched for those that decompose, and all of the dispatcher's are looked up again
      for each. None may be registered meanwhile.
    - ExecuTorch decomposes every program three times for XNNPACK, the last one though nothing is left to decompose. For
      backends of another kind it looks whether there is, as is done here.
    """
    namespace: Any = torch._export.utils
    look_up_all = namespace._materialize_cpp_cia_ops
    namespace._materialize_cpp_cia_ops = cache(look_up_all)
    shared: Any = NodeSource
    shared.__deepcopy__ = lambda history, _: history
    decompose: Any = ExportedProgram.run_decompositions
    decomposed = WeakSet[ExportedProgram]()  # whose operators are functional, which decomposing makes them too

    def decompose_what_there_is(program: ExportedProgram, table: Any = None, **options: Any) -> ExportedProgram:
        if table and program in decomposed:
            from executorch.exir.graph_module import contains_any_call_fn_target_op  # seconds

            if not contains_any_call_fn_target_op(program.graph_module, table):
                return program
        result: ExportedProgram = decompose(program, table, **options)
        decomposed.add(result)
        return result

    ExportedProgram.run_decompositions = decompose_what_there_is  # type: ignore[method-assign]
    try:
        yield
    finally:
        ExportedProgram.run_decompositions = decompose  # type: ignore[method-assign]
        del shared.__deepcopy__
        namespace._materialize_cpp_cia_ops = look_up_all
