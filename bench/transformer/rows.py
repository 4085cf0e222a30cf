"""Who does a layer's two allreduces, residual additions and RMSNorms, and the allreduce after the
embedding."""

import contextlib
import importlib
import inspect
import os
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Optional, Set, Union

import torch
import torch.distributed as dist
import torch.nn.functional as F

from .context import Context
from .model import EPS

Plain = Callable[[torch.Tensor], torch.Tensor]
Fused = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
BACKENDS = ("trtllm", "mnnvl", "auto")


@dataclass
class Row:
    """plain(x): the sum, perhaps in x. fused(x, residual, gamma): the norm of the new residual;
    changes residual. `fusion`, `standalone`: which of the two is not NCCL's. `unavailable`: why
    there are none."""

    name: str
    who: str
    backend: str
    fusion: bool
    standalone: bool
    plain: Any = None
    fused: Any = None
    unavailable: Optional[str] = None

    def names(self) -> Set[str]:
        """What selects it: the whole name, the part behind who it is, who, the backend."""
        return {self.name, self.name.split(" ")[-1], self.who, self.backend}

    def describe(self) -> Dict[str, Any]:
        return {
            "row": self.name,
            "who": self.who,
            "backend": self.backend,
            "fusion": self.fusion,
            "standalone": self.standalone,
        }


