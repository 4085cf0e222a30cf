"""The program's own process group, as the C interface calls it."""

import ctypes
from typing import Any, Callable, List, Optional, Sequence

from . import _abi
from .errors import InvalidArgument

AllgatherFunction = Callable[[bytes], Sequence[bytes]]
BroadcastFunction = Callable[[bytes, int], bytes]
BarrierFunction = Callable[[], Any]


class Group:
    """Keeps the functions alive that the library calls. What they raise is kept in `error`; the
    library is told 1."""

    def __init__(
        self,
        rank: int,
        size: int,
        allgather: AllgatherFunction,
        broadcast: BroadcastFunction,
        barrier: BarrierFunction,
    ) -> None:
        self.error: Optional[BaseException] = None
        self._functions = (allgather, broadcast, barrier)
        self.size = size
        self.struct = _abi.Callbacks(
            ctypes.sizeof(_abi.Callbacks),
            rank,
            size,
            _abi.Allgather(self._allgather),
            _abi.Broadcast(self._broadcast),
            _abi.Barrier(self._barrier),
            None,
        )

    def _guarded(self, action: Callable[[], None]) -> int:
        try:
            action()
        except BaseException as error:  # must not pass through the library's frames
            self.error = error
            return 1
        return 0

    def _allgather(self, _user: Any, send: int, size: int, receive: int) -> int:
        def action() -> None:
            parts = self._functions[0](ctypes.string_at(send, size) if size else b"")
            if len(parts) != self.size or any(len(part) != size for part in parts):
                raise InvalidArgument(
                    f"allgather returned parts of {[len(part) for part in parts]} bytes; expected"
                    f" {self.size} of {size}"
                )
            ctypes.memmove(receive, b"".join(parts), size * self.size)

        return self._guarded(action)

    def _broadcast(self, _user: Any, data: int, size: int, root: int) -> int:
        def action() -> None:
            result = self._functions[1](ctypes.string_at(data, size) if size else b"", root)
            if len(result) != size:
                raise InvalidArgument(f"broadcast returned {len(result)} bytes; expected {size}")
            ctypes.memmove(data, result, size)

        return self._guarded(action)

    def _barrier(self, _user: Any) -> int:
        return self._guarded(lambda: self._functions[2]() and None)


def torch_group(group: Any) -> Group:
    """Over torch.distributed, on host memory where the group has a backend for it (gloo), else
    through the GPU."""
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        raise InvalidArgument(
            "torch.distributed is not initialised; call torch.distributed.init_process_group()"
            " first"
        )
    group = dist.group.WORLD if group is None else group
    rank = dist.get_rank(group)
    size = dist.get_world_size(group)
    if rank < 0:
        raise InvalidArgument(
            "this process is not in the group; create the communicator on the ranks of the group"
            " only"
        )
    device = _exchange_device(torch, group)

    def to_tensor(data: bytes) -> Any:
        return torch.frombuffer(bytearray(data), dtype=torch.uint8).to(device)

    def to_bytes(tensor: Any) -> bytes:
        return bytes(tensor.cpu().numpy()) if _has_numpy() else bytes(tensor.cpu().tolist())

    def allgather(data: bytes) -> List[bytes]:
        if not data:
            return [b""] * size
        mine = to_tensor(data)
        parts = [torch.empty_like(mine) for _ in range(size)]
        dist.all_gather(parts, mine, group=group)
        return [to_bytes(part) for part in parts]

    def broadcast(data: bytes, root: int) -> bytes:
        if not data:
            return b""
        tensor = to_tensor(data)
        dist.broadcast(tensor, src=dist.get_global_rank(group, root), group=group)
        return to_bytes(tensor)

    def barrier() -> None:  # an exchange of one byte: dist.barrier() guesses the device, and warns
        allgather(b"\0")

    return Group(rank, size, allgather, broadcast, barrier)


def _exchange_device(torch: Any, group: Any) -> Any:
    backends = (
        str(torch.distributed.get_backend_config(group)).lower()
        if hasattr(torch.distributed, "get_backend_config")
        else torch.distributed.get_backend(group)
    )
    if "gloo" in backends or "mpi" in backends:
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def _has_numpy() -> bool:
    try:
        import numpy  # noqa: F401
    except ImportError:
        return False
    return True
