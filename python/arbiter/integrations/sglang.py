"""SGLang's fused allreduce (sglang.srt.layers.flashinfer_comm_fusion) and stand-alone allreduce,
served by Arbiter.

configure() once on every rank, after the groups exist and before graphs are captured; then patch().
The workspace is made once and used again: what is not prepared yet is prepared outside capture, and
declined inside it."""

import logging
import sys
from typing import Any, Dict, List, Optional, Tuple

import torch

from ..communicator import Communicator, Family
from ..errors import ArbiterError, InvalidArgument
from .flashinfer import Workspace, capturing, pattern_name

__all__ = [
    "AllReduce",
    "all_reduce",
    "cleanup_flashinfer_workspace",
    "configure",
    "ensure_workspace_initialized",
    "flashinfer_allreduce_residual_rmsnorm",
    "is_flashinfer_allreduce_unavailable",
    "patch",
    "pre_initialize_workspaces",
    "shutdown",
]

BACKENDS = ("auto", "trtllm", "mnnvl", "custom", "nccl")
_NORM = pattern_name(1)
_logger = logging.getLogger(__name__)


class AllReduce:
    """One tensor-parallel group: a communicator for each backend that is asked for, made once and
    used again."""

    def __init__(
        self,
        group: Any = None,
        *,
        hidden_dim: int,
        max_token_num: int = 2048,
        dtype: torch.dtype = torch.bfloat16,
        backend: Optional[str] = "auto",
        fused_backend: Optional[str] = "auto",
        communicator: Optional[Communicator] = None,
        **options: Any,
    ) -> None:
        """Collective. `backend` is for the stand-alone allreduce, `fused_backend` for the fused
        one; None: the path is not served at all, and SGLang goes its own way. `communicator`: use
        this one for both, and leave it open."""
        for name in (backend, fused_backend):
            if name is not None and name not in BACKENDS:
                raise InvalidArgument(
                    f"backend is {name!r}; expected one of {', '.join(BACKENDS)}, or None"
                )
        self.hidden_dim, self.max_token_num, self.dtype = hidden_dim, max_token_num, dtype
        self._owned: List[Communicator] = []
        self.plain: Optional[Communicator] = None
        self.workspace: Optional[_Kinds] = None
        made: Dict[str, Communicator] = {}

        def make(name: str, candidate: Optional[str] = None) -> Communicator:
            if communicator is not None:
                return communicator
            if candidate is not None or name not in made:
                fresh = Communicator.from_torch(
                    group, backend=name, **{"candidate": candidate, **options}
                )
                if candidate is not None:
                    return fresh  # the workspace closes it
                made[name] = fresh
                self._owned.append(fresh)
            return made[name]

        if backend is not None:
            self.plain = make(backend)
            self.plain.prepare(Family("allreduce", dtype, hidden_dim, max_token_num))
        if fused_backend is not None:
            fused = make(fused_backend)
            self.workspace = _Kinds(
                fused,
                fused_backend,
                max_token_num,
                hidden_dim,
                dtype,
                (
                    None
                    if communicator is not None
                    else lambda candidate: make(fused_backend, candidate)
                ),
            )
            self.workspace.prepare(_NORM, dtype, hidden_dim, max_token_num)

    @property
    def fused(self) -> Optional[Communicator]:
        return None if self.workspace is None else self.workspace.communicator

    def is_buffer_size_sufficient(
        self,
        token_num: int,
        hidden_dim: int,
        dtype: torch.dtype,
        use_oneshot: Optional[bool] = None,
    ) -> bool:
        """Would a fused call be served as it is, in capture too? Local, equal on all ranks; makes
        nothing anew."""
        if self.workspace is None or dtype not in (torch.bfloat16, torch.float16, torch.float32):
            return False
        return self.workspace.ready(_NORM, dtype, hidden_dim, token_num, use_oneshot)

    def ensure(
        self,
        token_num: int,
        hidden_dim: int,
        dtype: torch.dtype,
        use_oneshot: Optional[bool] = None,
    ) -> bool:
        """The same, after preparing what is missing, which is collective. In capture nothing is
        prepared."""
        if self.is_buffer_size_sufficient(token_num, hidden_dim, dtype, use_oneshot):
            return True
        if self.workspace is None or capturing():
            return False
        self.workspace.grow(token_num, hidden_dim, dtype)
        self.workspace.prepare(_NORM, dtype, hidden_dim, token_num, use_oneshot)
        return True

    def accepts(self, x: torch.Tensor, use_oneshot: Optional[bool] = None) -> bool:
        """Would a fused call with this input be served? Depends on dtype, shape and layout only:
        equal on all ranks."""
        return (
            x.dim() == 2
            and x.is_contiguous()
            and self.is_buffer_size_sufficient(x.shape[0], x.shape[1], x.dtype, use_oneshot)
        )

    def residual_rmsnorm(
        self,
        x: torch.Tensor,
        residual: torch.Tensor,
        weight: torch.Tensor,
        eps: float,
        use_oneshot: Optional[bool] = None,
    ) -> Tuple[Optional[torch.Tensor], Optional[torch.Tensor]]:
        """(norm_out, residual_out), new tensors; (None, None) for what is not served: SGLang then
        goes its own way."""
        if not (
            self.accepts(x, use_oneshot) and residual.is_contiguous() and weight.is_contiguous()
        ):
            return None, None
        assert self.workspace is not None
        done = self.workspace.of(use_oneshot).all_reduce_fused(
            x, residual=residual, gamma=weight, eps=eps
        )
        return done.norm_out, done.residual_out

    def all_reduce(self, x: torch.Tensor, inplace: bool = False) -> Optional[torch.Tensor]:
        """The sum, or None for what is not served."""
        room = self.hidden_dim * self.max_token_num
        if self.plain is None or x.dtype != self.dtype or not x.is_contiguous() or x.numel() > room:
            return None
        return self.plain.all_reduce(x, out=x if inplace else None)

    def close(self) -> None:
        """Collective."""
        if self.workspace is not None:
            self.workspace.destroy()
        while self._owned:
            self._owned.pop().close()


