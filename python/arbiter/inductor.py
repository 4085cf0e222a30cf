"""An opt-in pass for Inductor: allreduce, residual addition, RMSNorm and FP8 quantisation of a
compiled module become one call. The module is not changed.

    fusion = arbiter.inductor.Fusion(communicator)
    compiled = torch.compile(model, options={"post_grad_custom_pre_pass": fusion})
    ...                                     # after the first call:
    fusion.replaced                         # {"allreduce_residual_rmsnorm": 128}

What is found: torch.ops.arbiter.all_reduce of this communicator, or a functional collective's sum
(DTensor, compiled torch.distributed.all_reduce) over `group`; its result added to a residual, in
either order; then torch's rms_norm, or the usual formula that multiplies by the weight in fp32 or
after rounding; then, if nothing else reads the norm, division by a scale (or multiplication by its
inverse), clamping and conversion to float8_e4m3fn. What was not prepared, or is used in between, is
left as it is. The sum is rounded once, after the residual was added, and not before: results are as
close to the exact ones as before, or closer, but not the same bits."""

import hashlib
import operator
from collections import Counter
from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Sequence, cast

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch.fx import Graph, Node

from . import torch as ops
from ._arrays import dtype_name
from .communicator import Communicator
from .errors import InvalidArgument

__all__ = ["Fusion"]

_NORM = "allreduce_residual_rmsnorm"
_FP8 = f"{_NORM}_fp8_static"
_aten, _functional = torch.ops.aten, torch.ops._c10d_functional
_CONVERT = torch.ops.prims.convert_element_type.default
_LARGEST = torch.finfo(torch.float8_e4m3fn).max


class _Norm(NamedTuple):
    """The parts that were found. `scale`: of the quantisation, whose result is `quant`; `inverse`:
    it multiplies."""

    x: Node
    collective: List[Node]  # what computes the sum, last first
    residual: Node
    total: Node
    weight: Node
    eps: float
    norm: Node
    scale: Optional[Node] = None
    inverse: bool = False
    quant: Optional[Node] = None


