"""The shortest way for PyTorch's CUDA tensors: the library itself reads them, through the table of
C functions that PyTorch's tensor type lends since 2.10 (DLPack's exchange interface). One call into
C asks, checks and launches; _quick.py does the same in Python for older PyTorch.

Both serve the calls that they know and give None for all others, wrong ones too: those go the long
way, which says what is wrong."""

import ctypes
from typing import Any, Dict, Optional

import torch

from . import _abi, _arrays, _library, _patterns
from ._result import Fused

# The table knows no others, and subclasses may not be what they seem.
PLAIN_TENSORS = frozenset((torch.Tensor, torch.nn.Parameter))
_CUDA, _MAJOR_VERSION = 2, 1
_INVALID_ARGUMENT = 1
_empty_like = torch.empty_like
_grad_enabled = torch.is_grad_enabled
_result = tuple.__new__  # Fused(...) asks for names


class _Table(ctypes.Structure):
    """DLPackExchangeAPI."""


_Table._fields_ = [
    ("major", ctypes.c_uint32),
    ("minor", ctypes.c_uint32),
    ("older", ctypes.POINTER(_Table)),
    ("managed_tensor_allocator", ctypes.c_void_p),
    ("managed_tensor_from_py_object_no_sync", ctypes.c_void_p),
    ("managed_tensor_to_py_object_no_sync", ctypes.c_void_p),
    ("dltensor_from_py_object_no_sync", ctypes.c_void_p),
    ("current_work_stream", ctypes.c_void_p),
]


def table() -> Optional[_Table]:
    """PyTorch's, in the version that the library reads; None if it lends none."""
    capsule = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    if capsule is None:
        return None
    pointer_of = ctypes.pythonapi.PyCapsule_GetPointer
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    found = ctypes.cast(pointer_of(capsule, b"dlpack_exchange_api"), ctypes.POINTER(_Table))
    while found and found.contents.major != _MAJOR_VERSION:
        found = found.contents.older
    if not found or not found.contents.dltensor_from_py_object_no_sync:
        return None
    return found.contents


def functions(library: ctypes.CDLL) -> Optional[ctypes.PyDLL]:
    """The library once more, for calls that keep the GIL; None if it is older than these."""
    held = ctypes.PyDLL(library._name)
    return held if _library.declare(held, _abi.OBJECT_FUNCTIONS) is None else None


class _Calls:
    """arbiter_object_calls of one pattern, and what it points to. What a member holds is kept here
    too: asking the struct takes longer."""

    __slots__ = (
        "eps",
        "families",
        "handles",
        "norm",
        "place",
        "residual",
        "stream",
        "struct",
        "weight_bias",
    )

    def __init__(self, struct: _abi.ObjectCalls) -> None:
        self.struct = struct
        self.place = ctypes.addressof(struct)
        self.residual = self.norm = False
        self.eps = self.weight_bias = 0.0
        self.stream: Any = None  # None: the current one
        self.families: Any = ()
        self.handles: Any = ()

    def use_stream(self, stream: Any) -> None:
        number = None if stream is None else getattr(stream, "cuda_stream", stream)
        self.struct.stream, self.struct.stream_given = number, int(stream is not None)
        self.stream = stream


class Objects:
    """Of one communicator on a GPU, until it is closed. Not for several threads, as the
    communicator."""

    def __init__(self, communicator: Any, lent: _Table, library: ctypes.PyDLL) -> None:
        self._lent = lent
        self._known = communicator._handles
        self._require = communicator._require
        self._ordinal: int = communicator.ordinal
        self._pointer = communicator._pointer
        self._all_reduce = library.arbiter_all_reduce_objects
        self._run = library.arbiter_run_objects
        self._plain = self._calls()
        self._patterns: Dict[str, _Calls] = {}

    def forget(self) -> None:
        """More was prepared."""
        self._patterns.clear()

    def all_reduce(self, x: Any, out: Any, stream: Any) -> Any:
        """The sum, or None: not a case for this."""
        if type(x) not in PLAIN_TENSORS or _grad_enabled():
            return None
        calls = self._plain
        try:  # sparse tensors raise here
            if out is None:
                out = _empty_like(x)
            elif out is not x and type(out) not in PLAIN_TENSORS:
                return None
            if stream is not calls.stream:
                calls.use_stream(stream)
            status = self._all_reduce(calls.place, x, out)
        except Exception:
            return None
        if status:
            if status == _INVALID_ARGUMENT:
                return None
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
        calls = self._patterns.get(pattern)
        if calls is None:
            calls = self._calls_of(pattern)
            if calls is None:
                return None
        try:
            if calls.residual:
                if type(residual) not in PLAIN_TENSORS:
                    return None
                if residual_out is not residual:
                    if residual_out is None or residual_out is True:
                        residual_out = _empty_like(x)
                    elif type(residual_out) not in PLAIN_TENSORS:
                        return None
            if calls.norm:
                if type(gamma) not in PLAIN_TENSORS:
                    return None
                if norm_out is None or norm_out is True:
                    norm_out = _empty_like(x)
                elif type(norm_out) not in PLAIN_TENSORS:
                    return None
            if eps != calls.eps or weight_bias != calls.weight_bias:
                calls.struct.epsilon = calls.eps = eps
                calls.struct.weight_bias = calls.weight_bias = weight_bias
            if stream is not calls.stream:
                calls.use_stream(stream)
            status = self._run(calls.place, x, residual, residual_out, gamma, norm_out)
        except Exception:
            return None
        if status:
            if status == _INVALID_ARGUMENT:
                return None
            self._require(status)
        return _result(Fused, (None, residual_out, norm_out, None, None))

    def _calls(self) -> _Calls:
        struct = _abi.ObjectCalls(ctypes.sizeof(_abi.ObjectCalls))
        struct.read = self._lent.dltensor_from_py_object_no_sync
        struct.current_stream = self._lent.current_work_stream
        struct.absent = id(None)
        struct.device_type, struct.device_id = _CUDA, self._ordinal
        struct.communicator = self._pointer
        return _Calls(struct)

    def _calls_of(self, pattern: str) -> Optional[_Calls]:
        """None for patterns that go the long way, and for what was not prepared."""
        known = sorted(
            (
                (max_tokens, mode, dtype, hidden, handle)
                for (name, dtype, hidden), entries in self._known.items()
                for max_tokens, mode, handle in entries
                if name == pattern
            ),
            key=lambda entry: entry[:4],
        )
        if not known:
            return None
        parts = _patterns.parse(pattern)
        if parts.moe or parts.quantisation or not (parts.residual or parts.norm):
            return None
        calls = self._calls()
        calls.residual, calls.norm = bool(parts.residual), bool(parts.norm)
        calls.families = (_abi.Family * len(known))()
        calls.handles = (ctypes.c_void_p * len(known))()
        for i, (max_tokens, _, dtype, hidden, handle) in enumerate(known):
            family = calls.families[i]
            family.struct_size = ctypes.sizeof(_abi.Family)
            family.dtype = _arrays.CODES[dtype]
            family.hidden, family.max_tokens = hidden, max_tokens
            calls.handles[i] = handle
        calls.struct.families = ctypes.cast(calls.families, ctypes.POINTER(_abi.Family))
        calls.struct.handles = ctypes.cast(calls.handles, ctypes.POINTER(ctypes.c_void_p))
        calls.struct.family_count = len(known)
        calls.struct.residual, calls.struct.norm = int(calls.residual), int(calls.norm)
        self._patterns[pattern] = calls
        return calls
