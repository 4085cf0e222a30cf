"""Calls of any pattern: which tensors it needs, what they must look like, and where results go."""

import ctypes
from typing import TYPE_CHECKING, Any, Dict, Optional, Tuple

from . import _abi, _arrays, _patterns
from ._result import Fused
from .errors import InvalidArgument

if TYPE_CHECKING:
    from .communicator import Communicator

_SAME = {("output", "x"), ("residual_out", "residual")}


def run(
    communicator: "Communicator",
    x: Any,
    pattern: str,
    stream: Any,
    mode: Optional[str],
    *,
    residual: Any = None,
    gamma: Any = None,
    eps: float = 1e-6,
    weight_bias: float = 0.0,
    scale_in: Any = None,
    moe_weights: Any = None,
    moe_row_map: Any = None,
    moe_shared: Any = None,
    output: Any = None,
    residual_out: Any = None,
    norm_out: Any = None,
    quant_out: Any = None,
    scale_out: Any = None,
) -> Fused:
    parts = _patterns.parse(pattern)
    source = _arrays.view(x, "x")
    if source.dtype not in _arrays.CODES:
        raise InvalidArgument(f"x holds {source.dtype}; expected bf16, fp16 or fp32")
    if len(source.shape) < 1:
        raise InvalidArgument("x has no dimensions; expected rows [..., hidden]")
    hidden = source.shape[-1]
    tokens, shape = _rows(parts, source, moe_row_map)

    given = {
        "residual": residual,
        "gamma": gamma,
        "scale_in": scale_in,
        "moe_weights": moe_weights,
        "moe_row_map": moe_row_map,
        "moe_shared": moe_shared,
    }
    reads = {"x": source, **_reads(parts, given, source, tokens, hidden)}
    places = {
        "output": output,
        "residual_out": residual_out,
        "norm_out": norm_out,
        "quant_out": quant_out,
        "scale_out": scale_out,
    }
    results = _places(parts, places, x, shape, tokens, hidden)
    writes = {
        name: _arrays.view(array, name, strided=name == "scale_out")
        for name, array in results.items()
    }
    _check_written(parts, writes, source, tokens, hidden)

    handle = communicator._handle(pattern, source.dtype, hidden, tokens, mode)
    communicator._open()
    tensors = _abi.Tensors(ctypes.sizeof(_abi.Tensors))
    tensors.epsilon = eps
    tensors.weight_bias = weight_bias
    tensors.gamma_fp32 = int(
        "gamma" in reads and reads["gamma"].dtype == "fp32" and source.dtype != "fp32"
    )
    tensors.moe_weights_fp32 = int(
        "moe_weights" not in reads or reads["moe_weights"].dtype == "fp32"
    )
    if "scale_out" in writes:
        tensors.scale_out_bytes = writes["scale_out"].room
    if parts.moe == "moe_reduce":
        tensors.moe_experts = source.shape[0]
    elif parts.moe == "moe_finalize":
        tensors.moe_top_k = reads["moe_row_map"].shape[1]
        tensors.moe_rows = source.shape[0]

    if communicator._staging is not None:
        with communicator._staging.call(reads, writes, _SAME) as at:
            _point(tensors, at)
            communicator._require(
                communicator._library.arbiter_run(handle, ctypes.byref(tensors), tokens, None)
            )
    else:
        for name, seen in {**reads, **writes}.items():
            communicator._on_this_gpu(seen, name)
        communicator._make_quick(x)
        _point(tensors, {name: seen.pointer for name, seen in {**reads, **writes}.items()})
        communicator._require(
            communicator._library.arbiter_run(
                handle, ctypes.byref(tensors), tokens, communicator._stream(x, stream)
            )
        )
    return Fused(**results)


def _point(tensors: _abi.Tensors, at: Dict[str, int]) -> None:
    names = {"x": "input", "residual": "residual_in"}
    for name, pointer in at.items():
        setattr(tensors, names.get(name, name), pointer)


