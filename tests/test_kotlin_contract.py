"""The Android SDK's copy of the contract is the contract's."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
from mvgpt_runtime import contract

TOOL = Path(__file__).parent.parent / "tools" / "write_kotlin_contract.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location(TOOL.stem, TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_file_is_what_the_tool_writes(tool: ModuleType) -> None:
    written = tool.CONTRACT_KT.read_text(encoding="utf-8")
    assert written == tool.kotlin_contract(), "stale: run python tools/write_kotlin_contract.py"


def test_a_change_of_the_contract_changes_the_file(tool: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    before = tool.kotlin_contract()
    monkeypatch.setattr(contract, "CONTRACT_VERSION", contract.CONTRACT_VERSION + 1)
    assert tool.kotlin_contract() != before
    monkeypatch.setattr(contract, "METRICS", {**contract.METRICS, "more_ms": "more"})
    assert '"more_ms" to "more"' in tool.kotlin_contract()


def test_literals_are_kotlins(tool: ModuleType) -> None:
    assert tool.text('a\n"$b"\\') == r'"a\n\"\$b\"\\"'
