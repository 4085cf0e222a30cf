"""How a communicator is set up: keyword arguments to arbiter_communicator_options."""

import ctypes
import os
from typing import Any, Callable, List, Optional, Tuple, Union

from . import _abi
from .errors import InvalidArgument

_DEVICES = {"cuda": _abi.DEVICE_CUDA, "cpu": _abi.DEVICE_CPU}
_LEVELS = ("trace", "debug", "info", "warn", "error")

LogFunction = Callable[[str, str], Any]


def gpu_count() -> int:
    """GPUs that this process may use; 0 without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def build(
    *,
    gpus_needed: int = 1,
    device: Optional[str] = None,
    ordinal: Optional[int] = None,
    multicast: Optional[bool] = None,
    nccl: Optional[bool] = None,
    jit: Optional[bool] = None,
    shipped: Optional[bool] = None,
    kernels: Optional[bool] = None,
    decisions: Union[None, str, "os.PathLike[str]", bytes] = None,
    backend: Optional[str] = None,
    numerics: Optional[str] = None,
    candidate: Optional[str] = None,
    cache_dir: Union[None, str, "os.PathLike[str]"] = None,
    timeout: Optional[float] = None,
    first_timeout: Optional[float] = None,
    max_sms: Optional[int] = None,
    startup_tune: Optional[float] = None,
    log_level: Optional[str] = None,
    log: Optional[LogFunction] = None,
) -> Tuple[_abi.Options, List[Any]]:
    """The struct, and what must live as long as the communicator. What is None is the library's
    default, which an ARBITER_* variable may set.

    device: "cuda", "cpu" (the GPU's kernels on the host, for tests) or "auto". ordinal: the GPU.
    multicast, nccl, jit, shipped: allow NVLink multicast, NCCL (started when a prepared family
    needs it; True: at once), compiling, the decisions inside the library. kernels: run the compiled
    kernels that the decisions carry, which are code. decisions: a file that `arbiter tune` wrote,
    or its bytes. backend: "auto", "trtllm", "mnnvl", "custom", "nvls", "nccl" or "off". numerics:
    "any", "strict" or "lossy". candidate: the one to use wherever it can, or "oneshot" or
    "twoshot". timeout: seconds that a kernel waits for a peer, and first_timeout: until the first
    16 calls are through (0: no deadline). max_sms: multiprocessors that a kernel may take.
    startup_tune: seconds that preparing may spend on measuring where nothing was (0: none). log:
    called with (level, text)."""
    if device in (None, "auto"):  # the library's own rule; decided here to know which it is
        device = "cuda" if gpu_count() >= gpus_needed else "cpu"
    if device not in _DEVICES:
        raise InvalidArgument(f"device is {device!r}; expected 'cuda', 'cpu', 'auto' or None")
    options = _abi.Options()
    options.device = _DEVICES[device]
    options.ordinal = -1 if ordinal is None else ordinal
    for name, value in (
        ("multicast", multicast),
        ("nccl", nccl),
        ("jit", jit),
        ("shipped", shipped),
        ("kernels", kernels),
    ):
        setattr(options, name, 0 if value is None else 1 if value else 2)
    keep: List[Any] = []
    if isinstance(decisions, bytes):
        buffer = ctypes.create_string_buffer(decisions, len(decisions))
        keep.append(buffer)
        options.decisions_data = ctypes.cast(buffer, ctypes.c_void_p)
        options.decisions_bytes = len(decisions)
    elif decisions is not None:
        options.decisions_path = os.fsencode(decisions)
    for name, text in (
        ("backend", backend),
        ("numerics", numerics),
        ("candidate", candidate),
        ("log_level", log_level),
    ):
        if text is not None:
            setattr(options, name, text.encode())
    if cache_dir is not None:
        options.cache_dir = os.fsencode(cache_dir)
    for name, seconds in (("timeout", timeout), ("first_timeout", first_timeout)):
        if seconds is None:
            continue
        if not seconds >= 0:
            raise InvalidArgument(f"{name} is {seconds}; expected seconds, or 0 for no deadline")
        setattr(options, name + "_ms", max(1, round(seconds * 1000)) if seconds > 0 else -1)
    options.max_sms = 0 if max_sms is None else max_sms
    if startup_tune is not None:
        if not startup_tune >= 0:
            raise InvalidArgument(f"startup_tune is {startup_tune}; expected seconds, or 0")
        options.startup_tune_ms = max(1, round(startup_tune * 1000)) if startup_tune > 0 else -1
    if log is not None:
        function = log

        def forward(_user: Any, level: int, text: bytes) -> None:
            function(
                _LEVELS[level] if 0 <= level < len(_LEVELS) else str(level),
                text.decode("utf-8", "replace"),
            )

        options.log = _abi.LogCallback(forward)
    keep.append(options)
    return options, keep
