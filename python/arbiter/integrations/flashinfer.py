"""FlashInfer's unified allreduce interface (flashinfer.comm), served by Arbiter. FlashInfer itself
is not needed."""

from typing import Any, Callable, Dict, Optional, Sequence, Tuple

import torch

from ..communicator import Communicator, Family
from ..errors import InvalidArgument, Unsupported

__all__ = [
    "AllReduceFusionPattern",
    "QuantizationSFLayout",
    "Workspace",
    "allreduce_fusion",
    "create_allreduce_fusion_workspace",
]


class AllReduceFusionPattern:
    """Codes of what is fused."""

    kAllReduce = 0
    kARResidualRMSNorm = 1
    kARResidualRMSNormFP8Quant = 2
    kARResidualRMSNormFP4Quant = 3
    kARResidualRMSNormOutFP8Quant = 4
    kARResidualRMSNormOutFP4Quant = 5
    kMoEReductionARResidualRMSNorm = 6
    kMoEFinalizeARResidualRMSNorm = 7
    kARResidualRMSNormPerTokenGroupFP8PackedQuant = 8
    kARResidualRMSNormOutPerTokenGroupFP8PackedQuant = 9
    kARResidualRMSNormDynamicFP8Quant = 10
    kARResidualRMSNormOutDynamicFP8Quant = 11


class QuantizationSFLayout:
    """Codes of where NVFP4 scales go."""

    SWIZZLED_128x4 = 0
    SWIZZLED_8x4 = 1
    LINEAR = 2


_NVFP4 = {0: "nvfp4_128x4", 1: "nvfp4_8x4", 2: "nvfp4_linear"}
_WITH_NORM = frozenset({4, 5, 9, 11})


def pattern_name(
    code: int, layout_code: Optional[int] = None, group_size: Optional[int] = None
) -> str:
    """The pattern of a code. Raises InvalidArgument for what has no meaning."""
    norm = "allreduce_residual_rmsnorm"
    if code in (3, 5):
        layout = 0 if layout_code is None else int(layout_code)
        if layout not in _NVFP4:
            raise InvalidArgument(
                f"layout_code is {layout_code}; expected 0 (128x4), 1 (8x4) or 2 (linear)"
            )
        return f"{norm}_{_NVFP4[layout]}"
    if code in (8, 9):
        if not group_size or group_size < 0:
            raise InvalidArgument(
                f"pattern {code} needs block_quant_group_size, more than 0; it is {group_size}"
            )
        return f"{norm}_fp8_group{group_size}_ue8m0"
    names = {
        0: "allreduce",
        1: norm,
        2: f"{norm}_fp8_static",
        4: f"{norm}_fp8_static",
        6: f"moe_reduce_{norm}",
        7: f"moe_finalize_{norm}",
        10: f"{norm}_fp8_token",
        11: f"{norm}_fp8_token",
    }
    if code not in names:
        raise InvalidArgument(f"pattern is {code!r}; expected a code from 0 to 11")
    return names[code]


Maker = Callable[[Optional[str]], Communicator]


class Workspace:
    """What allreduce_fusion() works with: a communicator, and how much was asked for. `make`: makes
    another one of the same group and options that is pinned to "oneshot" or "twoshot"; None where
    the communicator was lent."""

    def __init__(
        self,
        communicator: Communicator,
        backend: str,
        max_token_num: int,
        hidden_dim: int,
        dtype: torch.dtype,
        make: Optional[Maker] = None,
    ) -> None:
        self.communicator = communicator
        self.world_size = communicator.size
        self.rank = communicator.rank
        self.backend = backend
        self.max_token_num = max_token_num
        self.hidden_dim = hidden_dim
        self.dtype = dtype
        self._make = make
        self._kinds: Dict[bool, Communicator] = {}
        self._destroyed = False
        self._scales: Dict[Tuple[float, Any], torch.Tensor] = {}

    def is_buffer_size_sufficient(
        self,
        tp_size: int,
        num_tokens: int,
        hidden_dim: int,
        dtype: torch.dtype,
        use_oneshot: Optional[bool] = None,
    ) -> bool:
        """Would such a call be served without making the workspace anew? Local, equal on all ranks,
        launches nothing."""
        if self._destroyed or tp_size != self.world_size:
            return False
        return (
            num_tokens * hidden_dim * dtype.itemsize
            <= self.max_token_num * self.hidden_dim * self.dtype.itemsize
        )

    def of(self, use_oneshot: Optional[bool]) -> Communicator:
        """None: the one that chooses. Collective when a kind is asked for the first time; refused
        in capture. A lent communicator serves all: how it was made decides."""
        if self._destroyed:
            raise InvalidArgument("the workspace is destroyed")
        if use_oneshot is None or self._make is None:
            return self.communicator
        kind = bool(use_oneshot)
        if kind not in self._kinds:
            if capturing():
                raise Unsupported(
                    f"use_oneshot={kind} is new, and a graph is being captured; call once before"
                    " capture on all ranks"
                    + (", or create the workspace with force_oneshot_support=True" if kind else "")
                )
            self._kinds[kind] = self._make("oneshot" if kind else "twoshot")
        return self._kinds[kind]

    def prepare(
        self,
        pattern: str,
        dtype: torch.dtype,
        hidden: int,
        tokens: int,
        use_oneshot: Optional[bool] = None,
    ) -> Communicator:
        """The communicator, prepared: collective unless it was done before; refused in capture."""
        communicator = self.of(use_oneshot)
        if communicator.prepared(pattern, dtype, hidden, tokens):
            return communicator
        if capturing():
            raise Unsupported(
                f"'{pattern}' for {tokens} tokens of {hidden} was not prepared, and a graph is"
                " being captured; name its code in"
                " create_allreduce_fusion_workspace(patterns=...), or call it once before capture"
                " on all ranks"
            )
        room = (
            self.max_token_num * self.hidden_dim * self.dtype.itemsize // (hidden * dtype.itemsize)
        )
        if tokens > room:
            raise InvalidArgument(
                f"{tokens} tokens of {hidden} {dtype} do not fit a workspace of"
                f" {self.max_token_num} tokens of {self.hidden_dim} {self.dtype}; ask"
                " is_buffer_size_sufficient() first"
            )
        communicator.prepare(Family(pattern, dtype, hidden, room))
        return communicator

    def scale(self, value: float, like: torch.Tensor) -> torch.Tensor:
        """The number in device memory, from a cache."""
        key = (value, like.device)
        if key not in self._scales:
            if like.is_cuda and capturing():
                raise Unsupported(
                    f"scale_factor {value} is new, and a graph is being captured; pass a tensor, or"
                    " call once before capture"
                )
            self._scales[key] = torch.full((1,), value, dtype=torch.float32, device=like.device)
        return self._scales[key]

    def destroy(self) -> None:
        """Collective, when the work has completed. A second call does nothing."""
        if self._destroyed:
            return
        self._destroyed = True
        self._scales.clear()
        for kind in sorted(self._kinds):
            self._kinds.pop(kind).close()
        if self._make is not None:
            self.communicator.close()


