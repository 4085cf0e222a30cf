"""torch.distributed's backend `arbiter`: its allreduces are Arbiter's, everything else is NCCL's
(gloo's on the host).

    import arbiter.distributed
    torch.distributed.init_process_group("cuda:arbiter")   # new_group(backend=...) too

Served: sums of contiguous bf16, fp16 and fp32 tensors of one GPU, up to `max_bytes`, functional
collectives (torch.compile, DTensor) among them. They run on the current stream, with async_op=True
too, and may be captured. The communicator is made at the first of them, and a dtype is prepared at
its first; both outside capture: what comes earlier in a capture is NCCL's. If the communicator
cannot be made on some rank, NCCL serves all, and a warning says why."""

import datetime
import time
import warnings
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Set

import torch
import torch.distributed as dist

from .communicator import Communicator, Family
from .errors import ArbiterError

__all__ = ["ArbiterGroup", "Options", "communicator"]

_ROW = 1024  # elements; any count up to max_bytes is served whatever the row
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass
class Options:
    """pg_options of init_process_group() and new_group(). `max_bytes`: of the largest message that
    Arbiter serves. `communicator`: options of Communicator. `device`: "cuda"; "cpu" serves host
    tensors of a single rank, for tests."""

    max_bytes: int = 8 << 20
    communicator: Dict[str, Any] = field(default_factory=dict)
    device: str = "cuda"


class _StoreExchange:
    """The callbacks of Communicator over a torch.distributed store: host memory only, and no
    stream. A rank that fails says so by fail(), and the others stop waiting for it: they raise
    RuntimeError, as they do after `timeout`."""

    def __init__(self, store: Any, rank: int, size: int, timeout: datetime.timedelta) -> None:
        self._store, self._rank, self._size, self._turn = store, rank, size, 0
        self._timeout = timeout.total_seconds()

    def allgather(self, data: bytes) -> List[bytes]:
        self._turn += 1
        self._store.set(
            f"{self._turn}/{self._rank}", b"." + data
        )  # not every store takes empty values
        parts = [self._get(f"{self._turn}/{rank}")[1:] for rank in range(self._size)]
        if self._turn > 2:  # whoever is in this turn has read the one before the last
            self._store.delete_key(f"{self._turn - 2}/{self._rank}")
        return parts

    def _get(self, key: str) -> bytes:
        deadline = time.monotonic() + self._timeout
        while not self._store.check([key]):
            if self._store.check(["failed"]):
                raise RuntimeError("another rank failed")
            if time.monotonic() > deadline:
                raise RuntimeError(f"a rank did not come within {self._timeout:g} s")
            time.sleep(0.0005)
        return self._store.get(key)

    def broadcast(self, data: bytes, root: int) -> bytes:
        return self.allgather(data if self._rank == root else b"")[root]

    def barrier(self) -> None:
        self.allgather(b"")

    def fail(self) -> None:
        self._store.set("failed", b"1")


class _Done(dist.Work):
    """Of a call that is in the current stream already: nothing to wait for."""

    def __init__(self, tensors: List[torch.Tensor]) -> None:
        super().__init__()
        self._tensors = tensors

    def wait(self, timeout: Any = None) -> bool:
        return True

    def is_completed(self) -> bool:
        return True

    def get_future(self) -> "torch.futures.Future[List[torch.Tensor]]":
        device = self._tensors[0].device
        future: Any = torch.futures.Future(devices=[device] if device.type == "cuda" else None)
        future.set_result(self._tensors)
        return future


