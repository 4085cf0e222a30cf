"""An opt-in pass for Inductor: allreduce, residual addition, RMSNorm and FP8 or NVFP4 quantisation
of a compiled module become one call. The module is not changed.

    fusion = arbiter.inductor.Fusion(communicator)
    compiled = torch.compile(model, options={"post_grad_custom_pre_pass": fusion})
    ...                                     # after the first call:
    fusion.replaced                         # {"allreduce_residual_rmsnorm": 128}

What is found: torch.ops.arbiter.all_reduce of this communicator, or a functional collective's sum
(DTensor, compiled torch.distributed.all_reduce) over `group`; its result added to a residual, in
either order; then torch's rms_norm, or the usual formula that multiplies by the weight in fp32 or
after rounding; then, if nothing else reads the norm, division by a scale (or multiplication by its
inverse), clamping and conversion to float8_e4m3fn; the scale is given, or it is the row's largest
magnitude over 448, and no smaller than 2^-9 / 448 if it is clamped, as vLLM has it. NVFP4 is found
as the operators that compute it: vLLM's and SGLang's scaled_fp4_quant, TensorRT-LLM's fp4_quantize,
with scales in tiles or in rows. What was not prepared, or is used in between, is left as it is. The
sum is rounded once, after the residual was added, and not before: results are as close to the exact
ones as before, or closer, but not the same bits."""

import hashlib
import operator
from collections import Counter
from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Sequence, Tuple, cast

import torch
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch.fx import Graph, Node

from . import _nvfp4, _patterns
from . import torch as ops
from ._arrays import dtype_name
from .communicator import Communicator
from .errors import InvalidArgument

__all__ = ["Fusion"]

_NORM = "allreduce_residual_rmsnorm"
_aten, _functional = torch.ops.aten, torch.ops._c10d_functional
_CONVERT = torch.ops.prims.convert_element_type.default
_LARGEST = torch.finfo(torch.float8_e4m3fn).max
_SMALLEST_SCALE = 2.0**-9 / _LARGEST  # of a row: fp8_token has no smaller one


class _Norm(NamedTuple):
    """The parts that were found. `kind`: of the quantisation, as the pattern's name ends; its
    result is `quant`. `scale`: what it is given, and `inverse`: it multiplies. `scales`: what it
    computes besides. `unchanged`: nodes, and those that they are equal to. `norm` is in fp32 where
    Inductor left out the rounding, because all that reads the norm is a conversion to fp32."""

    x: Node
    collective: List[Node]  # what computes the sum, last first
    residual: Node
    total: Node
    weight: Node
    eps: float
    norm: Node
    kind: str = ""
    scale: Optional[Node] = None
    inverse: bool = False
    quant: Optional[Node] = None
    scales: Optional[Node] = None
    unchanged: Tuple[Tuple[Node, Node], ...] = ()

    def pattern(self) -> str:
        return f"{_NORM}_{self.kind}" if self.kind else _NORM


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
        texts = [Path(file).read_bytes() for file in (__file__, _nvfp4.__file__)]
        source = hashlib.sha256(b"".join(texts)).hexdigest()
        prepared = sorted(
            (key, entries[-1][0]) for key, entries in self._communicator._handles.items()
        )
        return source, self._number, self._group, tuple(prepared)

    def __call__(self, graph: Graph) -> None:
        for node in list(graph.nodes):
            found = self._norm_after(node)
            if found is None:
                continue
            for candidate in (
                _quantised(found),
                _quantised_by_row(found),
                _quantised_to_nvfp4(found),
                found,
            ):
                if candidate is not None and self._prepared(candidate.pattern(), candidate):
                    self._replace(graph, candidate, candidate.pattern())
                    self.replaced[candidate.pattern()] += 1
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
        call: Any
        with graph.inserting_before(found.total.next):
            if found.quant is None:
                call = graph.call_function(
                    torch.ops.arbiter.all_reduce_residual_rmsnorm.default,
                    (found.x, found.residual, found.weight, found.eps, 0.0, self._number),
                )
                outputs = [(found.norm, 0), (found.total, 1)]
                given = [found.total.meta["val"], found.total.meta["val"]]  # the norm is like it
            else:
                call = graph.call_function(
                    torch.ops.arbiter.all_reduce_fused.default,
                    (
                        pattern,
                        found.x,
                        found.residual,
                        found.weight,
                        _scale_in(graph, found),
                        found.eps,
                        0.0,
                        self._number,
                    ),
                )
                outputs = [(found.total, 0), (found.quant, 1)]
                given = [found.total.meta["val"], found.quant.meta["val"]]
                if found.kind != "fp8_static":
                    given.append(_scales_given(found, pattern))
                if found.scales is not None:
                    outputs.append((found.scales, 2))
            call.meta["val"] = tuple(given)
            for old, index in outputs:
                new = graph.call_function(operator.getitem, (call, index))
                new.meta["val"] = given[index]
                if old is found.scales and found.kind == "fp8_token":
                    new = graph.call_function(_aten.unsqueeze.default, (new, -1))
                elif old is found.scales:
                    new = _nvfp4.scales_as(new, old.meta["val"])
                new.meta.update(old.meta)
                if old is found.norm:
                    new.meta["val"] = given[index]
                old.replace_all_uses_with(new)
        for node, same in found.unchanged:
            node.replace_all_uses_with(same)
        last = [found.quant or found.norm, *([found.scales] if found.scales else [])]
        last += [node for node, _ in found.unchanged]
        _erase_unused(graph, [*last, found.total, *found.collective])