def capturing() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def create_allreduce_fusion_workspace(
    backend: str = "auto",
    world_size: Optional[int] = None,
    rank: Optional[int] = None,
    max_token_num: Optional[int] = None,
    hidden_dim: Optional[int] = None,
    dtype: Optional[torch.dtype] = None,
    gpus_per_node: Optional[int] = None,
    comm_backend: Any = None,
    force_oneshot_support: bool = False,
    group: Any = None,
    *,
    patterns: Sequence[int] = (0, 1),
    communicator: Optional[Communicator] = None,
    **options: Any,
) -> Workspace:
    """Collective. As flashinfer.comm's; gpus_per_node and comm_backend are ignored.
    force_oneshot_support: prepares the codes for use_oneshot=True too. `patterns`: codes to prepare
    now (others: at their first call, outside capture). `communicator`: use this one, and leave it
    open at destroy(); use_oneshot is ignored then. Further options are those of Communicator.
    Raises what Communicator raises; InvalidArgument when world_size or rank contradict the group.
    """
    del gpus_per_node, comm_backend
    if max_token_num is None or hidden_dim is None or dtype is None:
        raise InvalidArgument("max_token_num, hidden_dim and dtype are needed")

    def make(candidate: Optional[str]) -> Communicator:
        return Communicator.from_torch(
            group, backend=backend, **{"candidate": candidate, **options}
        )

    owned = communicator is None
    if communicator is None:
        communicator = make(None)
    workspace = None
    try:
        for name, given, actual in (
            ("world_size", world_size, communicator.size),
            ("rank", rank, communicator.rank),
        ):
            if given is not None and given != actual:
                raise InvalidArgument(
                    f"{name} is {given}, but the group says {actual}; pass the group that reduces"
                )
        workspace = Workspace(
            communicator, backend, max_token_num, hidden_dim, dtype, make if owned else None
        )
        for code in patterns:
            workspace.prepare(pattern_name(code), dtype, hidden_dim, max_token_num)
            if force_oneshot_support:
                workspace.prepare(pattern_name(code), dtype, hidden_dim, max_token_num, True)
    except BaseException:
        if owned:
            for each in [communicator, *(workspace._kinds.values() if workspace else ())]:
                each.abort()
                each.close()
        raise
    return workspace


