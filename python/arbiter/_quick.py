"""The short way for PyTorch's CUDA tensors: what a call costs the host beside its launch.
(_objects.py is shorter, where there is what it needs.)

It serves the calls that it knows and gives None for all others, wrong ones too: those go the long
way (communicator.py, _fused.py), which says what is wrong. So every test here must be at least as
strict as there."""

import ctypes
from typing import Any, Dict, List, Optional, Tuple

import torch

from . import _abi, _objects, _patterns
from ._objects import PLAIN_TENSORS
from ._result import Fused

_CODES = {torch.bfloat16: _abi.BF16, torch.float16: _abi.FP16, torch.float32: _abi.FP32}
_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}

# The methods themselves: looking them up in the tensor takes as long as calling them.
_address = torch.Tensor.data_ptr
_contiguous = torch.Tensor.is_contiguous
_elements = torch.Tensor.numel
_gpu = torch.Tensor.get_device  # -1: not on a GPU
_empty_like = torch.empty_like
_grad_enabled = torch.is_grad_enabled

# Where a member of arbiter_tensors lies, counted in its words of 8 bytes.
_INPUT, _RESIDUAL_IN, _RESIDUAL_OUT, _GAMMA, _NORM_OUT = (
    getattr(_abi.Tensors, name).offset // 8
    for name in ("input", "residual_in", "residual_out", "gamma", "norm_out")
)


class _Plan:
    """What stays the same between calls of one pattern, dtype and hidden size. `handles`: the
    communicator's own list of (max_tokens, mode, handle), which grows when more is prepared."""

    __slots__ = (
        "eps",
        "gamma_dtype",
        "handles",
        "hidden",
        "norm",
        "place",
        "residual",
        "tensors",
        "weight_bias",
        "words",
    )

    def __init__(
        self, parts: _patterns.Pattern, hidden: int, handles: List[Tuple[int, str, Any]]
    ) -> None:
        self.residual, self.norm = parts.residual, parts.norm
        self.hidden, self.handles = hidden, handles
        memory = bytearray(ctypes.sizeof(_abi.Tensors))
        self.tensors = _abi.Tensors.from_buffer(memory)
        self.tensors.struct_size = len(memory)
        self.tensors.moe_weights_fp32 = 1
        self.place = ctypes.byref(self.tensors)
        self.words = memoryview(memory).cast("Q")  # quicker than the members
        self.eps = self.weight_bias = 0.0
        self.gamma_dtype: Any = None