def unfused(plain: Plain) -> Fused:
    """Any allreduce, then PyTorch's kernels."""

    def fused(x: torch.Tensor, residual: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
        residual.add_(plain(x))
        return F.rms_norm(residual, (residual.shape[-1],), gamma, EPS)

    return fused


def nccl(context: Context) -> Plain:
    def plain(x: torch.Tensor) -> torch.Tensor:
        dist.all_reduce(x, group=context.group)
        return x

    return plain


def reference(context: Context) -> Row:
    """NCCL's sums in fp32."""

    def plain(x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        dist.all_reduce(wide, group=context.group)
        return wide.to(x.dtype)

    return Row("reference", "nccl", "nccl", False, False, plain, unfused(plain))


class Arbiter:
    def __init__(self, communicator: Any) -> None:
        self.communicator = communicator

    def plain(self, x: torch.Tensor) -> torch.Tensor:
        return self.communicator.all_reduce(x, out=x)

    def fused(self, x: torch.Tensor, residual: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
        return self.communicator.all_reduce_fused(
            x, residual=residual, gamma=gamma, eps=EPS, residual_out=residual
        ).norm_out


class FlashInfer:
    """FlashInfer's kernels. Those of `trtllm` are kept from NVLink multicast objects; RuntimeError
    where its version cannot be. Other backends make them."""

    def __init__(self, context: Context, hidden: int, tokens: int, backend: str = "trtllm") -> None:
        import flashinfer.comm as comm

        self.comm = comm
        where = {}
        if "group" in inspect.signature(comm.create_allreduce_fusion_workspace).parameters:
            where["group"] = context.group
        elif context.size != dist.get_world_size():
            raise RuntimeError(
                "this FlashInfer makes workspaces for all ranks only, and the group has fewer"
            )
        with _without_multicast() if backend == "trtllm" else contextlib.nullcontext():
            self.workspace = comm.create_allreduce_fusion_workspace(
                backend=backend,
                world_size=context.size,
                rank=context.rank,
                max_token_num=max(tokens, 16),
                hidden_dim=hidden,
                dtype=context.dtype,
                **where,
            )

    def plain(self, x: torch.Tensor) -> torch.Tensor:
        return self.comm.allreduce_fusion(
            x,
            self.workspace,
            self.comm.AllReduceFusionPattern.kAllReduce,
            launch_with_pdl=True,
            fp32_acc=True,
        )

    def fused(self, x: torch.Tensor, residual: torch.Tensor, gamma: torch.Tensor) -> torch.Tensor:
        norm = torch.empty_like(x)
        self.comm.allreduce_fusion(
            x,
            self.workspace,
            self.comm.AllReduceFusionPattern.kARResidualRMSNorm,
            launch_with_pdl=True,
            fp32_acc=True,
            residual_in=residual,
            residual_out=residual,
            norm_out=norm,
            rms_gamma=gamma,
            rms_eps=EPS,
        )
        return norm


@contextlib.contextmanager
def _without_multicast() -> Iterator[None]:
    """Newer versions allocate the workspace of `trtllm` themselves, without a multicast object. Older
    ones make one, but under confidential computing: they are told that this is that. What they do
    instead is memory of CUDA IPC or PyTorch's symmetric memory, which makes one too unless
    TORCH_SYMM_MEM_DISABLE_MULTICAST is set."""
    import flashinfer.comm as comm

    if os.environ.get("TORCH_SYMM_MEM_DISABLE_MULTICAST") != "1":
        raise RuntimeError("TORCH_SYMM_MEM_DISABLE_MULTICAST is not 1")
    create = comm.trtllm_create_ipc_workspace_for_all_reduce_fusion
    if "enable_multicast=False" in inspect.getsource(inspect.unwrap(create)):
        yield
        return
    module = importlib.import_module("flashinfer.comm.allreduce")
    if not hasattr(module, "is_confidential_compute"):
        raise RuntimeError("this FlashInfer cannot be kept from making a multicast object")
    real = module.is_confidential_compute
    module.is_confidential_compute = lambda *_: True
    try:
        yield
    finally:
        module.is_confidential_compute = real


def make_communicators(
    context: Context, hiddens: List[int], tokens: int, decisions: Optional[str]
) -> Dict[str, Union[Any, str]]:
    """{backend: communicator, or the reason why there is none}; collective. Everything is prepared
    here, because nothing may move after the first capture."""
    import arbiter

    made: Dict[str, Union[Any, str]] = {}
    for backend in BACKENDS:
        communicator, reason = None, None
        try:
            communicator = arbiter.Communicator.from_torch(
                context.group, backend=backend, decisions=decisions or None
            )
            communicator.prepare(
                *[
                    arbiter.Family(pattern, context.dtype, hidden, tokens)
                    for hidden in hiddens
                    for pattern in ("allreduce", "allreduce_residual_rmsnorm")
                ]
            )
        except arbiter.ArbiterError as error:
            reason = f"{type(error).__name__}: {error}"
        reason = context.failure(reason)
        if reason is None:
            made[backend] = communicator
            continue
        made[backend] = reason
        context.say(f"arbiter, {backend}: {reason}")
        if communicator is not None:
            communicator.abort()
            communicator.close()
    return made


def make_rows(
    context: Context, communicators: Dict[str, Any], hidden: int, tokens: int
) -> List[Row]:
    """NCCL first. For each of Arbiter's backends: the stand-alone allreduce, the fused one,
    both."""
    base = nccl(context)
    rows = [Row("nccl", "nccl", "nccl", False, False, base, unfused(base))]
    if context.cuda:
        made, reason = None, None
        try:
            made = FlashInfer(context, hidden, tokens)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
        reason = context.failure(reason)
        rows += _of("flashinfer", "trtllm", base, made, reason)[1:]
    for backend, communicator in communicators.items():
        if isinstance(communicator, str):
            rows += _of("arbiter", backend, base, None, communicator)
        else:
            rows += _of("arbiter", backend, base, Arbiter(communicator), None)
    return rows


def _of(who: str, backend: str, base: Plain, made: Any, reason: Optional[str]) -> List[Row]:
    rows = []
    for fusion, standalone in ((False, True), (True, False), (True, True)):
        what = "+".join(name for name, on in (("fusion", fusion), ("allreduce", standalone)) if on)
        row = Row(f"{who} {backend}_{what}", who, backend, fusion, standalone, unavailable=reason)
        if reason is None:
            row.plain = made.plain if standalone else base
            row.fused = made.fused if fusion else unfused(row.plain)
        rows.append(row)
    return rows
