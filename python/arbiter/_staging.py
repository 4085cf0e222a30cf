"""On the CPU device, tensors are memory of the library: arrays are copied into it and out of it."""

import contextlib
import ctypes
import weakref
from typing import Any, Dict, Iterator, Set, Tuple

from . import _arrays
from .errors import InvalidArgument


class Staging:
    """One growing buffer for every tensor of a call, by name."""

    def __init__(self, communicator: Any) -> None:
        self._communicator = weakref.proxy(communicator)  # it owns this
        self._buffers: Dict[str, Tuple[int, int]] = {}

    @contextlib.contextmanager
    def call(
        self,
        reads: Dict[str, "_arrays.View"],
        writes: Dict[str, "_arrays.View"],
        may_be_same: Set[Tuple[str, str]],
    ) -> Iterator[Dict[str, int]]:
        """Gives the addresses to call with. What was written is copied out when the block ends
        without an exception. Refuses what a GPU would get wrong: tensors that overlap, but for the
        pairs (written, other) in `may_be_same`."""
        for name, seen in {**reads, **writes}.items():
            if seen.device != "cpu":
                raise InvalidArgument(
                    f"{name} is on a GPU; this communicator is on the CPU device: pass a host array"
                )
        _refuse_overlap(reads, writes, may_be_same)
        at = {name: self._room(name, seen.bytes) for name, seen in {**reads, **writes}.items()}
        for name, seen in reads.items():
            ctypes.memmove(at[name], seen.pointer, seen.bytes)
        yield at
        for name, seen in writes.items():
            ctypes.memmove(seen.pointer, at[name], seen.bytes)

    def _room(self, name: str, size: int) -> int:
        address, capacity = self._buffers.get(name, (0, 0))
        if capacity >= max(size, 1):
            return address
        owner = self._communicator
        if address:
            del self._buffers[name]
            owner._require(owner._library.arbiter_device_release(owner._open(), address))
        memory = ctypes.c_void_p()
        owner._require(
            owner._library.arbiter_device_allocate(
                owner._open(), max(size, 1), ctypes.byref(memory)
            )
        )
        self._buffers[name] = (memory.value or 0, max(size, 1))
        return self._buffers[name][0]

    def release(self, pointer: Any) -> None:
        for address, _ in self._buffers.values():
            self._communicator._library.arbiter_device_release(pointer, address)
        self._buffers.clear()


def _refuse_overlap(
    reads: Dict[str, Any], writes: Dict[str, Any], may_be_same: Set[Tuple[str, str]]
) -> None:
    everything = list({**reads, **writes}.items())
    for name, written in writes.items():
        for other_name, other in everything:
            if other_name == name or not (written.bytes and other.bytes):
                continue
            if (name, other_name) in may_be_same or (other_name, name) in may_be_same:
                if written.pointer == other.pointer:
                    continue
            if (
                written.pointer < other.pointer + other.bytes
                and other.pointer < written.pointer + written.bytes
            ):
                raise InvalidArgument(
                    f"{name} overlaps {other_name}; they must be apart"
                    + (" or the same" if (name, other_name) in may_be_same else "")
                )