class Quick:
    """Of one communicator on a GPU, until it is closed. Not for several threads, as the
    communicator."""

    def __init__(self, communicator: Any) -> None:
        self._ordinal: int = communicator.ordinal
        self._pointer = communicator._pointer
        self._handles = communicator._handles
        self._require = communicator._require
        self._all_reduce = communicator._library.arbiter_all_reduce
        self._run = communicator._library.arbiter_run
        self._stream: Any = getattr(torch._C, "_cuda_getCurrentRawStream", None)
        self._plans: Dict[Tuple[str, torch.dtype, int], Optional[_Plan]] = {}

    def forget(self) -> None:
        """More was prepared: plans hold the communicator's own lists, which have grown."""

    def all_reduce(self, x: Any, out: Any, stream: Any) -> Any:
        """The sum, or None: not a case for this."""
        if type(x) not in PLAIN_TENSORS or _grad_enabled():
            return None
        gpu, dtype = _gpu(x), x.dtype
        code = _CODES.get(dtype)
        if code is None or gpu < 0 or (gpu != self._ordinal and self._ordinal >= 0):
            return None
        try:  # sparse tensors raise here
            if not _contiguous(x):
                return None
            count, source = _elements(x), _address(x)
            if out is None:
                out = _empty_like(x)
            elif out is not x and not (
                type(out) in PLAIN_TENSORS
                and out.dtype is dtype
                and _gpu(out) == gpu
                and _contiguous(out)
                and _elements(out) == count
            ):
                return None
            target = _address(out)
        except RuntimeError:
            return None
        stream = self._stream(gpu) if stream is None else getattr(stream, "cuda_stream", stream)
        status = self._all_reduce(self._pointer, source, target, count, code, stream)
        if status:
            self._require(status)
        return out

    def fused(
        self,
        pattern: str,
        x: Any,
        residual: Any,
        gamma: Any,
        eps: float,
        weight_bias: float,
        residual_out: Any,
        norm_out: Any,
        stream: Any,
    ) -> Optional[Fused]:
        """What the call wrote, or None: not a case for this. For patterns of a residual, a norm or
        both."""
        if type(x) not in PLAIN_TENSORS or _grad_enabled():
            return None
        gpu, dtype, shape = _gpu(x), x.dtype, x.shape
        if gpu < 0 or (gpu != self._ordinal and self._ordinal >= 0) or not shape:
            return None
        key = (pattern, dtype, shape[-1])
        plan = self._plans.get(key)
        if plan is None:
            plan = self._plan(key)
            if plan is None:
                return None
        words = plan.words
        try:
            if not _contiguous(x):
                return None
            count = _elements(x)
            words[_INPUT] = _address(x)
            if plan.residual:
                if not (
                    type(residual) in PLAIN_TENSORS
                    and residual.dtype is dtype
                    and _gpu(residual) == gpu
                    and _contiguous(residual)
                    and _elements(residual) == count
                ):
                    return None
                words[_RESIDUAL_IN] = address = _address(residual)
                if residual_out is residual:
                    words[_RESIDUAL_OUT] = address
                elif residual_out is None or residual_out is True:
                    residual_out = _empty_like(x)
                    words[_RESIDUAL_OUT] = _address(residual_out)
                elif (
                    type(residual_out) in PLAIN_TENSORS
                    and residual_out.dtype is dtype
                    and _gpu(residual_out) == gpu
                    and _contiguous(residual_out)
                    and _elements(residual_out) == count
                ):
                    words[_RESIDUAL_OUT] = _address(residual_out)
                else:
                    return None
            elif residual is not None or residual_out is not None:
                return None
            if plan.norm:
                if type(gamma) not in PLAIN_TENSORS:
                    return None
                kind = gamma.dtype
                if kind is not plan.gamma_dtype:
                    if kind is not dtype and kind is not torch.float32:
                        return None
                    plan.gamma_dtype = kind
                    plan.tensors.gamma_fp32 = int(kind is not dtype)
                if _gpu(gamma) != gpu or not _contiguous(gamma) or _elements(gamma) != plan.hidden:
                    return None
                words[_GAMMA] = _address(gamma)
                if norm_out is None or norm_out is True:
                    norm_out = _empty_like(x)
                elif not (
                    type(norm_out) in PLAIN_TENSORS
                    and norm_out.dtype is dtype
                    and _gpu(norm_out) == gpu
                    and _contiguous(norm_out)
                    and _elements(norm_out) == count
                ):
                    return None
                words[_NORM_OUT] = _address(norm_out)
            elif gamma is not None or norm_out is not None:
                return None
        except RuntimeError:
            return None
        if eps != plan.eps or weight_bias != plan.weight_bias:
            plan.tensors.epsilon = plan.eps = eps
            plan.tensors.weight_bias = plan.weight_bias = weight_bias
        tokens = count // plan.hidden
        for max_tokens, _, handle in plan.handles:
            if max_tokens >= tokens:
                break
        else:
            return None
        stream = self._stream(gpu) if stream is None else getattr(stream, "cuda_stream", stream)
        status = self._run(handle, plan.place, tokens, stream)
        if status:
            self._require(status)
        return Fused(None, residual_out, norm_out, None, None)

    def _plan(self, key: Tuple[str, torch.dtype, int]) -> Optional[_Plan]:
        """None for patterns that go the long way, and for what was not prepared."""
        pattern, dtype, hidden = key
        handles = self._handles.get((pattern, _NAMES.get(dtype), hidden))
        if not handles or hidden <= 0:
            return None
        parts = _patterns.parse(pattern)
        if parts.moe or parts.quantisation or not (parts.residual or parts.norm):
            return None
        self._plans[key] = plan = _Plan(parts, hidden, handles)
        return plan


def of(communicator: Any) -> Any:
    """The shortest way that this PyTorch and this library have."""
    lent = _objects.table()
    library = _objects.functions(communicator._library) if lent is not None else None
    if lent is not None and library is not None:
        return _objects.Objects(communicator, lent, library)
    return Quick(communicator)
