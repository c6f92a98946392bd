"""Operations and bytes of a stage's call, counted in its program: XNNPACK's nodes, and the operators between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from math import prod
from typing import Any

from ... import contract
from ...contract import Geometry
from ...engines.program import Plan, node_kind, operator_names, read_plans
from ...errors import MvgptError
from ...manifest import Bundle

EXP_OPERATIONS = 11
"""Vector operations of an exponential: those of `exp2_decay` in runtime/kernels/vec.h, the cheapest on Arm (its form
for AVX-512 has one less)."""

BYTES = {"BYTE": 1, "CHAR": 1, "BOOL": 1, "HALF": 2, "BFLOAT16": 2, "FLOAT": 4, "INT": 4, "LONG": 8, "DOUBLE": 8}
"""Of an element of ExecuTorch's tensors."""

NO_BUFFER_KEY = 2**32 - 1


@dataclass
class Work:
    """Of one call, or of several added up.

    Attributes:
        macs: multiply-accumulates of matrix products and convolutions by arithmetic, which is named as in recipes:
            "fp32" (also where weights are stored in float16), "16a16w", "8da8w", "8da4w-32".
        vector_operations: of the scan, and EXP_OPERATIONS for every exponential; one element each, in float32.
        weight_bytes: constants as the file stores them, each once; of a table that is looked up, the rows.
        widened_bytes: what XNNPACK makes them longer by when it loads them (float16 that is multiplied in float32).
        cache_bytes: of the KV cache, read.
        weights: of weight_bytes, the matrices by arithmetic, without scales.
    """

    macs: Counter[str] = field(default_factory=Counter)
    vector_operations: int = 0
    weight_bytes: int = 0
    widened_bytes: int = 0
    cache_bytes: int = 0
    weights: Counter[str] = field(default_factory=Counter)

    @property
    def bytes_read(self) -> int:
        """The fewest bytes that must come from memory, if activations stay in caches and weights do not."""
        return self.weight_bytes + self.widened_bytes + self.cache_bytes

    def __add__(self, other: Work) -> Work:
        return Work(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {**values, "macs": dict(self.macs), "weights": dict(self.weights), "bytes_read": self.bytes_read}


class Counts:
    """Counts a bundle's calls; every program is read once.

    Raises:
        MvgptError: the bundle is not of ExecuTorch programs with XNNPACK delegates, or has operators that cannot be
            counted, as the loop of the stock scan.
    """

    def __init__(self, bundle: Bundle) -> None:
        if (backends := bundle.manifest.backends) != ("xnnpack",):
            raise MvgptError(
                "only ExecuTorch programs can be counted", stage="estimate", expected="xnnpack",
                got=", ".join(backends),
            )  # fmt: skip
        self._geometry = bundle.geometry
        files = {name: info.file for name, info in bundle.manifest.stages.items()}
        plans = {file: read_plans(bundle.file(file)) for file in set(files.values())}
        self._plans = {name: plans[file][bundle.manifest.stages[name].method] for name, file in files.items()}
        self._works: dict[tuple[str, int, int], Work] = {}

    def work(self, stage: str, rows: int = 1, start_pos: int = 0) -> Work:
        """Of one call. `rows`: of the stage's dynamic dimension, if it has one; `start_pos`: text_decoder's input."""
        if (work := self._works.get((stage, rows, start_pos))) is None:
            plan = self._plans[stage]
            work = self._works[stage, rows, start_pos] = count(stage, plan, self._geometry, rows, start_pos)
        return work


def count(stage: str, method: Plan, geometry: Geometry, rows: int = 1, start_pos: int = 0) -> Work:
    """`Counts.work` of a program's method."""
    bounds = [
        bound
        for tensor in contract.stage(stage).inputs
        for dim, (_, bound) in zip(tensor.dims, tensor.shape(geometry), strict=True)
        if isinstance(dim, str) and dim.startswith("1..")
    ]
    return _Call(stage, method, bounds[0] if bounds else None, rows, start_pos).work


class _Call:
    """Adds up `work`. Shapes in programs are upper bounds: the dimension before the last is the dynamic one."""

    def __init__(self, stage: str, method: Plan, bound: int | None, rows: int, start_pos: int) -> None:
        self.stage, self.work, self.start_pos = stage, Work(), start_pos
        self._plan, self._bound, self._rows = method.plan, bound, rows
        self.seen: set[object] = set()  # constants that were added
        operators = operator_names(method.plan)
        for chain in method.plan["chains"]:
            for instruction in chain["instructions"]:
                kind, arguments = instruction["instr_args_type"], instruction["instr_args"]
                if kind == "DelegateCall":
                    self.constants(self._tensors(arguments))
                    self._delegate(method.graphs[arguments["delegate_index"]])
                elif kind == "KernelCall":
                    self._operator(operators[arguments["op_index"]], self._tensors(arguments))
                elif kind == "JumpFalseCall":
                    raise self._uncountable("a loop", "export with --kernels fused")

    def shape(self, sizes: Sequence[int]) -> list[int]:
        sizes = list(sizes)
        if len(sizes) > 1 and self._bound is not None and sizes[-2] == self._bound:
            sizes[-2] = self._rows
        return sizes

    def exponentials(self, count: int) -> None:
        self.work.vector_operations += EXP_OPERATIONS * count

    def matrix(self, key: object, arithmetic: str, size: int) -> None:
        """A weight matrix that is read whole."""
        if self.constant(key, size):
            self.work.weights[arithmetic] += size

    def constant(self, key: object, size: int) -> bool:
        """Count it, unless it was."""
        if new := key not in self.seen:
            self.seen.add(key)
            self.work.weight_bytes += size
        return new

    def constants(self, tensors: Iterable[dict[str, Any]]) -> None:
        for t in tensors:
            if (buffer := t.get("data_buffer_idx")) and not t.get("allocation_info"):
                self.constant(buffer, _size(t))

    def _tensors(self, arguments: dict[str, Any]) -> list[dict[str, Any]]:
        values = [self._plan["values"][i] for i in arguments.get("args", ())]
        return [v["val"] for v in values if v.get("val_type") == "Tensor"]

    def _operator(self, name: str, tensors: list[dict[str, Any]]) -> None:
        namespace, _, rest = name.partition("::")
        if count := OPERATORS.get(name.partition(".")[0]):
            count(self, tensors)
        elif namespace in ELEMENTWISE and rest.partition(".")[0] not in PRODUCTS:
            self.constants(tensors)
        else:
            raise self._uncountable(name, "export with --kernels fused")

    def _delegate(self, graph: dict[str, Any] | None) -> None:
        if graph is None:
            raise self._uncountable("a delegate that is not XNNPACK's", "export with --backend xnnpack")
        values = {}
        for x in graph["xvalues"]:
            union = x["xvalue_union"]
            value = _Value(union.get("tensor_value", union), union.get("quant_params") or {}, graph["constant_data"])
            values[value.id] = value
        for node in graph["xnodes"]:
            kind, n = node_kind(node), node["xnode_union"]
            if kind in EXPONENTIALS:
                self.exponentials(prod(self.shape(values[n["output_id"]].dims)))
            elif count := NODES.get(kind):
                count(self, n, values)
            elif kind in UNKNOWN_PRODUCTS:
                raise self._uncountable(f"XNNPACK's {kind}", "report it: this version of mvgpt exports none")
        for value in values.values():
            for key, size in value.constants:
                self.constant(key, size)

    def _uncountable(self, what: str, remedy: str) -> MvgptError:
        return MvgptError("the stage's operations cannot be counted", stage=self.stage, got=what, remedy=remedy)


class _Value:
    """A tensor of an XNNPACK graph."""

    def __init__(self, tensor: dict[str, Any], quantization: dict[str, Any], data: list[dict[str, Any]]) -> None:
        self.id: int = tensor["id_out"]
        self.dims: list[int] = tensor.get("dims") or []
        self.dtype = str(tensor["datatype"]).removeprefix("xnn_datatype_")
        self.group: int | None = quantization.get("group_size")
        indices = [tensor["constant_buffer_idx"], quantization.get("scale_buffer_idx", 0)]
        self.constants = [
            (data[i]["named_key"] or (id(data), i), data[i]["size"]) for i in indices if 0 < i < NO_BUFFER_KEY
        ]


def _fully_connected(call: _Call, node: dict[str, Any], values: dict[int, _Value]) -> None:
    x, filter_ = values[node["input1_id"]], values[node["filter_id"]]
    arithmetic = _arithmetic(x, filter_)
    call.work.macs[arithmetic] += prod(call.shape(x.dims)[:-1]) * prod(filter_.dims)
    for key, size in filter_.constants[:1]:
        if key not in call.seen and x.dtype == "fp32" and filter_.dtype == "fp16":
            call.work.widened_bytes += size
        call.matrix(key, arithmetic, size)


def _batch_matmul(call: _Call, node: dict[str, Any], values: dict[int, _Value]) -> None:
    x, out = values[node["input1_id"]], values[node["output_id"]]
    call.work.macs[_arithmetic(x, x)] += prod(call.shape(out.dims)) * x.dims[-1]


def _convolution(call: _Call, node: dict[str, Any], values: dict[int, _Value]) -> None:
    x, filter_, out = (values[node[name]] for name in ("input1_id", "filter_id", "output_id"))
    arithmetic = _arithmetic(x, filter_)
    kernel = node["kernel_height"] * node["kernel_width"] * node["group_input_channels"]
    call.work.macs[arithmetic] += prod(out.dims) * kernel
    for key, size in filter_.constants[:1]:
        call.matrix(key, arithmetic, size)


def _arithmetic(x: _Value, weight: _Value) -> str:
    kinds = {
        ("fp32", "fp32"): "fp32",
        ("fp32", "fp16"): "fp32",
        ("fp16", "fp16"): "16a16w",
        ("qdint8", "qcint8"): "8da8w",
        ("qdint8", "qcint4"): "8da4w",
        ("qdint8", "qbint4"): f"8da4w-{weight.group}",
    }
    if (kind := kinds.get((x.dtype, weight.dtype))) is None:
        raise MvgptError(
            "a product of dtypes that no recipe makes",
            stage="estimate",
            expected=", ".join(f"{a} × {b}" for a, b in kinds),
            got=f"{x.dtype} × {weight.dtype}",
        )
    return kind


def _attention(call: _Call, tensors: list[dict[str, Any]]) -> None:
    q, kv, _, v_cache, cos, sin = tensors[:6]
    queries, width = call.shape(q["sizes"])[-2:]
    rows = call.shape(kv["sizes"])[-2]
    kv_heads, _, head_dim = v_cache["sizes"]
    end = call.start_pos + rows
    pairs = queries * end - queries * (queries - 1) // 2  # of a query and a position that it attends to
    call.work.macs["fp32"] += 2 * pairs * width
    call.exponentials(pairs * width // head_dim)
    call.work.cache_bytes += 2 * end * kv_heads * head_dim * BYTES[v_cache["scalar_type"]]
    for table in (cos, sin):
        call.constant(table["data_buffer_idx"], rows * _size(table) // table["sizes"][0])


def _linear_4bit(call: _Call, tensors: list[dict[str, Any]]) -> None:
    x, table, scales = tensors[:3]
    rows, width = prod(call.shape(x["sizes"])[:-1]), x["sizes"][-1]
    arithmetic = f"8da4w-{width // scales['sizes'][1]}"
    call.work.macs[arithmetic] += rows * width * table["sizes"][0]
    call.matrix(table["data_buffer_idx"], arithmetic, _size(table))
    call.constant(scales["data_buffer_idx"], _size(scales))


def _selective_scan(call: _Call, tensors: list[dict[str, Any]]) -> None:
    _, u, _, _, decay = tensors[:5]
    elements, states = prod(u["sizes"]), decay["sizes"][0]
    # Of each state: times the step, times the last state, the input's product, the output's sum. Of each element: the
    # input times the step, the skip, the gate; softplus and SiLU.
    call.work.vector_operations += elements * (4 * states + 3)
    call.exponentials(elements * (states + 2))
    call.constants(tensors)


def _causal_conv(call: _Call, tensors: list[dict[str, Any]]) -> None:
    _, w, _, u = tensors[:4]
    call.work.macs["fp32"] += prod(u["sizes"]) * w["sizes"][0]
    call.exponentials(prod(u["sizes"]))
    call.constants(tensors)


def _lookup(call: _Call, tensors: list[dict[str, Any]]) -> None:
    """A row of every constant for every row of the output, the last tensor."""
    rows = prod(call.shape(tensors[-1]["sizes"])[:-1])
    for t in tensors:
        if (buffer := t.get("data_buffer_idx")) and not t.get("allocation_info"):
            call.constant(buffer, rows * _size(t) // t["sizes"][0])


def _size(tensor: dict[str, Any]) -> int:
    return prod(tensor["sizes"]) * BYTES[tensor["scalar_type"]]


NODES: dict[str, Callable[[_Call, dict[str, Any], dict[int, _Value]], None]] = {
    "FullyConnected": _fully_connected,
    "BatchMatrixMultiply": _batch_matmul,
    "Conv2d": _convolution,
    "DepthwiseConv2d": _convolution,
}
EXPONENTIALS = {"Softmax", "Sigmoid", "Gelu", "Tanh", "Exp", "ELU"}  # at least one for each element of the output
UNKNOWN_PRODUCTS = {"ScaledDotProductAttention", "ConvTranspose2d"}
OPERATORS: dict[str, Callable[[_Call, list[dict[str, Any]]], None]] = {
    "mvgpt::grouped_query_attention": _attention,
    "mvgpt::linear_4bit": _linear_4bit,
    "mvgpt::selective_scan": _selective_scan,
    "mvgpt::causal_conv1d_silu": _causal_conv,
    "aten::embedding": _lookup,
    "quantized_decomposed::embedding_byte": _lookup,
    "quantized_decomposed::embedding_4bit": _lookup,
}
# Operators outside the delegates that only pass over their arguments, by namespace, and those of it that multiply.
ELEMENTWISE = {"aten", "dim_order_ops", "executorch_prim"}
PRODUCTS = {"addmm", "baddbmm", "bmm", "convolution", "linear", "matmul", "mm"}
