"""Allreduce between GPUs, plain or fused with what follows it, by the fastest proven kernel. See
docs/python.md."""

from ._library import load as _load
from ._result import Fused
from .communicator import Communicator, Family, Ranks
from .errors import (
    ArbiterError,
    CompileError,
    DatabaseError,
    DeviceError,
    Disagreement,
    InternalError,
    InvalidArgument,
    OutOfMemory,
    Poisoned,
    Unavailable,
    Unsupported,
)

__all__ = [
    "ArbiterError",
    "Communicator",
    "CompileError",
    "DatabaseError",
    "DeviceError",
    "Disagreement",
    "Family",
    "Fused",
    "InternalError",
    "InvalidArgument",
    "OutOfMemory",
    "Poisoned",
    "Ranks",
    "Unavailable",
    "Unsupported",
    "__version__",
    "library_version",
]

__version__ = "0.1.0"


def library_version() -> str:
    """Of the libarbiter.so in use, which it opens if need be. Raises Unavailable without one."""
    return _load().arbiter_version().decode()