def _scale_in(graph: Graph, found: _Norm) -> Optional[Node]:
    if not found.inverse or found.scale is None:
        return found.scale
    scale = graph.call_function(_aten.reciprocal.default, (found.scale,))
    scale.meta["val"] = found.scale.meta["val"]
    return scale


def _scales_given(found: _Norm, pattern: str) -> Any:
    """The scales as the operator returns them."""
    total = found.total.meta["val"]
    kind, shape = _patterns.parse(pattern).scale_shape(*total.shape)
    dtype = torch.float32 if kind == "fp32" else torch.float8_e4m3fn
    return total.new_empty(shape, dtype=dtype)


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
    value = weight.meta.get("val") if isinstance(weight, Node) else None
    if not isinstance(value, torch.Tensor) or value.dtype not in (dtype, torch.float32):
        return None
    if tuple(value.shape) != (total.meta["val"].shape[-1],):
        return None
    norm, has = weighted, dtype
    if dtype is not torch.float32 and rounded is None:
        reader = _only_user(weighted, _CONVERT)
        if reader is None:
            return None
        if reader.args[1] is torch.float32:
            has = torch.float32
        else:
            norm = reader
    given = norm.meta["val"]
    if given.shape != total.meta["val"].shape or given.dtype is not has:
        return None
    return norm, weight, shifted.args[1]


def _quantised(found: _Norm) -> Optional[_Norm]:
    """FP8 of the norm with a given scale, if that is all the norm is for."""
    if found.total.meta["val"].dim() != 2 or len(found.norm.users) != 1:
        return None
    value = found.norm
    user = next(iter(value.users))
    if _is_to_fp32(user) and len(user.users) == 1:
        value, user = user, next(iter(user.users))
    if user.target not in (_aten.div.Tensor, _aten.mul.Tensor):
        return None
    inverse = user.target is _aten.mul.Tensor
    other = [argument for argument in user.args if argument is not value]
    if len(other) != 1 or not isinstance(other[0], Node):
        return None
    if not inverse and user.args[0] is not value:
        return None
    scale = other[0]
    given = scale.meta.get("val")
    if not isinstance(given, torch.Tensor) or given.dtype is not torch.float32:
        return None
    quant = _clamped_to_fp8(user)
    if given.numel() != 1 or quant is None or not _comes_before(scale, found.total):
        return None
    return found._replace(kind="fp8_static", scale=scale, inverse=inverse, quant=quant)


