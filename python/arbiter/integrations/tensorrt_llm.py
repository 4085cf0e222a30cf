"""TensorRT-LLM's allreduce operator, served by Arbiter: its strategies, its fusion codes, a list of
results."""

from typing import Any, Dict, List, Optional

import torch

from ..errors import InvalidArgument, Unsupported
from .flashinfer import Workspace

__all__ = ["AllReduceFusionOp", "AllReduceStrategy", "allreduce"]


class AllReduceStrategy:
    """Codes of how. NCCL, MIN_LATENCY, UB, AUTO and LOWPRECISION all mean what was measured fastest
    here."""

    NCCL = 0
    MIN_LATENCY = 1
    UB = 2
    AUTO = 3
    ONESHOT = 4
    TWOSHOT = 5
    LOWPRECISION = 6


class AllReduceFusionOp:
    """Codes of what follows."""

    NONE = 0
    RESIDUAL_RMS_NORM = 1
    LAST_PROCESS_FOR_UB = 2
    RESIDUAL_RMS_PREPOST_NORM = 3
    RESIDUAL_RMS_NORM_QUANT_FP8 = 4
    RESIDUAL_RMS_NORM_QUANT_NVFP4 = 5
    RESIDUAL_RMS_NORM_OUT_QUANT_FP8 = 6
    RESIDUAL_RMS_NORM_OUT_QUANT_NVFP4 = 7


_NORM = "allreduce_residual_rmsnorm"
_PATTERNS = {
    AllReduceFusionOp.NONE: "allreduce",
    AllReduceFusionOp.RESIDUAL_RMS_NORM: _NORM,
    AllReduceFusionOp.RESIDUAL_RMS_NORM_QUANT_FP8: f"{_NORM}_fp8_static",
    AllReduceFusionOp.RESIDUAL_RMS_NORM_OUT_QUANT_FP8: f"{_NORM}_fp8_static",
    AllReduceFusionOp.RESIDUAL_RMS_NORM_QUANT_NVFP4: f"{_NORM}_nvfp4_128x4",
    AllReduceFusionOp.RESIDUAL_RMS_NORM_OUT_QUANT_NVFP4: f"{_NORM}_nvfp4_128x4",
}
_WITH_NORM = (
    AllReduceFusionOp.RESIDUAL_RMS_NORM_OUT_QUANT_FP8,
    AllReduceFusionOp.RESIDUAL_RMS_NORM_OUT_QUANT_NVFP4,
)
_ONESHOT = {AllReduceStrategy.ONESHOT: True, AllReduceStrategy.TWOSHOT: False}


def allreduce(
    input: torch.Tensor,
    residual: Optional[torch.Tensor] = None,
    norm_weight: Optional[torch.Tensor] = None,
    scale: Optional[torch.Tensor] = None,
    bias: Optional[torch.Tensor] = None,
    workspace: Optional[Workspace] = None,
    group: Any = None,
    strategy: int = AllReduceStrategy.AUTO,
    op: int = AllReduceFusionOp.NONE,
    eps: float = 1e-6,
    trigger_completion_at_end: bool = True,
) -> List[torch.Tensor]:
    """What `op` gives, new tensors, in TensorRT-LLM's order: [sum]; [norm, residual]; quantised:
    [norm if it is kept, quant, scales if there are, residual]. `workspace`: of
    flashinfer.create_allreduce_fusion_workspace(), made once for the group; what was not prepared
    is prepared at the first call, which is collective and refused in capture. `scale`: one fp32
    number. `group` and trigger_completion_at_end are ignored. InvalidArgument: a tensor is missing
    or wrong; Unsupported: a bias, or a code that has no kernel here."""
    del group, trigger_completion_at_end
    if workspace is None:
        raise InvalidArgument(
            "workspace is None; make one with flashinfer.create_allreduce_fusion_workspace()"
        )
    if bias is not None:
        raise Unsupported(
            "a bias is not added by any kernel: add it to the residual, or to the input of one rank"
        )
    if op not in _PATTERNS:
        raise Unsupported(f"op {op} has no kernel here; expected one of {sorted(_PATTERNS)}")
    pattern = _PATTERNS[op]
    hidden = input.shape[-1]
    communicator = workspace.prepare(
        pattern, input.dtype, hidden, input.numel() // hidden, _ONESHOT.get(strategy)
    )
    if op == AllReduceFusionOp.NONE:
        return [communicator.all_reduce(input)]
    arguments: Dict[str, Any] = {"residual": residual, "gamma": norm_weight, "eps": eps}
    if pattern != _NORM:
        arguments.update(scale_in=scale, norm_out=True if op in _WITH_NORM else None)
    done = communicator.all_reduce_fused(input, pattern=pattern, **arguments)
    order = (done.norm_out, done.quant_out, done.scale_out, done.residual_out)
    return [result for result in order if result is not None]