class Fusion(CustomGraphPass):
    """`group`: the process group whose functional collectives are meant; None: only Arbiter's
    operator is. `replaced` counts, by pattern, what was replaced in this process: a program from
    Inductor's cache counts nothing. Ranks must compile the same program. Prepare the patterns, up
    to the largest number of rows, before compiling."""

    def __init__(self, communicator: Communicator, group: Any = None) -> None:
        if group is not None and group.size() != communicator.size:
            raise InvalidArgument(
                f"the group has {group.size()} ranks, and the communicator {communicator.size}"
            )
        self._communicator = communicator
        self._number = ops.number(communicator)
        self._group = None if group is None else group.group_name
        self.replaced: "Counter[str]" = Counter()

    def uuid(self) -> Any:
        """What the rewritten program depends on, for Inductor's cache."""
        source = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
        prepared = sorted(
            (key, entries[-1][0]) for key, entries in self._communicator._handles.items()
        )
        return source, self._number, self._group, tuple(prepared)

    def __call__(self, graph: Graph) -> None:
        for node in list(graph.nodes):
            found = self._norm_after(node)
            if found is None:
                continue
            quantised = _quantised(found)
            for candidate, pattern in ((quantised, _FP8), (found, _NORM)):
                if candidate is not None and self._prepared(pattern, candidate):
                    self._replace(graph, candidate, pattern)
                    self.replaced[pattern] += 1
                    break
        graph.lint()

    # ---- Finding ---------------------------------------------------------------------------------

    def _norm_after(self, node: Node) -> Optional[_Norm]:
        """Around an addition of a sum over the ranks and a residual."""
        if node.target is not _aten.add.Tensor or len(node.args) != 2 or node.kwargs:
            return None
        one, other = node.args
        for summed, residual in ((one, other), (other, one)):
            collective = self._collective(summed)
            if collective is None or not (isinstance(summed, Node) and isinstance(residual, Node)):
                continue
            if len(summed.users) != 1:
                continue
            x = collective[-1].args[0]
            if (
                _like(residual, summed)
                and _like(node, summed)
                and isinstance(x, Node)
                and _like(x, summed)
            ):
                return _norm_of(x, collective, residual, node)
        return None

    def _collective(self, node: Any) -> Optional[List[Node]]:
        if not isinstance(node, Node):
            return None
        if node.target is torch.ops.arbiter.all_reduce.default and node.args[1] == self._number:
            return [node]
        if self._group is None or node.target is not _functional.wait_tensor.default:
            return None
        started = node.args[0]
        if not isinstance(started, Node) or started.target is not _functional.all_reduce.default:
            return None
        return (
            [node, started]
            if started.args[1:] == ("sum", self._group) and len(started.users) == 1
            else None
        )

    def _prepared(self, pattern: str, found: _Norm) -> bool:
        value = found.total.meta["val"]
        rows = value.numel() // value.shape[-1]
        rows = rows if isinstance(rows, int) else 1
        return self._communicator.prepared(
            pattern, dtype_name(value.dtype), int(value.shape[-1]), rows
        )

    # ---- Replacing -------------------------------------------------------------------------------

    def _replace(self, graph: Graph, found: _Norm, pattern: str) -> None:
        arguments: Any
        with graph.inserting_before(found.total.next):
            if found.scale is None or found.quant is None:
                arguments = (found.x, found.residual, found.weight, found.eps, 0.0, self._number)
                call = graph.call_function(
                    torch.ops.arbiter.all_reduce_residual_rmsnorm.default, arguments
                )
                outputs = [(found.norm, 0), (found.total, 1)]
            else:
                scale = found.scale
                if found.inverse:
                    scale = graph.call_function(_aten.reciprocal.default, (scale,))
                    scale.meta["val"] = found.scale.meta["val"]
                arguments = (
                    pattern,
                    found.x,
                    found.residual,
                    found.weight,
                    scale,
                    found.eps,
                    0.0,
                    self._number,
                )
                call = graph.call_function(torch.ops.arbiter.all_reduce_fused.default, arguments)
                outputs = [(found.total, 0), (found.quant, 1)]
            call.meta["val"] = tuple(
                old.meta["val"] for old, _ in sorted(outputs, key=lambda pair: pair[1])
            )
            for old, index in outputs:
                new = graph.call_function(operator.getitem, (call, index))
                new.meta.update(old.meta)
                old.replace_all_uses_with(new)
        _erase_unused(graph, [found.quant or found.norm, found.total, *found.collective])


def _like(one: Any, other: Node) -> bool:
    """Same shape and dtype?"""
    a, b = one.meta.get("val"), other.meta.get("val")
    return (
        isinstance(a, torch.Tensor)
        and isinstance(b, torch.Tensor)
        and a.dtype is b.dtype
        and a.shape == b.shape
    )


def _only_user(node: Node, target: Any) -> Optional[Node]:
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].target is target else None


def _norm_of(x: Node, collective: List[Node], residual: Node, total: Node) -> Optional[_Norm]:
    """RMSNorm of `total`, whoever else reads that."""
    dtype = total.meta["val"].dtype
    wide = [total] if dtype is torch.float32 else [u for u in total.users if u.target is _CONVERT]
    for start in wide:
        if start is not total and start.args[1] is not torch.float32:
            continue
        for power in start.users:
            if power.target is not _aten.pow.Tensor_Scalar or power.args[1] != 2:
                continue
            found = _after_power(start, power, total)
            if found is not None:
                norm, weight, eps = found
                if _comes_before(weight, total):
                    return _Norm(x, collective, residual, total, weight, eps, norm)
    return None


