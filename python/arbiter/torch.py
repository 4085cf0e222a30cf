"""PyTorch operators: for torch.compile(fullgraph=True), and wherever an operator is wanted instead
of a method.

A communicator is named by a number that is a constant of the compiled graph:
`number(communicator)`. Ranks must register their communicators in the same order. Families must be
prepared before the first call, as always.

    arbiter::all_reduce(x, communicator) -> sum
    arbiter::all_reduce_(x!, communicator) -> ()
    arbiter::all_reduce_residual_rmsnorm(
        x, residual, gamma, eps, weight_bias, communicator) -> (norm, residual)
    arbiter::all_reduce_residual_rmsnorm_out(
        x, residual!, gamma, norm_out!, eps, weight_bias, communicator) -> ()
    arbiter::all_reduce_fused(
        pattern, x, residual, gamma, scale_in, eps, weight_bias, communicator) -> results, in the
        order output, residual_out, norm_out, quant_out, scale_out, of those that
        all_reduce_fused() writes
"""

import weakref
from typing import Any, List, Optional, Tuple

import torch

from . import _patterns
from .communicator import Communicator
from .errors import InvalidArgument

__all__ = [
    "all_reduce",
    "all_reduce_",
    "all_reduce_fused",
    "all_reduce_residual_rmsnorm",
    "all_reduce_residual_rmsnorm_out",
    "number",
]

_communicators: "weakref.WeakValueDictionary[int, Communicator]" = weakref.WeakValueDictionary()


def number(communicator: Communicator) -> int:
    """The number that the operators know it by; the same every time."""
    known: Optional[int] = getattr(communicator, "_torch_number", None)
    if known is None:
        known = number._next  # type: ignore[attr-defined]
        number._next += 1  # type: ignore[attr-defined]
        communicator._torch_number = known  # type: ignore[attr-defined]
        _communicators[known] = communicator
    return known


number._next = 0  # type: ignore[attr-defined]


def _of(given: int) -> Communicator:
    found = _communicators.get(given)
    if found is None:
        raise InvalidArgument(
            f"communicator {given} does not exist (any more); expected"
            " arbiter.torch.number(communicator)"
        )
    return found


def _all_reduce(x: torch.Tensor, communicator: int) -> torch.Tensor:
    return _of(communicator).all_reduce(x)


def _all_reduce_(x: torch.Tensor, communicator: int) -> None:
    _of(communicator).all_reduce(x, out=x)


def _residual_rmsnorm(
    x: torch.Tensor,
    residual: torch.Tensor,
    gamma: torch.Tensor,
    eps: float,
    weight_bias: float,
    communicator: int,
) -> Tuple[torch.Tensor, torch.Tensor]:
    done = _of(communicator).all_reduce_fused(
        x, residual=residual, gamma=gamma, eps=eps, weight_bias=weight_bias
    )
    return done.norm_out, done.residual_out


def _residual_rmsnorm_out(
    x: torch.Tensor,
    residual: torch.Tensor,
    gamma: torch.Tensor,
    norm_out: torch.Tensor,
    eps: float,
    weight_bias: float,
    communicator: int,
) -> None:
    _of(communicator).all_reduce_fused(
        x,
        residual=residual,
        gamma=gamma,
        eps=eps,
        weight_bias=weight_bias,
        residual_out=residual,
        norm_out=norm_out,
    )


def _fused(
    pattern: str,
    x: torch.Tensor,
    residual: Optional[torch.Tensor],
    gamma: Optional[torch.Tensor],
    scale_in: Optional[torch.Tensor],
    eps: float,
    weight_bias: float,
    communicator: int,
) -> List[torch.Tensor]:
    done = _of(communicator).all_reduce_fused(
        x,
        pattern=pattern,
        residual=residual,
        gamma=gamma,
        scale_in=scale_in,
        eps=eps,
        weight_bias=weight_bias,
    )
    return [result for result in done if result is not None]


def _fused_fake(
    pattern: str,
    x: torch.Tensor,
    residual: Any,
    gamma: Any,
    scale_in: Any,
    eps: float,
    weight_bias: float,
    communicator: int,
) -> List[torch.Tensor]:
    parts = _patterns.parse(pattern)
    if parts.moe:
        raise InvalidArgument(
            f"'{pattern}' is not served by the operator; call Communicator.all_reduce_fused"
        )
    hidden = x.shape[-1]
    tokens = x.numel() // hidden
    results = []
    for name, required in parts.writes.items():
        if name == "quant_out":
            kind = torch.uint8 if parts.quantisation.startswith("nvfp4") else torch.float8_e4m3fn
            results.append(x.new_empty(parts.quant_shape(tokens, hidden), dtype=kind))
        elif name == "scale_out":
            scale, shape = parts.scale_shape(tokens, hidden)
            kinds = {"fp32": torch.float32, "int32": torch.int32, "e4m3": torch.float8_e4m3fn}
            results.append(x.new_empty(shape, dtype=kinds[scale]))
        elif required or name == "residual_out":
            results.append(torch.empty_like(x))
    return results


_TAIL = "float eps, float weight_bias, int communicator"
_library = torch.library.Library("arbiter", "DEF")


def _define(schema: str, run: Any, fake: Any) -> None:
    name = schema.split("(", 1)[0]
    tags = (torch.Tag.needs_fixed_stride_order, torch.Tag.pt2_compliant_tag)
    _library.define(schema, tags=tags)
    for device in ("CUDA", "CPU"):
        _library.impl(name, run, device)
    register = getattr(torch.library, "register_fake", None) or torch.library.impl_abstract
    register(f"arbiter::{name}", fake, lib=_library)


_define(
    "all_reduce(Tensor x, int communicator) -> Tensor",
    _all_reduce,
    lambda x, communicator: torch.empty_like(x),
)
_define(
    "all_reduce_(Tensor(a!) x, int communicator) -> ()", _all_reduce_, lambda x, communicator: None
)
_define(
    f"all_reduce_residual_rmsnorm(Tensor x, Tensor residual, Tensor gamma, {_TAIL}) -> (Tensor,"
    " Tensor)",
    _residual_rmsnorm,
    lambda x, residual, *_: (torch.empty_like(x), torch.empty_like(residual)),
)
_define(
    "all_reduce_residual_rmsnorm_out(Tensor x, Tensor(a!) residual, Tensor gamma, Tensor(b!)"
    f" norm_out, {_TAIL}) -> ()",
    _residual_rmsnorm_out,
    lambda *_: None,
)
_define(
    "all_reduce_fused(str pattern, Tensor x, Tensor? residual, Tensor? gamma, Tensor? scale_in,"
    f" {_TAIL}) -> Tensor[]",
    _fused,
    _fused_fake,
)

_ops = torch.ops.arbiter
all_reduce = _ops.all_reduce
all_reduce_ = _ops.all_reduce_
all_reduce_residual_rmsnorm = _ops.all_reduce_residual_rmsnorm
all_reduce_residual_rmsnorm_out = _ops.all_reduce_residual_rmsnorm_out
all_reduce_fused = _ops.all_reduce_fused
