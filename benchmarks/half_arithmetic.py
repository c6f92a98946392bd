"""What arithmetic in float16 costs the image encoder where sums are kept in float16 too, as XNNPACK does on Arm.

    python benchmarks/half_arithmetic.py

No Arm processor is needed: every product is added in the order of XNNPACK's kernels (`f16-gemm` for `neonfp16arith`,
one fused multiply-add per row of the weights) and rounded at once. On x86 the same operators sum in float32. True
shapes, random weights; SQNR against the eager encoder in float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mvgpt_export.config import NAMED_CONFIGS
from mvgpt_export.random_weights import random_model
from mvgpt_export.samples import smooth_frames
from mvgpt_export.stages import stage_module
from torch.overrides import TorchFunctionMode
from vision_recipes import forms

STAGE = "image_encoder"


class SumsInHalf(TorchFunctionMode):
    """Matrix products of float16 tensors as Arm computes them."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.linear and args[0].dtype == torch.float16:
            x, weight, bias = args
            return product(x, weight.T.expand(len(x), -1, -1), bias)
        if func is torch.bmm and args[0].dtype == torch.float16:
            return product(*args)
        return func(*args, **(kwargs or {}))


def product(a: torch.Tensor, b: torch.Tensor, start: torch.Tensor | None = None) -> torch.Tensor:
    """float16 [n, rows, k], [n, k, columns], [columns] → float16 [n, rows, columns]."""
    total = torch.zeros(len(a), a.shape[1], b.shape[2]) + (0 if start is None else start.float())
    a, b = a.float(), b.float()  # the product of two float16 numbers is exact in float32
    for k in range(a.shape[2]):
        total = total.addcmul_(a[:, :, k, None], b[:, k, None, :]).half().float()
    return total.half()


def main() -> None:
    config = NAMED_CONFIGS["0.5b"]
    model = random_model(dataclasses.replace(config, text=dataclasses.replace(config.text, layers=1, vocab_size=64)))
    frames, mask = smooth_frames(1, config.clip.image_size), torch.ones(1)
    with torch.no_grad():
        reference = model.image_encoder(frames, mask).double()
        half = stage_module(model, STAGE, config.geometry(), "fused", forms(STAGE)["16a16w"])
        outputs = {"sums in float32 (x86)": half(frames, mask)}
        with SumsInHalf():
            outputs["sums in float16 (Arm)"] = half(frames, mask)
    for name, out in outputs.items():
        ratio = reference.square().sum() / (out - reference).square().sum()
        print(f"{name}: {10 * torch.log10(ratio):.1f} dB")


if __name__ == "__main__":
    main()
