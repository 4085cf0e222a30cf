"""A libarbiter.so of which every function returns at once: arbiter_run and arbiter_all_reduce keep
what they were given, from whichever function they were called. For what Python does before a launch, without a GPU."""

import ctypes
import subprocess
from pathlib import Path
from typing import Any

from arbiter import Communicator, _abi, _library

RUNTIME = Path(__file__).resolve().parents[2] / "runtime"

_SOURCE = """
#include <stddef.h>
#include <stdint.h>
#include <string.h>
struct { unsigned char tensors[%(bytes)d]; const void *handle, *input, *output, *stream; int64_t count; int code, calls; } kept;
int arbiter_run(const void *handle, const void *tensors, int64_t tokens, const void *stream) {
  memcpy(kept.tensors, tensors, sizeof kept.tensors);
  kept.handle = handle, kept.count = tokens, kept.stream = stream, kept.calls++;
  return 0;
}
int arbiter_all_reduce(void *c, const void *input, void *output, int64_t count, int code, const void *stream) {
  kept.input = input, kept.output = output, kept.count = count, kept.code = code, kept.stream = stream, kept.calls++;
  return 0;
}
uint32_t arbiter_abi_version(void) { return %(abi)d; }
int arbiter_size(const void *c) { return 1; }
int arbiter_prepare_handle(void *c, const void *family, void **handle) { static char next[64]; static int n; *handle = next + n++ %% 64; return 0; }
%(rest)s
"""


class Kept(ctypes.Structure):
    """What the last call gave. Pointers are None for 0."""

    _fields_ = [
        ("tensors", _abi.Tensors),
        ("handle", ctypes.c_void_p),
        ("input", ctypes.c_void_p),
        ("output", ctypes.c_void_p),
        ("stream", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("code", ctypes.c_int),
        ("calls", ctypes.c_int),
    ]


def build(folder: Path) -> ctypes.CDLL:
    """Compiled in `folder` by cc. Raises FileNotFoundError without a compiler."""
    own = ("run", "all_reduce", "abi_version", "size", "prepare_handle")
    rest = [
        f"long {name}() {{ return 0; }}"
        for name in _abi.FUNCTIONS
        if name not in {f"arbiter_{it}" for it in own}
    ]
    text = _SOURCE % {
        "bytes": ctypes.sizeof(_abi.Tensors),
        "abi": _abi.ABI_VERSION,
        "rest": "\n".join(rest),
    }
    (folder / "null.c").write_text(text)
    flags = ["-w", "-O2", "-fPIC", f"-I{RUNTIME / 'include'}"]
    made = [folder / "null.o", folder / "objects.o"]
    # What reads objects is the library's own, on top of the functions above.
    subprocess.run(["cc", *flags, "-c", folder / "null.c", "-o", made[0]], check=True)
    subprocess.run(
        ["c++", "-std=c++20", *flags, "-c", RUNTIME / "c" / "objects.cpp", "-o", made[1]],
        check=True,
    )
    subprocess.run(["c++", "-shared", "-o", folder / "null.so", *made], check=True)
    return _library._declared(ctypes.CDLL(str(folder / "null.so")), "null.so")


def communicator(library: ctypes.CDLL, ordinal: int) -> Any:
    """As if on GPU `ordinal`."""
    options = _abi.Options()
    options.device, options.ordinal = _abi.DEVICE_CUDA, ordinal
    real = _library.load
    _library.load = lambda: library  # type: ignore[assignment]
    try:
        return Communicator(ctypes.c_void_p(1), [], options)
    finally:
        _library.load = real


def kept(library: ctypes.CDLL) -> Kept:
    return Kept.in_dll(library, "kept")
