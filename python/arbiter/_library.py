"""Finds and opens libarbiter.so, once."""

import ctypes
import functools
import os
from pathlib import Path
from typing import Any, Iterator, Mapping, NoReturn, Optional

from . import _abi, errors

_PACKAGE = Path(__file__).resolve().parent


def candidates() -> Iterator[str]:
    """Where libarbiter.so may be, best first. ARBITER_LIBRARY excludes everything else."""
    named = os.environ.get("ARBITER_LIBRARY")
    if named:
        yield str(Path(named) / "libarbiter.so") if os.path.isdir(named) else named
        return
    yield str(_PACKAGE / "lib" / "libarbiter.so")  # inside the wheel
    for build in ("build", "build-portable"):  # the package is used from a clone
        yield str(_PACKAGE.parent.parent / build / "lib" / "libarbiter.so")
    yield f"libarbiter.so.{_abi.ABI_VERSION}"  # installed: the loader's own search


@functools.lru_cache(maxsize=None)
def load() -> ctypes.CDLL:
    """The library, with every function declared. Raises Unavailable, saying where it looked."""
    tried = []
    for path in candidates():
        try:
            library = ctypes.CDLL(path)
        except OSError as error:
            tried.append(f"  {error}")
            continue
        return _declared(library, path)
    raise errors.Unavailable(
        "libarbiter.so was not found. Build it (tools/quickstart), or set ARBITER_LIBRARY to the"
        " file. Tried:\n" + "\n".join(tried)
    )


def _declared(library: ctypes.CDLL, path: str) -> ctypes.CDLL:
    try:
        library.arbiter_abi_version.restype = ctypes.c_uint32
        abi = library.arbiter_abi_version()
    except AttributeError:
        raise errors.Unavailable(
            f"{path} is not Arbiter's library: it has no arbiter_abi_version"
        ) from None
    if abi != _abi.ABI_VERSION:
        raise errors.Unavailable(
            f"{path} has ABI version {abi}; this package needs {_abi.ABI_VERSION}. Install package"
            " and library of the same release"
        )
    missing = declare(library, _abi.FUNCTIONS)
    if missing is not None:
        raise errors.Unavailable(f"{path} has no {missing}: it is older than this package")
    return library


def declare(library: ctypes.CDLL, functions: Mapping[str, Any]) -> Optional[str]:
    """Tells ctypes the types of these functions, {name: (result, arguments)}. Returns the name of
    one that the library has not, if there is one."""
    for name, (result, arguments) in functions.items():
        function = getattr(library, name, None)
        if function is None:
            return name
        function.restype, function.argtypes = result, arguments
    return None


def raise_status(status: int, communicator: Optional[ctypes.c_void_p] = None) -> NoReturn:
    """Raises the exception of a status that is not 0, with the message of the C interface."""
    message = load().arbiter_last_error(communicator)  # None: of this thread
    text = message.decode("utf-8", "replace") if message else f"status {status}, without a message"
    raise errors.BY_STATUS.get(status, errors.InternalError)(text)
