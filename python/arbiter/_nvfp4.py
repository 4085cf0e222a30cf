"""NVFP4 quantisation in a graph: the operators of vLLM, SGLang and TensorRT-LLM, called as they are
or, where they write into tensors that they are given, as torch.compile wraps them."""

import operator
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import torch
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from . import _patterns

_OPERATORS = ("_C::scaled_fp4_quant", "sgl_kernel::scaled_fp4_quant", "trtllm::fp4_quantize")
_WRAPPERS = torch.ops.higher_order.auto_functionalized, getattr(
    torch.ops.higher_order, "auto_functionalized_v2", None
)
_VIEWS = torch.ops.aten.view.default, torch.ops.aten.reshape.default
_GROUP = 16


class Quantisation(NamedTuple):
    """`kind`: the end of the pattern's name; `scale`: the global one; `quant` and `scales`: what
    the program reads. `unchanged`: nodes that stand for an argument that is said to be written, and
    is not."""

    kind: str
    scale: Node
    quant: Node
    scales: Optional[Node]
    unchanged: Tuple[Tuple[Node, Node], ...]


def quantisation_of(norm: Node) -> Optional[Quantisation]:
    """Of `norm`, [rows, hidden], if that is all it is for."""
    value = norm
    while len(value.users) == 1:
        call = next(iter(value.users))
        if call.target not in _VIEWS or not _shaped(call, norm.meta["val"].shape):
            break
        value = call
    if len(value.users) != 1:
        return None
    call = next(iter(value.users))
    named = _called(call)
    if named is None:
        return None
    arguments, results = named
    swizzled = arguments.get("is_sf_swizzled_layout", arguments.get("isSfSwizzledLayout", True))
    scale = arguments.get("input_scale", arguments.get("globalScale"))
    if (
        arguments.get("input") is not value
        or not isinstance(scale, Node)
        or not isinstance(swizzled, bool)
        or arguments.get("sfVecSize", _GROUP) != _GROUP
        or arguments.get("sfUseUE8M0", False) is not False
    ):
        return None
    given = scale.meta.get("val")
    if not isinstance(given, torch.Tensor) or given.dtype is not torch.float32:
        return None
    if given.numel() != 1:
        return None
    read = _read(call, results, arguments)
    if read is None or "output" not in read[0]:
        return None
    outputs, unchanged = read
    kind = "nvfp4_128x4" if swizzled else "nvfp4_linear"
    found = Quantisation(kind, scale, outputs["output"], outputs.get("output_scale"), unchanged)
    return found if _fits(found, norm) else None


def scales_as(node: Node, wanted: torch.Tensor) -> Node:
    """The scales that Arbiter gives, e4m3 [rows, columns] with all padding, as the program has
    them."""
    value = node.meta["val"]
    graph = node.graph
    if wanted.dtype is not value.dtype:
        node = graph.call_function(torch.ops.aten.view.dtype, (node, wanted.dtype))
        node.meta["val"] = value = value.view(wanted.dtype)
    if wanted.dim() != value.dim():
        node = graph.call_function(torch.ops.aten.view.default, (node, list(wanted.shape)))
        node.meta["val"] = value.view(wanted.shape)
    return node


def _called(node: Node) -> Optional[Tuple[Dict[str, Any], Dict[str, int]]]:
    """The arguments of such an operator by name, and which of the node's results is what."""
    target: Any = node.target
    wrapper = target if target in _WRAPPERS and target is not None else None
    if wrapper is not None:
        target = node.args[0]
    if not isinstance(target, torch._ops.OpOverload) or target._schema.name not in _OPERATORS:
        return None
    schema = target._schema
    written = [
        argument.name
        for argument in schema.arguments
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    arguments = {
        argument.name: argument.default_value
        for argument in schema.arguments
        if argument.has_default_value()
    }
    if wrapper is None:
        if written or len(schema.returns) != 2:
            return None
        arguments.update(zip((argument.name for argument in schema.arguments), node.args))
        arguments.update(node.kwargs)
        return arguments, {"output": 0, "output_scale": 1}
    first = max(1, len(schema.returns))
    arguments.update(node.kwargs)
    if wrapper is _WRAPPERS[0]:
        return arguments, {name: first + place for place, name in enumerate(written)}
    bases: Any = arguments["_all_bases"]
    results: Dict[str, int] = {}
    for name in written:
        base = arguments.get(f"_{name}_base_index")
        views = {key for key in node.kwargs if key.startswith((f"_{name}_slice", f"_{name}_si"))}
        views |= {key for key in node.kwargs if key == f"_{name}_storage_offset"}
        if not isinstance(base, int) or views or first + base in results.values():
            return None
        arguments[name] = bases[base]
        results[name] = first + base
    return arguments, results


def _read(
    call: Node, results: Dict[str, int], arguments: Dict[str, Any]
) -> Optional[Tuple[Dict[str, Node], Tuple[Tuple[Node, Node], ...]]]:
    """What of the results is read, by name."""
    names = {place: name for name, place in results.items()}
    outputs: Dict[str, Node] = {}
    unchanged: List[Tuple[Node, Node]] = []
    for user in call.users:
        if user.target is not operator.getitem:
            return None
        name = names.get(int(user.args[1]))  # type: ignore[arg-type]
        if name in ("output", "output_scale") and name not in outputs:
            outputs[name] = user
        elif name == "input_scale":
            unchanged.append((user, arguments[name]))
        elif user.users:
            return None
    return outputs, tuple(unchanged)


def _fits(found: Quantisation, norm: Node) -> bool:
    """Are the tensors as long as Arbiter's?"""
    rows, hidden = norm.meta["val"].shape
    if not isinstance(hidden, int) or hidden % _GROUP != 0:
        return False
    parts = _patterns.parse(f"allreduce_residual_rmsnorm_{found.kind}")
    quant = found.quant.meta["val"]
    if quant.dtype is not torch.uint8 or not _shaped(found.quant, parts.quant_shape(rows, hidden)):
        return False
    if found.scales is None:
        return True
    scales = found.scales.meta["val"]
    _, (high, wide) = parts.scale_shape(rows, hidden)
    if scales.dim() == 2:
        return _equal(scales.shape[0], high) and _equal(scales.shape[1] * scales.itemsize, wide)
    return (
        scales.dim() == 1
        and isinstance(high, int)
        and _equal(scales.shape[0] * scales.itemsize, high * wide)
    )


def _shaped(node: Node, shape: Any) -> bool:
    value = node.meta.get("val")
    return (
        isinstance(value, torch.Tensor)
        and value.dim() == len(shape)
        and all(_equal(one, other) for one, other in zip(value.shape, shape))
    )


def _equal(one: Any, other: Any) -> bool:
    return bool(statically_known_true(one == other))
