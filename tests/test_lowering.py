"""What we change in ExecuTorch's lowering to make it faster: the files must not notice."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest
from mvgpt_export import bundle
from mvgpt_export.backends import xnnpack
from mvgpt_export.config import NAMED_CONFIGS
from mvgpt_export.quant import RECIPES
from mvgpt_export.random_weights import random_model
from mvgpt_export.sources import Source
from mvgpt_runtime.contract import LANGUAGE_STAGES


@pytest.mark.parametrize(
    ("stages", "delegates", "busy"),
    [(LANGUAGE_STAGES, 2, 0), (["image_projector"], 1, 2)],  # two passes seek convolutions
    ids=["language model", "convolution"],
)
def test_doing_less_changes_no_byte(
    stages: Sequence[str], delegates: int, busy: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = NAMED_CONFIGS["tiny"]
    config = dataclasses.replace(tiny, text=dataclasses.replace(tiny.text, layers=1))
    source, geometry = Source("one layer", "none", random_model(config), None), config.geometry()
    recipe = dataclasses.replace(RECIPES["mobile"], calibrated=False)  # how weights are rounded takes time of its own
    runs = []
    original = xnnpack.xnnpack_passes.XNNPACKPassManager.transform

    def counted(self: xnnpack.xnnpack_passes.XNNPACKPassManager) -> object:
        runs.append(len(self.passes))
        return original(self)

    monkeypatch.setattr(xnnpack.xnnpack_passes.XNNPACKPassManager, "transform", counted)
    reported: list[str] = []

    def export(name: str) -> bytes:
        path = tmp_path / name
        bundle.export_unit(source, list(stages), geometry, "xnnpack", recipe, "fused", path, reported.append)
        return path.read_bytes()

    quick = export("quick.pte")
    assert sum(what.startswith("delegate ") for what in reported) == len(runs) == delegates
    few = runs.copy()
    runs.clear()
    monkeypatch.setattr(xnnpack, "_idle_passes_skipped", nullcontext)
    monkeypatch.setattr(bundle, "without_repetition", nullcontext)
    assert export("plain.pte") == quick
    idle = len(xnnpack.SOUGHT) - busy
    assert sum(few) == sum(runs) - idle * len(runs), "some delegate has an unexpected operator"