class _Kinds(Workspace):
    """A workspace whose communicator belongs to an AllReduce, and which grows."""

    def ready(
        self,
        pattern: str,
        dtype: torch.dtype,
        hidden: int,
        tokens: int,
        use_oneshot: Optional[bool],
    ) -> bool:
        if (
            use_oneshot is not None
            and self._make is not None
            and bool(use_oneshot) not in self._kinds
        ):
            return False
        return not self._destroyed and self.of(use_oneshot).prepared(pattern, dtype, hidden, tokens)

    def grow(self, tokens: int, hidden: int, dtype: torch.dtype) -> None:
        if not self.is_buffer_size_sufficient(self.world_size, tokens, hidden, dtype):
            self.max_token_num, self.hidden_dim, self.dtype = tokens, hidden, dtype

    def destroy(self) -> None:
        self._destroyed = True
        self._scales.clear()
        for kind in sorted(self._kinds):
            self._kinds.pop(kind).close()


_groups: Dict[bool, AllReduce] = {}  # by use_attn_tp_group
_unavailable = False


def configure(group: Any = None, *, moe_group: Any = None, **arguments: Any) -> AllReduce:
    """Collective, once, before graphs are captured. `group`: the tensor-parallel one, which is the
    attention layers'; `moe_group`: that of calls with use_attn_tp_group=False, where it is another.
    Arguments: AllReduce. Replaces what was configured before."""
    shutdown()
    _groups[True] = AllReduce(group, **arguments)
    _groups[False] = (
        _groups[True]
        if moe_group is None or moe_group is group
        else AllReduce(moe_group, **arguments)
    )
    return _groups[True]


def shutdown() -> None:
    """Collective."""
    global _unavailable
    _unavailable = False
    closing = {
        id(made): made
        for made in (_groups.pop(key, None) for key in (True, False))
        if made is not None
    }
    for made in closing.values():
        made.close()


# ---- SGLang's own names and signatures -----------------------------------------------------------


def is_flashinfer_allreduce_unavailable() -> bool:
    return _unavailable


