"""SGLang's fused allreduce (sglang.srt.layers.flashinfer_comm_fusion) and stand-alone allreduce, served by Arbiter."""

from typing import Any, Optional, Tuple

import torch

from ..communicator import Communicator, Family
from ..errors import InvalidArgument

__all__ = ["AllReduce", "all_reduce", "configure", "flashinfer_allreduce_residual_rmsnorm", "patch", "shutdown"]

BACKENDS = ("auto", "trtllm", "mnnvl", "custom", "nccl")


class AllReduce:
    """One tensor-parallel group: one communicator for each backend that is asked for, made once and used again."""

    def __init__(
        self,
        group: Any = None,
        *,
        hidden_dim: int,
        max_token_num: int = 2048,
        dtype: torch.dtype = torch.bfloat16,
        backend: str = "auto",
        fused_backend: Optional[str] = None,
        communicator: Optional[Communicator] = None,
        **options: Any,
    ) -> None:
        """Collective. `backend` is for stand-alone allreduce, `fused_backend` for the fused one (None: the same)."""
        fused_backend = backend if fused_backend is None else fused_backend
        for name in (backend, fused_backend):
            if name not in BACKENDS:
                raise InvalidArgument(f"backend is {name!r}; expected one of {', '.join(BACKENDS)}")
        self.hidden_dim, self.max_token_num, self.dtype = hidden_dim, max_token_num, dtype
        self._owned = []
        if communicator is None:
            communicator = Communicator.from_torch(group, backend=backend, **options)
            self._owned.append(communicator)
        self.plain = self.fused = communicator
        if fused_backend != backend:
            self.fused = Communicator.from_torch(group, backend=fused_backend, **options)
            self._owned.append(self.fused)
        self.plain.prepare(Family("allreduce", dtype, hidden_dim, max_token_num))
        self.fused.prepare(Family("allreduce_residual_rmsnorm", dtype, hidden_dim, max_token_num))

    def accepts(self, x: torch.Tensor) -> bool:
        """Would a call with this input be served? Depends on dtype, shape and layout only: equal on all ranks."""
        return (
            x.dim() == 2
            and x.is_contiguous()
            and self.fused.prepared("allreduce_residual_rmsnorm", x.dtype, x.shape[1], x.shape[0])
            if x.dtype in (torch.bfloat16, torch.float16, torch.float32)
            else False
        )

    def residual_rmsnorm(
        self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> Tuple[Optional[torch.Tensor], Optional[torch.Tensor]]:
        """(norm_out, residual_out), new tensors; (None, None) for what is not served: SGLang then goes its own way."""
        if not self.accepts(x):
            return None, None
        done = self.fused.all_reduce_fused(x, residual=residual, gamma=weight, eps=eps)
        return done.norm_out, done.residual_out

    def all_reduce(self, x: torch.Tensor, inplace: bool = False) -> Optional[torch.Tensor]:
        """The sum, or None for what is not served."""
        room = self.hidden_dim * self.max_token_num
        if x.dtype != self.dtype or not x.is_contiguous() or x.numel() > room:
            return None
        return self.plain.all_reduce(x, out=x if inplace else None)

    def close(self) -> None:
        """Collective."""
        while self._owned:
            self._owned.pop().close()


_current: Optional[AllReduce] = None


def configure(group: Any = None, **arguments: Any) -> AllReduce:
    """Collective, once, before graphs are captured. Arguments: AllReduce. Replaces what was configured before."""
    global _current
    shutdown()
    _current = AllReduce(group, **arguments)
    return _current


def shutdown() -> None:
    """Collective."""
    global _current
    current, _current = _current, None
    if current is not None:
        current.close()


def flashinfer_allreduce_residual_rmsnorm(
    input_tensor: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    eps: float = 1e-6,
    max_token_num: int = 2048,
    use_oneshot: Optional[bool] = None,
    trigger_completion_at_end: bool = False,
    fp32_acc: bool = False,
    use_attn_tp_group: bool = True,
) -> Tuple[Optional[torch.Tensor], Optional[torch.Tensor]]:
    """SGLang's own signature: (norm_out, residual_out), or (None, None) where it must fall back. use_oneshot,
    trigger_completion_at_end and fp32_acc are ignored. use_attn_tp_group: the configured group must be the one meant."""
    del use_oneshot, trigger_completion_at_end, fp32_acc, use_attn_tp_group
    if _current is None or input_tensor.dim() != 2 or input_tensor.shape[0] > max_token_num:
        return None, None
    return _current.residual_rmsnorm(input_tensor, residual, weight, eps)


def all_reduce(tensor: torch.Tensor, inplace: bool = False) -> Optional[torch.Tensor]:
    """The sum over the configured group, or None for what is not served."""
    return None if _current is None else _current.all_reduce(tensor, inplace)


def patch(module: Any) -> None:
    """Puts the fused function into SGLang's module flashinfer_comm_fusion, or any with the same name in it. Raises
    InvalidArgument if there is no such name: another version of SGLang."""
    name = "flashinfer_allreduce_residual_rmsnorm"
    if not hasattr(module, name):
        raise InvalidArgument(
            f"{getattr(module, '__name__', module)} has no {name}: not the module, or not the version, "
            "that docs/engines.md names"
        )
    setattr(module, name, flashinfer_allreduce_residual_rmsnorm)
