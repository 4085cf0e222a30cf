"""The libraries, each behind the same three calls. Making one is collective, and raises where it is
not to be had."""

import contextlib
import importlib
from typing import Any, ContextManager, Dict, List, NamedTuple, Optional, Type

import torch
import torch.distributed as dist
import torch.nn.functional as F

from transformer.context import Context
from transformer.model import EPS
from transformer.rows import FlashInfer

PLAIN, NORM = "allreduce", "allreduce_residual_rmsnorm"


class Work(NamedTuple):
    """What a peer must be ready for: messages of up to `tokens` rows of `hidden` elements of
    bf16."""

    context: Context
    hidden: int
    tokens: int
    decisions: Optional[str]
    host_group: Any  # gloo, over the same ranks


class Peer:
    """plain(x): the sum, perhaps in x. norm(x, residual, gamma): RMSNorm of the new residual;
    changes residual."""

    name = ""
    multicast = False  # makes or may make an NVLink multicast object
    max_bytes: Optional[int] = None
    patterns = (PLAIN, NORM)

    def __init__(self, work: Work) -> None:
        self.work = work

    def input(self, rows: int) -> torch.Tensor:
        """Where this peer wants its input: [rows, hidden]."""
        return torch.empty(
            rows, self.work.hidden, dtype=self.work.context.dtype, device=self.work.context.device
        )

    def plain(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def norm(self, x: torch.Tensor, residual: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
        residual.add_(self.plain(x))
        return F.rms_norm(residual, (residual.shape[-1],), gamma, EPS)

    def capture(self) -> ContextManager[Any]:
        """Around every capture."""
        return contextlib.nullcontext()

    def close(self) -> None:
        pass


class Nothing(Peer):
    """No allreduce: what surrounds one takes this long by itself."""

    def plain(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def norm(self, x: torch.Tensor, residual: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
        return x


class Nccl(Peer):
    """torch.distributed, then torch's addition and RMSNorm."""

    name = "nccl"

    def plain(self, x: torch.Tensor) -> torch.Tensor:
        dist.all_reduce(x, group=self.work.context.group)
        return x


class _SymmetricMemory(Peer):
    """PyTorch's symmetric memory: the input lies in it."""

    patterns = (PLAIN,)

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        if not work.context.cuda:
            raise RuntimeError("needs GPUs")
        import torch.distributed._symmetric_memory as memory

        self._group = work.context.group.group_name
        if hasattr(memory, "enable_symm_mem_for_group"):
            memory.enable_symm_mem_for_group(self._group)
        self._memory = memory.empty(
            work.tokens * work.hidden, dtype=work.context.dtype, device=work.context.device
        )
        memory.rendezvous(self._memory, self._group)

    def input(self, rows: int) -> torch.Tensor:
        return self._memory[: rows * self.work.hidden].view(rows, self.work.hidden)


class TorchOneShot(_SymmetricMemory):
    name = "torch one_shot"
    max_bytes = 16 << 20

    def plain(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.symm_mem.one_shot_all_reduce(x, "sum", self._group)


class TorchTwoShot(_SymmetricMemory):
    name = "torch two_shot"

    def plain(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.symm_mem.two_shot_all_reduce_(x, "sum", self._group)


class TorchMultimem(_SymmetricMemory):
    name = "torch multimem"
    multicast = True

    def plain(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.symm_mem.multimem_all_reduce_(x, "sum", self._group)


class FlashInferTrtllm(Peer):
    name = "flashinfer trtllm"

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        self._made = FlashInfer(work.context, work.hidden, work.tokens)
        self.plain, self.norm = self._made.plain, self._made.fused  # type: ignore[method-assign]

    def close(self) -> None:
        self._made.workspace.destroy()


class FlashInferMnnvl(FlashInferTrtllm):
    name = "flashinfer mnnvl"
    multicast = True

    def __init__(self, work: Work) -> None:
        Peer.__init__(self, work)
        self._made = FlashInfer(work.context, work.hidden, work.tokens, "mnnvl")
        self.plain, self.norm = self._made.plain, self._made.fused  # type: ignore[method-assign]


class FlashInferAuto(FlashInferTrtllm):
    name = "flashinfer auto"
    multicast = True

    def __init__(self, work: Work) -> None:
        Peer.__init__(self, work)
        self._made = FlashInfer(work.context, work.hidden, work.tokens, "auto")
        self.plain, self.norm = self._made.plain, self._made.fused  # type: ignore[method-assign]


class _CustomAllreduce(Peer):
    """An engine's own kernel. A graph's inputs must come from cudaMalloc, and are registered after
    its capture."""

    patterns = (PLAIN,)
    modules = ("",)

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        made, failures = None, []
        for module in self.modules:
            try:
                made = importlib.import_module(module).CustomAllreduce
                break
            except (ImportError, AttributeError) as error:
                failures.append(str(error))
        if made is None:
            raise RuntimeError("; ".join(failures))
        self._made = made(
            work.host_group,
            work.context.device,
            max_size=max(8 << 20, 2 * work.tokens * work.hidden * 2),
        )
        if hasattr(self._made, "finalize_p2p"):
            self._made.finalize_p2p()
        if self._made.disabled:
            raise RuntimeError("it says that it is disabled here")
        self.max_bytes = self._made.max_size - 1

    def plain(self, x: torch.Tensor) -> torch.Tensor:
        out = self._made.custom_all_reduce(x)
        if out is None:
            raise RuntimeError(f"it does not take {x.numel() * x.element_size()} bytes")
        return out

    def capture(self) -> ContextManager[Any]:
        return self._made.capture()

    def close(self) -> None:
        self._made.close()


class VllmCustom(_CustomAllreduce):
    name = "vllm custom"
    modules = ("vllm.distributed.device_communicators.custom_all_reduce",)


class SglangCustom(_CustomAllreduce):
    name = "sglang custom"
    modules = ("sglang.srt.distributed.device_communicators.custom_all_reduce",)


class Arbiter(Peer):
    backend = "auto"

    def __init__(self, work: Work) -> None:
        super().__init__(work)
        import arbiter

        context = work.context
        self.communicator = arbiter.Communicator.from_torch(
            context.group, backend=self.backend, decisions=work.decisions
        )
        try:
            self.communicator.prepare(
                *[
                    arbiter.Family(pattern, context.dtype, work.hidden, work.tokens)
                    for pattern in (PLAIN, NORM)
                ]
            )
        except BaseException:
            self.communicator.abort()
            self.communicator.close()
            raise

    def plain(self, x: torch.Tensor) -> torch.Tensor:
        return self.communicator.all_reduce(x)

    def norm(self, x: torch.Tensor, residual: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
        return self.communicator.all_reduce_fused(
            x, residual=residual, gamma=gamma, eps=EPS, residual_out=residual
        ).norm_out

    def candidate(self, pattern: str, rows: int) -> str:
        return self.communicator.explain(pattern, self.work.context.dtype, self.work.hidden, rows)[
            "candidate"
        ]

    def close(self) -> None:
        self.communicator.check()
        self.communicator.close()


def _arbiter(backend: str) -> Type[Arbiter]:
    return type(
        f"Arbiter_{backend}", (Arbiter,), {"name": f"arbiter {backend}", "backend": backend}
    )


PEERS: List[Type[Peer]] = [
    Nccl,
    TorchOneShot,
    TorchTwoShot,
    TorchMultimem,
    FlashInferTrtllm,
    FlashInferMnnvl,
    FlashInferAuto,
    VllmCustom,
    SglangCustom,
    *[_arbiter(backend) for backend in ("trtllm", "mnnvl", "custom", "auto")],
]


def make(work: Work, wanted: Optional[List[str]], allow_multicast: bool) -> Dict[str, Any]:
    """{name: peer, or the reason why there is none}. Collective; what fails on one rank is none on
    all."""
    made: Dict[str, Any] = {}
    for kind in PEERS:
        if wanted is not None and kind.name not in wanted:
            continue
        if kind.multicast and not allow_multicast:
            made[kind.name] = "uses NVLink multicast: --allow-multicast"
            continue
        peer, reason = None, None
        try:
            peer = kind(work)
        except Exception as error:  # of any library
            reason = f"{type(error).__name__}: {error}"
        reason = work.context.failure(reason)
        made[kind.name] = peer if reason is None else reason
        if reason is not None and isinstance(peer, Arbiter):
            peer.communicator.abort()
            peer.communicator.close()
    return made
