"""Exceptions. Their text is the message of the C interface: what was wrong, what was expected, what
to do."""


class ArbiterError(RuntimeError):
    """Base of all. `status` is the number in arbiter.h; -1 where the package itself refused."""

    status = -1


class InvalidArgument(ArbiterError, ValueError):
    """Can never work: a shape, dtype, pointer, name or number is wrong. Nothing was launched."""

    status = 1


class Unsupported(ArbiterError):
    """Legal, but this device, build or configuration cannot; or it was not prepared. Nothing was
    launched."""

    status = 2


class Unavailable(ArbiterError):
    """Something outside the program is missing: driver, NCCL, NVRTC, compiler, memory, or
    libarbiter.so itself."""

    status = 3


class CompileError(ArbiterError):
    """A kernel did not compile, or a cache entry is broken."""

    status = 4


class DatabaseError(ArbiterError):
    """A file of decisions cannot be used."""

    status = 5


class Disagreement(ArbiterError):
    """The ranks differ in something that must be equal."""

    status = 6


class DeviceError(ArbiterError):
    """A call of CUDA, NCCL, the operating system or the program's own process group failed."""

    status = 7


class Poisoned(ArbiterError):
    """A peer did not come in time: destroy the communicator and create a new one."""

    status = 8


class OutOfMemory(ArbiterError, MemoryError):
    """Host memory."""

    status = 10


class InternalError(ArbiterError):
    """Anything else: a fault of the library."""

    status = 11


BY_STATUS = {
    error.status: error
    for error in (
        InvalidArgument,
        Unsupported,
        Unavailable,
        CompileError,
        DatabaseError,
        Disagreement,
        DeviceError,
        Poisoned,
        OutOfMemory,
        InternalError,
    )
}