def _after_power(start: Node, power: Node, total: Node) -> Any:
    """(norm, weight, eps) behind start ** 2."""
    mean = _only_user(power, _aten.mean.dim)
    last = total.meta["val"].dim() - 1
    if (
        mean is None
        or list(cast(Sequence[int], mean.args[1])) not in ([-1], [last])
        or len(mean.args) < 3
        or mean.args[2] is not True
    ):
        return None
    shifted = _only_user(mean, _aten.add.Tensor) or _only_user(mean, _aten.add.Scalar)
    if shifted is None or not isinstance(shifted.args[1], float):
        return None
    root = _only_user(shifted, _aten.rsqrt.default)
    scaled = None if root is None else _only_user(root, _aten.mul.Tensor)
    if root is None or scaled is None or set(scaled.args) != {start, root}:
        return None
    dtype = total.meta["val"].dtype
    rounded = None if dtype is torch.float32 else _only_user(scaled, _CONVERT)
    weighted = _only_user(scaled if rounded is None else rounded, _aten.mul.Tensor)
    if weighted is None:
        return None
    before = scaled if rounded is None else rounded
    weight = next((other for other in weighted.args if other is not before), None)
    if not isinstance(weight, Node):
        return None
    if weight.target is _CONVERT and weight.args[1] is torch.float32:
        weight = weight.args[0]
    norm: Optional[Node] = weighted
    if dtype is not torch.float32 and rounded is None:
        norm = _only_user(weighted, _CONVERT)
    value = weight.meta.get("val") if isinstance(weight, Node) else None
    if norm is None or not _like(norm, total) or not isinstance(value, torch.Tensor):
        return None
    if value.dtype not in (dtype, torch.float32) or tuple(value.shape) != (
        total.meta["val"].shape[-1],
    ):
        return None
    return norm, weight, shifted.args[1]


def _quantised(found: _Norm) -> Optional[_Norm]:
    """Static FP8 of the norm, if that is all the norm is for."""
    node: Optional[Node] = found.norm
    scale, inverse, clamped = None, False, 0
    while node is not None:
        users = list(node.users)
        if len(users) != 1:
            return None
        user = users[0]
        if user.target is _CONVERT and user.args[1] is torch.float32 and scale is None:
            pass
        elif user.target in (_aten.div.Tensor, _aten.mul.Tensor) and scale is None:
            other = [argument for argument in user.args if argument is not node]
            inverse = user.target is _aten.mul.Tensor
            if (
                len(other) != 1
                or not isinstance(other[0], Node)
                or (not inverse and user.args[0] is not node)
            ):
                return None
            scale = other[0]
            value = scale.meta.get("val")
            if (
                not isinstance(value, torch.Tensor)
                or value.dtype is not torch.float32
                or value.numel() != 1
            ):
                return None
        elif user.target is _aten.clamp_min.default and user.args[1] == -_LARGEST:
            clamped += 1
        elif user.target is _aten.clamp_max.default and user.args[1] == _LARGEST:
            clamped += 1
        elif user.target is _aten.clamp.default and user.args[1:] == (-_LARGEST, _LARGEST):
            clamped += 2
        elif user.target is _CONVERT and user.args[1] is torch.float8_e4m3fn:
            if scale is None or clamped != 2 or found.total.meta["val"].dim() != 2:
                return None
            return (
                found._replace(scale=scale, inverse=inverse, quant=user)
                if _comes_before(scale, found.total)
                else None
            )
        else:
            return None
        node = user
    return None


def _comes_before(node: Node, other: Node) -> bool:
    return node.op in ("placeholder", "get_attr") or node < other


def _erase_unused(graph: Graph, nodes: List[Node]) -> None:
    """These, and what only they read; collectives too, which PyTorch's own dead code elimination
    leaves."""
    waiting = list(nodes)
    while waiting:
        node = waiting.pop(0)
        if node.users or node.op != "call_function" or getattr(node, "_erased", False):
            continue
        waiting += [argument for argument in node.all_input_nodes if argument not in waiting]
        graph.erase_node(node)
