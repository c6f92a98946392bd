"""What may stand outside the XNNPACK delegates, stage by stage, and into how many delegates a stage may fall.

An operator outside runs as a portable or optimized kernel of the runtime, often on one thread, and cuts a delegate in
two; no numeric check would notice. So whatever is not on the list fails the export. Operators have the names that the
program calls them by; `mvgpt inspect BUNDLE --graph` prints them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mvgpt_runtime.errors import MvgptError

from . import LoweredMethod

Count = tuple[int, int]
"""(for each layer of the stage, besides)."""


@dataclass(frozen=True)
class Allowed:
    """At most so many."""

    delegates: Count
    outside: Mapping[str, Count]  # by operator


# Frames enter as uint8, of which XNNPACK has no tensors.
_CAST = {"dim_order_ops::_to_dim_order_copy.out": (0, 1)}
# XNNPACK multiplies batches of equal number only: both pooling matrices are repeated for every frame.
_POOL = {"aten::expand_copy.out": (0, 2)}

_EITHER = {
    # The class token is repeated for every frame. Branches in float16 are delegates of their own, two in a layer.
    "image_encoder": Allowed((2, 2), {**_CAST, "aten::expand_copy.out": (0, 1)}),
    # Sums in stages of an exact order, comparisons and a choice on [8] numbers: 2 % of the stage's time.
    "frame_scorer": Allowed(
        (0, 5),
        {
            "aten::sum.IntList_out": (0, 4),
            "aten::topk.values": (0, 1),
            "aten::arange.start_out": (0, 1),
            "aten::eq.Tensor_out": (0, 1),
            "aten::gt.Tensor_out": (0, 1),
            "aten::lt.Scalar_out": (0, 1),
            "aten::lt.Tensor_out": (0, 1),
            "aten::bitwise_and.Tensor_out": (0, 1),
            "aten::bitwise_or.Tensor_out": (0, 1),
            "aten::where.self_out": (0, 1),
            "aten::unsqueeze_copy.out": (0, 3),
            "dim_order_ops::_to_dim_order_copy.out": (0, 3),
        },
    ),
    "image_projector": Allowed((0, 1), _POOL),
    "video_projector": Allowed((0, 1), _POOL),
    # The look-up, in the recipe's form: XNNPACK has none.
    "token_embedding": Allowed(
        (0, 0),
        {
            "aten::embedding.out": (0, 1),
            "quantized_decomposed::embedding_byte.dtype_out": (0, 1),
            "quantized_decomposed::embedding_4bit.dtype_out": (0, 1),
            "dim_order_ops::_to_dim_order_copy.out": (0, 1),  # from float16
        },
    ),
}

# The video encoder around its mixers: the residual's start of zeros, and the pooling.
_VIDEO = {**_CAST, **_POOL, "aten::full_like.out": (0, 1)}

_FUSED = {
    # Both directions of a mixer on our operators: a delegate between convolutions and scans, one between mixers.
    "video_encoder": Allowed(
        (2, 2),
        {
            **_VIDEO,
            "aten::select_copy.int_out": (0, 2),  # of the class token and its position
            "mvgpt::causal_conv1d_silu.out": (2, 0),
            "mvgpt::selective_scan.out": (2, 0),
        },
    ),
    # One delegate between two attentions: decoding speed hangs on this. The last layer's is cut where the last position
    # is taken.
    "text_decoder": Allowed(
        (1, 2),
        {
            "mvgpt::grouped_query_attention.out": (1, 0),
            "mvgpt::linear_4bit.out": (0, 1),  # the head, where the recipe stores it so
            "aten::slice_copy.Tensor_out": (0, 1),
            "aten::select_copy.int_out": (0, 1),
        },
    ),
}

_STOCK = {
    # The scan is a loop over torch's operators, its body on rows; directions are flipped copies.
    "video_encoder": Allowed(
        (7, 3),
        {
            **_VIDEO,
            "aten::full_like.out": (2, 1),  # each scan's first state
            "aten::add.out": (2, 0),
            "aten::copy_": (4, 0),
            "aten::exp.out": (2, 0),
            "aten::flip.out": (2, 0),
            "aten::gt.Scalar_out": (2, 0),
            "aten::log1p.out": (2, 0),
            "aten::mul.out": (10, 0),
            "aten::select_copy.int_out": (8, 2),
            "aten::split_with_sizes_copy.out": (3, 0),
            "aten::squeeze_copy.dims_out": (2, 0),
            "aten::sum.IntList_out": (2, 0),
            "aten::sym_size.int": (2, 0),
            "aten::unsqueeze_copy.out": (10, 0),
            "aten::where.self_out": (2, 0),
            "dim_order_ops::_clone_dim_order.out": (2, 0),
            "executorch_prim::add.Scalar": (2, 0),
            "executorch_prim::eq.Scalar": (2, 0),
            "executorch_prim::et_copy_index.tensor": (2, 0),
            "executorch_prim::sub.Scalar": (2, 0),
        },
    ),
    # Attention and cache are ExecuTorch's; around them positions are turned into rows of the rotary tables.
    "text_decoder": Allowed(
        (2, 2),
        {
            "llama::custom_sdpa.out": (1, 0),
            "llama::update_cache.out": (2, 0),
            "aten::_local_scalar_dense": (1, 0),
            "aten::add.out": (1, 0),
            "aten::arange.start_out": (1, 0),
            "aten::index_select.out": (2, 0),
            "aten::scalar_tensor.out": (1, 0),
            "aten::select_copy.int_out": (1, 1),
            "aten::slice_copy.Tensor_out": (2, 1),
            "aten::split_with_sizes_copy.out": (3, 0),
            "aten::sym_size.int": (0, 1),
            "aten::unsqueeze_copy.out": (4, 0),
            "dim_order_ops::_to_dim_order_copy.out": (1, 0),
            "executorch_prim::add.Scalar": (0, 1),
            "executorch_prim::et_view.default": (3, -2),  # the last layer's queries are of one position
            "executorch_prim::sub.Scalar": (0, 2),
        },
    ),
}

ALLOWED: dict[str, dict[str, dict[str, Allowed]]] = {
    "xnnpack": {"fused": {**_EITHER, **_FUSED}, "stock": {**_EITHER, **_STOCK}}
}
"""By backend, form of the kernels, and stage."""

# With two branches of every layer in float16 besides: XNNPACK's delegates do not take a cast from one to the other.
HALF_BRANCHES = Allowed((2, 0), {"dim_order_ops::_to_dim_order_copy.out": (6, 0)})
# With a table in float16 besides.
HALF_TABLE = Allowed((0, 0), _CAST)


def check(
    backend: str, kernels: str, stage: str, layers: int, method: LoweredMethod, besides: Iterable[Allowed] = ()
) -> None:
    """MvgptError if `method` has an operator outside its delegates, or delegates, that the list does not allow.

    `besides`: what a recipe adds to the list.
    """
    lists = [ALLOWED[backend][kernels][stage], *besides]

    def sum_of(counts: Iterable[Count]) -> Count:
        each, besides = zip(*counts, strict=True)
        return sum(each), sum(besides)

    counts = {"delegates": (method.delegates, sum_of(a.delegates for a in lists))}
    counts |= {op: (n, sum_of(a.outside.get(op, (0, 0)) for a in lists)) for op, n in method.undelegated.items()}
    limits = {name: (n, each * layers + besides) for name, (n, (each, besides)) in counts.items()}
    over = {name: (n, most) for name, (n, most) in limits.items() if n > most}
    if over:
        raise MvgptError(
            "the backend left operators to slower kernels",
            stage=stage,
            expected=", ".join(f"at most {most} {name}" for name, (_, most) in over.items()),
            got=", ".join(f"{n} {name}" for name, (n, _) in over.items()),
            remedy="a change of the network or of the executorch version caused this; write it so that the "
            "backend takes it, or add it to backends/delegation.py with the reason",
        )