def _rows(
    parts: _patterns.Pattern, source: _arrays.View, row_map: Any
) -> Tuple[int, Tuple[int, ...]]:
    """How many rows there are, and the shape of results."""
    if parts.moe == "moe_reduce":
        if len(source.shape) != 3:
            raise InvalidArgument(
                f"x has shape {source.shape}; '{parts.name}' expects [experts, tokens, hidden]"
            )
        return source.shape[1], source.shape[1:]
    if parts.moe == "moe_finalize":
        if len(source.shape) != 2 or row_map is None or len(row_map.shape) != 2:
            raise InvalidArgument(
                f"'{parts.name}' expects x [rows, hidden] and moe_row_map [tokens, top_k] (int32)"
            )
        return row_map.shape[0], (row_map.shape[0], source.shape[1])
    hidden = source.shape[-1]
    return (source.elements // hidden if hidden else 0), source.shape


def _reads(
    parts: _patterns.Pattern, given: Dict[str, Any], source: _arrays.View, tokens: int, hidden: int
) -> Dict[str, _arrays.View]:
    needed = {
        "residual": parts.residual,
        "gamma": parts.norm,
        "scale_in": parts.needs_scale,
        "moe_weights": bool(parts.moe),
        "moe_row_map": parts.moe == "moe_finalize",
    }
    seen = {}
    for name, array in given.items():
        if array is None:
            if needed.get(name):
                raise InvalidArgument(f"'{parts.name}' needs {name}")
            continue
        if not needed.get(name, bool(parts.moe)):
            raise InvalidArgument(
                f"'{parts.name}' has no use for {name}; leave it out or choose another pattern"
            )
        seen[name] = _arrays.view(array, name)
    both = (source.dtype, "fp32")
    weights = (
        source.shape[0] * tokens
        if parts.moe == "moe_reduce"
        else (tokens * given["moe_row_map"].shape[1] if parts.moe else 0)
    )
    expected: Dict[str, Tuple[Tuple[str, ...], int, str]] = {
        "residual": ((source.dtype,), tokens * hidden, "[tokens, hidden]"),
        "gamma": (both, hidden, "[hidden]"),
        "scale_in": (("fp32",), 1, "one number"),
        "moe_weights": (
            both,
            weights,
            "[experts, tokens]" if parts.moe == "moe_reduce" else "[tokens, top_k]",
        ),
        "moe_row_map": (("int32",), weights, "[tokens, top_k]"),
        "moe_shared": ((source.dtype,), tokens * hidden, "[tokens, hidden]"),
    }
    for name, array in seen.items():
        dtypes, elements, words = expected[name]
        if array.dtype not in dtypes or array.elements != elements:
            raise InvalidArgument(
                f"{name} is {array.dtype} {array.shape}; expected"
                f" {' or '.join(dict.fromkeys(dtypes))}, {words}, with {tokens} tokens and hidden"
                f" size {hidden}"
            )
    return seen


def _places(
    parts: _patterns.Pattern,
    places: Dict[str, Any],
    x: Any,
    shape: Tuple[int, ...],
    tokens: int,
    hidden: int,
) -> Dict[str, Any]:
    """The arrays to write to: given ones, and new ones where they are needed or asked for."""
    writes = parts.writes
    results = {}
    for name, place in places.items():
        if name not in writes:
            if place is not None and place is not False:
                raise InvalidArgument(
                    f"'{parts.name}' does not write {name}; it writes {', '.join(writes)}"
                )
            continue
        if place is None or place is True:
            if place is None and not writes[name] and name != "residual_out":
                continue
            if name == "quant_out":
                place = _arrays.empty(
                    x,
                    parts.quant_shape(tokens, hidden),
                    "uint8" if parts.quantisation.startswith("nvfp4") else "e4m3",
                )
            elif name == "scale_out":
                kind, extent = parts.scale_shape(tokens, hidden)
                place = _arrays.empty(x, extent, kind)
            else:
                place = _arrays.empty(x, shape)
        elif place is False:
            if writes[name]:
                raise InvalidArgument(f"'{parts.name}' cannot do without {name}")
            continue
        results[name] = place
    return results


def _check_written(
    parts: _patterns.Pattern,
    writes: Dict[str, _arrays.View],
    source: _arrays.View,
    tokens: int,
    hidden: int,
) -> None:
    for name, seen in writes.items():
        if name == "quant_out":
            rows, columns = parts.quant_shape(tokens, hidden)
            if seen.bytes != rows * columns:
                raise InvalidArgument(
                    f"quant_out has {seen.bytes} bytes; expected [{rows}, {columns}] of one byte"
                )
        elif name != "scale_out" and (
            seen.dtype != source.dtype or seen.elements != tokens * hidden
        ):
            raise InvalidArgument(
                f"{name} is {seen.dtype} {seen.shape}; expected {source.dtype} [{tokens}, {hidden}]"
            )
