"""NumPy arrays, PyTorch tensors and other CUDA arrays, seen the same way. Neither package is
imported here."""

import math
import sys
from dataclasses import dataclass
from typing import Any, Optional, Sequence, Tuple

from . import _abi, _dlpack
from .errors import InvalidArgument

CODES = {"bf16": _abi.BF16, "fp16": _abi.FP16, "fp32": _abi.FP32}
SIZES = {"bf16": 2, "fp16": 2, "fp32": 4, "int32": 4}
_LONG = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp32": "float32",
    "int32": "int32",
    "e4m3": "float8_e4m3fn",
}
_SHORT = {long: short for short, long in _LONG.items()}


@dataclass(frozen=True)
class View:
    """One tensor: where it lies and what it holds. `device`: "cpu" or "cuda"; `index`: the GPU's,
    -1 unknown."""

    pointer: int
    shape: Tuple[int, ...]
    dtype: str
    bytes: int
    device: str
    index: int
    room: int  # bytes from `pointer` to the end of the memory behind it, as far as is known

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def dtype_name(dtype: Any) -> str:
    """ "bf16", "fp16" or "fp32" of a name, a NumPy or a PyTorch dtype. Raises InvalidArgument for
    any other."""
    text = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", None) or str(dtype)
    text = text.rsplit(".", 1)[-1]
    short = _SHORT.get(text, text)
    if short not in CODES:
        raise InvalidArgument(
            f"dtype {text}; expected bf16 (bfloat16), fp16 (float16) or fp32 (float32)"
        )
    return short


def is_torch(x: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def view(x: Any, name: str, strided: bool = False) -> View:
    """What lies at `x`. Raises InvalidArgument, naming the argument `name`. `strided`: gaps and
    transposition are the caller's business (layouts of scales)."""
    if is_torch(x):
        return _of_torch(x, name, strided)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(x, numpy.ndarray):
        if not x.flags.c_contiguous and not strided:
            raise InvalidArgument(
                f"{name} is not contiguous (shape {x.shape}, strides {x.strides} bytes); "
                "pass numpy.ascontiguousarray(...)"
            )
        return View(
            x.ctypes.data,
            x.shape,
            _SHORT.get(x.dtype.name, x.dtype.name),
            x.nbytes,
            "cpu",
            -1,
            x.nbytes,
        )
    if hasattr(x, "__dlpack__") and hasattr(x, "__dlpack_device__"):
        return _of_dlpack(x, name, strided)
    interface = getattr(x, "__cuda_array_interface__", None)
    if interface is not None:
        return _of_cuda_array(interface, name)
    raise InvalidArgument(
        f"{name} is a {type(x).__module__}.{type(x).__qualname__}; expected a NumPy array, a"
        " PyTorch tensor, or an array with __dlpack__ or __cuda_array_interface__"
    )


def _of_torch(x: Any, name: str, strided: bool) -> View:
    torch = sys.modules["torch"]
    if type(x) is not torch.Tensor and type(x) is not torch.nn.Parameter:
        raise InvalidArgument(
            f"{name} is a {type(x).__module__}.{type(x).__qualname__}, a subclass of torch.Tensor"
            " whose memory may not be what it seems; pass the plain tensor inside it (inside"
            " torch.compile: use arbiter.torch)"
        )
    if x.layout is not torch.strided:
        raise InvalidArgument(
            f"{name} has layout {x.layout}; expected a dense tensor (torch.strided)"
        )
    if not strided and not x.is_contiguous():
        raise InvalidArgument(
            f"{name} is not contiguous (shape {tuple(x.shape)}, strides {x.stride()}); pass"
            f" {name}.contiguous()"
        )
    if x.requires_grad and torch.is_grad_enabled():
        raise InvalidArgument(
            f"{name} requires a gradient, and allreduce here has none; call under torch.no_grad()"
            " or torch.inference_mode()"
        )
    device = x.device
    if device.type not in ("cpu", "cuda"):
        raise InvalidArgument(
            f"{name} is on device '{device}'; expected a CUDA tensor (or a CPU one, on the CPU"
            " device)"
        )
    dtype = str(x.dtype).rsplit(".", 1)[-1]
    size = x.element_size()
    room = x.untyped_storage().nbytes() - x.storage_offset() * size
    return View(
        x.data_ptr(),
        tuple(x.shape),
        _SHORT.get(dtype, dtype),
        x.numel() * size,
        device.type,
        device.index if device.index is not None else -1,
        room,
    )


def _of_dlpack(x: Any, name: str, strided: bool) -> View:
    seen = _dlpack.look(x, name)
    _require_contiguous(name, seen.shape, None if strided else seen.strides, 1)
    count = math.prod(seen.shape)
    size = count * seen.size
    return View(seen.pointer, seen.shape, seen.dtype, size, seen.device, seen.gpu, size)


def _require_contiguous(
    name: str, shape: Sequence[int], strides: Optional[Sequence[int]], unit: int
) -> None:
    """`strides`: in steps of which an element takes `unit`; None: it is contiguous."""
    expected = unit
    for extent, stride in zip(reversed(shape), reversed(strides or ())):
        if extent > 1 and stride != expected:
            raise InvalidArgument(
                f"{name} is not contiguous (shape {tuple(shape)}, strides {tuple(strides or ())})"
            )
        expected *= extent


def _of_cuda_array(interface: Any, name: str) -> View:
    kind = interface["typestr"]
    dtype = {"<f2": "fp16", "<f4": "fp32", "<i4": "int32", "|u1": "uint8"}.get(kind, kind)
    size, shape = int(kind[2:]), tuple(interface["shape"])
    _require_contiguous(name, shape, interface.get("strides"), size)
    count = math.prod(shape)
    return View(interface["data"][0] or 0, shape, dtype, count * size, "cuda", -1, count * size)


def empty(like: Any, shape: Tuple[int, ...], dtype: Optional[str] = None) -> Any:
    """A new array beside `like`; `dtype`: that of `like` unless named. NumPy holds e4m3 as
    uint8."""
    if is_torch(like):
        torch = sys.modules["torch"]
        kind = like.dtype if dtype is None else getattr(torch, _LONG.get(dtype, dtype))
        return torch.empty(shape, dtype=kind, device=like.device)
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(like, numpy.ndarray):
        kind = (
            like.dtype if dtype is None else "uint8" if dtype == "e4m3" else _LONG.get(dtype, dtype)
        )
        return numpy.empty(shape, dtype=kind)
    raise InvalidArgument(
        "results are allocated for NumPy arrays and PyTorch tensors only, not for"
        f" {type(like).__qualname__}: pass the places for them"
    )