class ArbiterGroup(dist.ProcessGroup):
    """What it does not override, the base class hands to the backends that are registered for the
    device."""

    def __init__(
        self, store: Any, rank: int, size: int, timeout: datetime.timedelta, options: Options
    ) -> None:
        super().__init__(rank, size)  # type: ignore[call-arg]  # only this form can be subclassed
        self._options = options
        self._exchange, self._vote = (
            _StoreExchange(dist.PrefixStore(name, store), rank, size, timeout)
            for name in ("arbiter", "vote")
        )
        self._communicator: Optional[Communicator] = None
        self._given_up = False
        self._prepared: Set[torch.dtype] = set()

    def getBackendName(self) -> str:
        return "arbiter"

    def allreduce(self, tensors: Any, opts: Any = None) -> Any:  # type: ignore[override]
        if opts is None:
            opts = dist.AllreduceOptions()
        tensor = tensors[0] if isinstance(tensors, (list, tuple)) else tensors
        many = isinstance(tensors, (list, tuple)) and len(tensors) != 1
        if not many and self._serves(tensor, opts) and self._ready(tensor):
            assert self._communicator is not None
            plain = tensor.detach() if tensor.requires_grad else tensor
            self._communicator.all_reduce(plain, out=plain)
            return _Done([tensor])
        return super().allreduce(tensors, opts)

    def _serves(self, tensor: torch.Tensor, opts: Any) -> bool:
        """Depends on what is equal on all ranks."""
        return (
            not self._given_up
            and tensor.device.type == self._options.device
            and tensor.dtype in _DTYPES
            and opts.reduceOp == dist.ReduceOp.SUM
            and type(tensor) in (torch.Tensor, torch.nn.Parameter)
            and tensor.layout is torch.strided
            and 0 < tensor.numel() * tensor.element_size() <= self._options.max_bytes
            and tensor.is_contiguous()
        )

    def _ready(self, tensor: torch.Tensor) -> bool:
        """Is there a communicator that was prepared for the dtype? Makes and prepares it outside
        capture: collective."""
        if tensor.dtype in self._prepared:
            return True
        if tensor.is_cuda and torch.cuda.is_current_stream_capturing():
            return False
        reason = None
        try:
            if self._communicator is None:
                self._communicator = self._create(tensor)
            rows = -(-self._options.max_bytes // (_ROW * tensor.element_size()))
            self._communicator.prepare(Family("allreduce", tensor.dtype, _ROW, rows))
        except ArbiterError as error:
            reason = f"rank {self.rank()}: {error.__cause__ or error}"
            self._exchange.fail()
        reasons = [part.decode() for part in self._vote.allgather((reason or "").encode()) if part]
        if not reasons:
            self._prepared.add(tensor.dtype)
            return True
        self._given_up = True
        self._close(abort=True)
        warnings.warn(
            f"allreduce is left to the other backend: {'; '.join(reasons)}",
            RuntimeWarning,
            stacklevel=3,
        )
        return False

    def _create(self, tensor: torch.Tensor) -> Communicator:
        options = dict(self._options.communicator)
        options.setdefault("device", tensor.device.type)
        if tensor.is_cuda:
            options.setdefault("ordinal", tensor.device.index)
        exchange = self._exchange
        return Communicator.from_callbacks(
            self.rank(),
            self.size(),
            exchange.allgather,
            exchange.broadcast,
            exchange.barrier,
            **options,
        )

    def _close(self, abort: bool = False) -> None:
        made, self._communicator = self._communicator, None
        self._prepared.clear()
        if made is not None:
            if abort:
                made.abort()
            made.close()

    def shutdown(self) -> None:
        """Collective, as destroy_process_group() is."""
        self._given_up = True
        self._close()
        super().shutdown()

    def abort(self) -> None:
        self._given_up = True
        self._close(abort=True)
        super().abort()


def communicator(group: Any = None) -> Optional[Communicator]:
    """Of a group of this backend (None: all ranks): to ask for explain() or stats(). None before
    the first allreduce, for groups of other backends, and where NCCL serves all."""
    group = dist.group.WORLD if group is None else group
    return group._communicator if isinstance(group, ArbiterGroup) else None


def _create(given: Any, options: Any) -> ArbiterGroup:
    """Called by torch.distributed."""
    options = Options() if options is None else options
    if not isinstance(options, Options):
        raise TypeError(
            f"pg_options is a {type(options).__qualname__}; expected arbiter.distributed.Options or"
            " None"
        )
    store, rank, size = given.store, given.group_rank, given.group_size
    made = ArbiterGroup(store, rank, size, given.timeout, options)
    kinds = dist.ProcessGroup.BackendType
    if dist.is_nccl_available() and torch.cuda.is_available():
        nccl = dist.ProcessGroupNCCL.Options()
        nccl._timeout = given.timeout
        nccl.global_ranks_in_group = given.global_ranks_in_group
        nccl.group_name = given.group_id
        backend = dist.ProcessGroupNCCL(dist.PrefixStore("nccl", store), rank, size, nccl)
        backend._set_sequence_number_for_group()
        made._register_backend(torch.device("cuda"), kinds.NCCL, backend)
    if dist.is_gloo_available():
        host = dist.ProcessGroupGloo(
            dist.PrefixStore("gloo", store), rank, size, timeout=given.timeout
        )
        host._set_sequence_number_for_group()
        made._register_backend(torch.device("cpu"), kinds.GLOO, host)
    made._set_default_backend(kinds.NCCL if torch.cuda.is_available() else kinds.GLOO)
    return made


if not hasattr(dist.Backend, "ARBITER"):
    dist.Backend.register_backend("arbiter", _create, extended_api=True, devices=["cuda", "cpu"])
