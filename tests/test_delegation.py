"""The list of what may stand outside the delegates: an export fails on anything else, and the list has no slack."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from mvgpt_export import bundle as export
from mvgpt_export.backends import LoweredMethod
from mvgpt_export.backends.delegation import check
from mvgpt_export.models.projector import Projector
from mvgpt_export.models.video_gpt import VideoGPT
from mvgpt_export.quant import RECIPES
from mvgpt_export.sources import open_source
from mvgpt_runtime import MvgptError
from mvgpt_runtime.manifest import Bundle


def lowered(bundle: Bundle, stage: str) -> LoweredMethod:
    info = bundle.manifest.stages[stage]
    return LoweredMethod(info.delegates, info.undelegated)


def test_an_operator_that_xnnpack_cannot_run_fails_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = Projector.forward
    monkeypatch.setattr(Projector, "forward", lambda self, x: torch.cumsum(forward(self, x), dim=1))
    source = open_source("random:tiny")
    geometry = source.model.config.geometry()
    with pytest.raises(MvgptError, match=r"image_projector: [\s\S]*at most 0 aten::cumsum\.out[\s\S]*1 aten::cumsum"):
        export.export_unit(
            source, ["image_projector"], geometry, "xnnpack", RECIPES["fp32"], "stock", tmp_path / "image_projector.pte"
        )


def test_what_the_list_says_of_layers_is_exact(tiny_bundle: Bundle, eager: VideoGPT) -> None:
    """A stage of one layer less may not have as much outside, nor as many delegates."""
    for stage in ("video_encoder", "text_decoder"):
        method, layers = lowered(tiny_bundle, stage), eager.config.layers(stage)
        check("xnnpack", tiny_bundle.manifest.kernels, stage, layers, method)
        with pytest.raises(
            MvgptError, match=f"at most .* delegates, at most [\\s\\S]*got: *{method.delegates} delegates"
        ):
            check("xnnpack", tiny_bundle.manifest.kernels, stage, layers - 1, method)


@pytest.mark.parametrize(
    "stage", ["image_encoder", "frame_scorer", "image_projector", "video_projector", "token_embedding"]
)
def test_what_the_list_says_of_the_rest_is_exact(tiny_bundle: Bundle, stage: str) -> None:
    method = lowered(tiny_bundle, stage)
    check("xnnpack", tiny_bundle.manifest.kernels, stage, 0, method)
    changes = [{"delegates": method.delegates + 1}]
    changes += [{"undelegated": method.undelegated | {op: n + 1}} for op, n in method.undelegated.items()]
    for change in changes:
        with pytest.raises(MvgptError, match=stage):
            check("xnnpack", tiny_bundle.manifest.kernels, stage, 0, dataclasses.replace(method, **change))