def ensure_workspace_initialized(
    max_token_num: int = 2048,
    hidden_dim: int = 4096,
    use_fp32_lamport: bool = False,
    dtype: Optional[torch.dtype] = None,
    token_num: Optional[int] = None,
    use_oneshot: Optional[bool] = None,
    use_attn_tp_group: bool = True,
) -> bool:
    """Is there room for the fused call? Outside capture it is made: collective. A failure is
    logged, and nothing is served any more; it is the same on all ranks."""
    global _unavailable
    del use_fp32_lamport
    made = _groups.get(use_attn_tp_group)
    if made is None or made.workspace is None or made.workspace.world_size < 2 or _unavailable:
        return False
    dtype = torch.bfloat16 if dtype is None else dtype
    if made.is_buffer_size_sufficient(token_num or max_token_num, hidden_dim, dtype, use_oneshot):
        return True
    try:
        return made.ensure(max(token_num or 0, max_token_num), hidden_dim, dtype, use_oneshot)
    except ArbiterError as error:
        _unavailable = True
        _logger.warning("fused allreduce is left to SGLang: %s", error)
        return False


def pre_initialize_workspaces(
    max_token_num: int, hidden_dim: int, dtype: torch.dtype, use_oneshot: Optional[bool] = None
) -> None:
    """Collective, before capture."""
    for attention in (False, True):
        ensure_workspace_initialized(
            max_token_num,
            hidden_dim,
            dtype=dtype,
            use_oneshot=use_oneshot,
            use_attn_tp_group=attention,
        )


def cleanup_flashinfer_workspace() -> None:
    """Collective."""
    shutdown()


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
    """(norm_out, residual_out), or (None, None) where SGLang must go its own way. use_oneshot: True
    or False takes the best of Arbiter's one-shot or two-shot kernels. trigger_completion_at_end and
    fp32_acc are ignored."""
    del trigger_completion_at_end, fp32_acc
    made = _groups.get(use_attn_tp_group)
    if (
        made is None
        or _unavailable
        or input_tensor.dim() != 2
        or input_tensor.shape[0] > max_token_num
    ):
        return None, None
    if use_oneshot is not None and not made.accepts(input_tensor, use_oneshot) and not capturing():
        ensure_workspace_initialized(
            made.max_token_num,
            input_tensor.shape[1],
            dtype=input_tensor.dtype,
            token_num=input_tensor.shape[0],
            use_oneshot=use_oneshot,
            use_attn_tp_group=use_attn_tp_group,
        )
    return made.residual_rmsnorm(input_tensor, residual, weight, eps, use_oneshot)


def all_reduce(
    tensor: torch.Tensor, inplace: bool = False, use_attn_tp_group: bool = True
) -> Optional[torch.Tensor]:
    """The sum over the configured group, or None for what is not served."""
    made = _groups.get(use_attn_tp_group)
    return None if made is None else made.all_reduce(tensor, inplace)


_NAMES = (
    "flashinfer_allreduce_residual_rmsnorm",
    "ensure_workspace_initialized",
    "pre_initialize_workspaces",
    "cleanup_flashinfer_workspace",
    "is_flashinfer_allreduce_unavailable",
)


def patch(module: Any) -> List[str]:
    """Puts the functions above into SGLang's module flashinfer_comm_fusion, and into every module
    of SGLang that took one from there by name. The names that were replaced, as module.name. Raises
    InvalidArgument if the fused function is not there: another version of SGLang."""
    if not hasattr(module, _NAMES[0]):
        raise InvalidArgument(
            f"{getattr(module, '__name__', module)} has no {_NAMES[0]}: not the module, or not the"
            " version, that docs/engines.md names"
        )
    package = getattr(module, "__name__", "").split(".", 1)[0]
    replaced = []
    for name in _NAMES:
        ours = globals()[name]
        if not hasattr(module, name) or getattr(module, name) is ours:
            continue
        theirs = getattr(module, name)
        for where, holder in [*sys.modules.items(), (getattr(module, "__name__", ""), module)]:
            known = holder is module or (theirs is not None and where.split(".", 1)[0] == package)
            if known and getattr(holder, name, None) is theirs:
                setattr(holder, name, ours)
                replaced.append(f"{where}.{name}")
    return replaced
