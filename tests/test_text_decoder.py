"""The language model's stages as exported: fused or stock operators, whole or quantized, against the eager model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slm
import torch
from mvgpt_export import bundle as export
from mvgpt_export.backends.delegation import ALLOWED
from mvgpt_export.config import NAMED_CONFIGS
from mvgpt_export.models.qwen2 import KVCache, rotary_table
from mvgpt_export.parity.floors import limits
from mvgpt_export.parity.metrics import distance
from mvgpt_export.quant import RECIPES, Recipe, Rule, quantize
from mvgpt_export.random_weights import random_model
from mvgpt_export.sources import Source
from mvgpt_export.stages import stage_module, unit_modules
from mvgpt_export.text_decoder import FusedAttention, TableHead, TextDecoder
from mvgpt_runtime import MvgptError
from mvgpt_runtime.manifest import Bundle
from tolerances import FP32_BUNDLE
from torch import nn

TINY = NAMED_CONFIGS["tiny"]
# A layer like any other, and the last one, which works on one position: lowering takes time by the layer.
CONFIG = dataclasses.replace(TINY, text=dataclasses.replace(TINY.text, layers=2))
CHUNKS = (5, 1, 17, 1, 1)


@pytest.fixture(scope="module")
def source() -> Source:
    return Source("two layers", "none", random_model(CONFIG), None)


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, sum(CHUNKS), CONFIG.text.hidden_size, generator=generator) * 0.1


@pytest.fixture(scope="module")
def expected(source: Source, rows: torch.Tensor) -> np.ndarray:
    """Logits after every chunk, each computed anew from all rows before."""
    lm = source.model.language_model
    with torch.no_grad():
        return np.stack(
            [
                lm(rows[:, :end], *rotary_table(lm.config, end), [KVCache() for _ in lm.layers])[0].numpy()
                for end in np.cumsum(CHUNKS)
            ]
        )


@pytest.mark.parametrize(
    ("recipe", "kernels"),
    [("fp32", "stock"), ("fp16", "fused"), ("mobile", "stock")],
)
def test_logits_equal_the_eager_model(
    recipe: str, kernels: str, source: Source, rows: torch.Tensor, expected: np.ndarray, tmp_path: Path
) -> None:
    check_logits(slm.export(source, RECIPES[recipe], tmp_path, kernels=kernels), recipe, rows, expected)


def check_logits(bundle: Bundle, recipe: str, rows: torch.Tensor, expected: np.ndarray) -> None:
    """In chunks of several sizes, then again over the first pass's cache: a rewind leaves no trace."""
    generator = slm.generator(bundle)
    for _ in range(2):
        generator.rewind(0)
        parts = rows[0].split(list(CHUNKS))
        got = np.stack([generator.prefill(part.numpy(), lambda stage: None) for part in parts])
        error = got - expected
        if recipe == "fp32":
            assert np.abs(error).max() <= FP32_BUNDLE * np.abs(expected).max()
        else:
            floor = limits(RECIPES[recipe], CONFIG, "text_decoder", "eager", 1.0)["sqnr_db"]
            assert distance(got, expected)["sqnr_db"] >= floor


@pytest.fixture(scope="module")
def mobile(source: Source, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, TextDecoder]:
    """With the module that was exported."""
    made: list[dict[str, nn.Module]] = []

    def kept(*arguments: Any) -> dict[str, nn.Module]:
        made.append(unit_modules(*arguments))
        return made[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "unit_modules", kept)
        bundle = slm.export(source, RECIPES["mobile"], tmp_path_factory.mktemp("mobile"), kernels="fused")
    decoder = made[0]["text_decoder"]
    assert isinstance(decoder, TextDecoder)
    return bundle, decoder


def test_logits_of_the_mobile_recipe(
    mobile: tuple[Bundle, TextDecoder], rows: torch.Tensor, expected: np.ndarray
) -> None:
    check_logits(mobile[0], "mobile", rows, expected)


def test_one_delegate_between_two_attentions(mobile: tuple[Bundle, TextDecoder]) -> None:
    """Whatever falls out of a delegate cuts it in two: this is what decoding speed hangs on."""
    info, layers = mobile[0].manifest.stages["text_decoder"], CONFIG.layers("text_decoder")
    allowed = ALLOWED["xnnpack"]["fused"]["text_decoder"]  # the export made sure that there is no more; is it tight?
    assert info.delegates == allowed.delegates[0] * layers + allowed.delegates[1] == layers + 2
    assert info.undelegated == {op: each * layers + besides for op, (each, besides) in allowed.outside.items()}
    operators = mobile[0].manifest.files[info.file].operators
    assert not any("aten::copy" in name or "update_cache" in name for name in operators)


def test_embedding_and_head_are_stored_once(mobile: tuple[Bundle, TextDecoder]) -> None:
    head, data = mobile[1].lm_head, mobile[0].path("text_decoder").read_bytes()
    for stored in (head.get_buffer("table"), head.get_buffer("scales")):
        assert data.count(stored.numpy().tobytes()) == 1


@pytest.mark.parametrize(
    ("recipe", "kernels", "dtype"),
    [("mobile", "fused", torch.float16), ("mobile", "stock", torch.float32), ("fp32", "fused", torch.float32)],
)
def test_the_cache_is_stored_as_the_recipe_says(recipe: str, kernels: str, dtype: torch.dtype, source: Source) -> None:
    """The stock operators know float32 only."""
    module = stage_module(source.model, "text_decoder", CONFIG.geometry(), kernels, RECIPES[recipe])
    caches = [b for name, b in module.named_buffers() if name.endswith(("attention.k", "attention.v"))]
    assert len(caches) == 2 * CONFIG.text.layers
    assert {cache.dtype for cache in caches} == {dtype}


def test_groups_that_do_not_fit_and_rules_that_match_nothing() -> None:
    layers = nn.Sequential(nn.Linear(48, 3))
    with pytest.raises(MvgptError, match=r"do not divide the weights of 0[\s\S]*multiple of 32[\s\S]*48"):
        quantize(layers, "text_decoder", Recipe((Rule("text_decoder", ".*", "8da4w-32"),)))
    with pytest.raises(MvgptError, match="matches no layer"):
        quantize(layers, "text_decoder", Recipe((Rule("text_decoder", "layers.*", "8da8w"),)))


def test_what_the_fused_operators_cannot_do_is_refused() -> None:
    with pytest.raises(MvgptError, match=r"heads of this size[\s\S]*stock"):
        FusedAttention(dataclasses.replace(CONFIG.text, head_dim=24), 64, torch.float32)
    with pytest.raises(MvgptError, match=r"rows of this width[\s\S]*stock"):
        TableHead(torch.zeros(10, 96), 32)