def _quantised_by_row(found: _Norm) -> Optional[_Norm]:
    """FP8 with a scale for every row, taken from the row itself, if that is all the norm is for."""
    if found.total.meta["val"].dim() != 2:
        return None
    readers = list(found.norm.users)
    wide = [node for node in readers if _is_to_fp32(node)]
    readers = [node for node in readers if node not in wide] + [
        reader for node in wide for reader in node.users
    ]
    magnitudes = [node for node in readers if node.target is _aten.abs.default]
    scaled = [node for node in readers if node.target is not _aten.abs.default]
    if len(magnitudes) != 1 or len(scaled) != 1:
        return None
    scale = _scale_of_row(magnitudes[0])
    if scale is None or tuple(scale.meta["val"].shape) != (found.total.meta["val"].shape[0], 1):
        return None
    values = [found.norm, *wide]
    multiplied = scaled[0]
    if multiplied.target is _aten.div.Tensor:
        right = multiplied.args[0] in values and multiplied.args[1] is scale
    elif multiplied.target is _aten.mul.Tensor:
        inverse = [node for node in multiplied.args if node not in values]
        right = (
            len(inverse) == 1
            and isinstance(inverse[0], Node)
            and inverse[0].target is _aten.reciprocal.default
            and inverse[0].args[0] is scale
            and len(inverse[0].users) == 1
        )
    else:
        return None
    if not right or multiplied.meta["val"].dtype is not torch.float32:
        return None
    quant = _clamped_to_fp8(multiplied)
    return None if quant is None else found._replace(kind="fp8_token", scales=scale, quant=quant)


def _quantised_to_nvfp4(found: _Norm) -> Optional[_Norm]:
    if found.total.meta["val"].dim() != 2:
        return None
    quantisation = _nvfp4.quantisation_of(found.norm)
    if quantisation is None or not _comes_before(quantisation.scale, found.total):
        return None
    return found._replace(**quantisation._asdict())


def _is_to_fp32(node: Node) -> bool:
    return node.target is _CONVERT and node.args[1] is torch.float32


def _scale_of_row(magnitude: Node) -> Optional[Node]:
    """From |row| to the scale, [rows, 1] in fp32."""
    peak = _only_user(magnitude, _aten.amax.default)
    if peak is not None:
        if peak.args[1:] not in (([-1], True), ([1], True)):
            return None
    else:
        both = _only_user(magnitude, _aten.max.dim)
        values = None if both is None else _only_user(both, operator.getitem)
        if both is None or both.args[1] not in (-1, 1) or values is None or values.args[1] != 0:
            return None
        kept = len(both.args) > 2 and both.args[2] is True
        peak = values if kept else _only_user(values, _aten.unsqueeze.default)
        if peak is None or (not kept and peak.args[1] not in (-1, 1)):
            return None
    if peak.meta["val"].dtype is not torch.float32:
        peak = _only_user(peak, _CONVERT)
        if peak is None or peak.args[1] is not torch.float32:
            return None
    scale = _only_user(peak, _aten.div.Tensor) or _only_user(peak, _aten.mul.Tensor)
    if scale is None or scale.args[0] is not peak or not isinstance(scale.args[1], (int, float)):
        return None
    factor = scale.args[1] if scale.target is _aten.mul.Tensor else 1 / scale.args[1]
    if abs(factor * _LARGEST - 1) > 1e-6:
        return None
    clamped = _only_user(scale, _aten.clamp_min.default)
    if clamped is None:
        return scale
    least = clamped.args[1]
    small_enough = isinstance(least, float) and 0 <= least <= _SMALLEST_SCALE * (1 + 1e-6)
    return clamped if small_enough else None


def _clamped_to_fp8(node: Node) -> Optional[Node]:
    """The conversion to e4m3 behind a node, if the values are clamped and go nowhere else."""
    clamped = 0
    while len(node.users) == 1:
        user = next(iter(node.users))
        if user.target is _aten.clamp_min.default and user.args[1] == -_LARGEST:
            clamped += 1
        elif user.target is _aten.clamp_max.default and user.args[1] == _LARGEST:
            clamped += 1
        elif user.target is _aten.clamp.default and user.args[1:] == (-_LARGEST, _LARGEST):
            clamped += 2
        elif user.target is _CONVERT and user.args[1] is torch.float8_e4m3fn and clamped == 2:
            return user
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