def allreduce_fusion(
    input: torch.Tensor,
    workspace: Workspace,
    pattern: int,
    launch_with_pdl: bool = False,
    trigger_completion_at_end: bool = True,
    output: Optional[torch.Tensor] = None,
    residual_out: Optional[torch.Tensor] = None,
    norm_out: Optional[torch.Tensor] = None,
    quant_out: Optional[torch.Tensor] = None,
    scale_out: Optional[torch.Tensor] = None,
    residual_in: Optional[torch.Tensor] = None,
    rms_gamma: Optional[torch.Tensor] = None,
    rms_eps: float = 1e-6,
    scale_factor: Any = None,
    layout_code: Optional[int] = None,
    use_oneshot: Optional[bool] = None,
    fp32_acc: bool = False,
    moe_reduction_device_num_experts: Optional[int] = None,
    moe_reduction_scale_input: Optional[torch.Tensor] = None,
    moe_reduction_active_experts_token_input: Optional[torch.Tensor] = None,
    moe_reduction_token_input: Optional[torch.Tensor] = None,
    expanded_idx_to_permuted_idx: Optional[torch.Tensor] = None,
    expert_scale_factor: Optional[torch.Tensor] = None,
    shared_expert_output: Optional[torch.Tensor] = None,
    block_quant_group_size: Optional[int] = None,
    weight_bias: float = 0.0,
    **ignored: Any,
) -> torch.Tensor:
    """As flashinfer.comm's. use_oneshot: True or False takes the best of Arbiter's one-shot or
    two-shot kernels where there is one for the pattern, None what was measured fastest.
    launch_with_pdl, trigger_completion_at_end, fp32_acc and moe_finalize_backend are ignored:
    kernels start early where that is right, and sums are always in fp32. Returns quant_out for
    codes that quantise, output for 0, else norm_out. InvalidArgument: a tensor is wrong; `output`
    with a residual, which no kernel writes."""
    del launch_with_pdl, trigger_completion_at_end, fp32_acc
    unknown = ignored.keys() - {"moe_finalize_backend"}
    if unknown:
        raise TypeError(f"allreduce_fusion() got an unexpected keyword argument '{min(unknown)}'")
    name = pattern_name(pattern, layout_code, block_quant_group_size)
    if pattern != 0 and output is not None:
        raise InvalidArgument(
            "the plain sum (output) is not written beside a residual: take residual_out, or reduce"
            " with pattern 0 first"
        )
    arguments: Dict[str, Any] = {}
    x = input
    if pattern != 0:
        arguments = {
            "residual": residual_in,
            "gamma": rms_gamma,
            "eps": rms_eps,
            "weight_bias": weight_bias,
            "residual_out": residual_out,
        }
        if pattern == 1 or pattern in (6, 7) or pattern in _WITH_NORM:
            arguments["norm_out"] = True if norm_out is None else norm_out
        elif norm_out is not None:
            arguments["norm_out"] = norm_out
        if pattern >= 8 or 2 <= pattern <= 5:
            arguments["quant_out"] = quant_out
            if "fp8_static" not in name:
                arguments["scale_out"] = scale_out
    if pattern in (2, 3, 4, 5):
        if scale_factor is None:
            raise InvalidArgument(
                f"pattern {pattern} needs scale_factor, a number or an fp32 tensor of one"
            )
        arguments["scale_in"] = (
            scale_factor
            if isinstance(scale_factor, torch.Tensor)
            else workspace.scale(float(scale_factor), input)
        )
    if pattern == 6:
        x, arguments["moe_weights"] = _experts(
            moe_reduction_device_num_experts,
            moe_reduction_scale_input,
            moe_reduction_active_experts_token_input,
            residual_in,
        )
        arguments["moe_shared"] = moe_reduction_token_input
    if pattern == 7:
        if expanded_idx_to_permuted_idx is None or expert_scale_factor is None:
            raise InvalidArgument(
                "pattern 7 needs expanded_idx_to_permuted_idx and expert_scale_factor"
            )
        arguments.update(
            moe_row_map=expanded_idx_to_permuted_idx,
            moe_weights=expert_scale_factor,
            moe_shared=shared_expert_output,
        )
    hidden = x.shape[-1]
    tokens = (residual_in if residual_in is not None and pattern in (6, 7) else x).numel() // hidden
    communicator = workspace.prepare(name, x.dtype, hidden, tokens, use_oneshot)
    if pattern == 0:
        return communicator.all_reduce(x, out=output)
    done = communicator.all_reduce_fused(x, pattern=name, **arguments)
    return done.quant_out if done.quant_out is not None else done.norm_out


def _experts(
    experts: Optional[int],
    weights: Optional[torch.Tensor],
    rows: Optional[torch.Tensor],
    residual: Optional[torch.Tensor],
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Tokens of the rank's experts as [experts, tokens, hidden], and their weights as [experts,
    tokens]."""
    if not experts or weights is None or rows is None or residual is None:
        raise InvalidArgument(
            "pattern 6 needs moe_reduction_device_num_experts, moe_reduction_scale_input, "
            "moe_reduction_active_experts_token_input and residual_in"
        )
    hidden = residual.shape[-1]
    tokens = residual.numel() // hidden
    if rows.numel() != experts * tokens * hidden:
        raise InvalidArgument(
            f"moe_reduction_active_experts_token_input has shape {tuple(rows.shape)}; expected "
            f"[{experts} * {tokens}, {hidden}], expert by expert"
        )
    if (
        weights.dim() > 1
        and tuple(weights.shape) != (experts, tokens)
        or weights.numel() != experts * tokens
    ):
        raise InvalidArgument(
            f"moe_reduction_scale_input has shape {tuple(weights.shape)}; expected [{experts},"
            f" {tokens}]"
        )
    return rows.view(experts, tokens, hidden), weights.view(experts, tokens)
