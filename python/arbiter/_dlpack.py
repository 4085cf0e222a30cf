"""Reads what an object with __dlpack__ shows of its memory. Nothing is taken over: the object keeps
it alive."""

import ctypes
from ctypes import POINTER, c_int32, c_int64, c_uint8, c_uint16, c_uint64, c_void_p
from typing import Any, NamedTuple, Optional, Tuple

from .errors import InvalidArgument

_HOST, _CUDA, _CUDA_MANAGED = 1, 2, 13
_DTYPES = {
    (2, 16): "fp16",
    (2, 32): "fp32",
    (4, 16): "bf16",
    (0, 32): "int32",
    (1, 8): "uint8",
    (10, 8): "e4m3",
}


class _Tensor(ctypes.Structure):
    """DLTensor; strides in elements, or NULL."""

    _fields_ = [
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    ]


class Shown(NamedTuple):
    """`strides` in elements; None: contiguous. `device`: "cpu" or "cuda"; `gpu`: -1 on the host."""

    pointer: int
    shape: Tuple[int, ...]
    strides: Optional[Tuple[int, ...]]
    dtype: str
    size: int
    device: str
    gpu: int


_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = c_void_p, [ctypes.py_object, ctypes.c_char_p]


def look(x: Any, name: str) -> Shown:
    """Raises InvalidArgument for memory that is neither the host's nor a CUDA device's."""
    kind, index = x.__dlpack_device__()
    if int(kind) not in (_HOST, _CUDA, _CUDA_MANAGED):
        raise InvalidArgument(
            f"{name} is on a device of DLPack's kind {int(kind)}; expected a GPU's memory or the"
            " host's"
        )
    on_host = int(kind) == _HOST
    # -1: the exporter need not order streams; the caller says in which stream it is ready.
    capsule = x.__dlpack__() if on_host else x.__dlpack__(stream=-1)
    seen = _Tensor.from_address(_pointer(capsule, b"dltensor"))
    shape = tuple(seen.shape[axis] for axis in range(seen.ndim))
    strides = tuple(seen.strides[axis] for axis in range(seen.ndim)) if seen.strides else None
    known = _DTYPES.get((seen.code, seen.bits)) if seen.lanes == 1 else None
    dtype = known or f"DLPack's type {seen.code} of {seen.bits} bits"
    return Shown(
        (seen.data or 0) + seen.byte_offset,
        shape,
        strides,
        dtype,
        max(seen.bits // 8, 1),
        "cpu" if on_host else "cuda",
        -1 if on_host else int(index),
    )
