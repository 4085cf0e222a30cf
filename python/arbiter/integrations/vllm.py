"""vLLM's custom allreduce (device_communicators.custom_all_reduce) and fused allreduce + norm,
served by Arbiter."""

import contextlib
from typing import Any, Iterator, Optional, Union

import torch

from ..communicator import Communicator, Family
from ..errors import InvalidArgument
from .flashinfer import Workspace, allreduce_fusion

__all__ = ["ArbiterAllreduce", "FusedAllreduce", "patch"]


class ArbiterAllreduce:
    """Takes the place of vLLM's CustomAllreduce: same methods, same answers. `max_size`: bytes of
    the largest message; what is larger is left to vLLM."""

    def __init__(
        self,
        group: Any,
        device: Union[int, str, torch.device, None] = None,
        max_size: int = 8 << 20,
        symm_mem_enabled: bool = False,
        *,
        dtype: torch.dtype = torch.bfloat16,
        communicator: Optional[Communicator] = None,
        **options: Any,
    ) -> None:
        """Collective. `group`: vLLM's CPU group. `dtype`: of the model; messages of another are
        left to vLLM. symm_mem_enabled is ignored."""
        del symm_mem_enabled
        if max_size <= 0:
            raise InvalidArgument(f"max_size is {max_size}; expected bytes, more than 0")
        self.dtype, self.max_size = dtype, max_size
        self._owned = communicator is None
        if communicator is None:
            if device is not None and "device" not in options:
                place = (
                    torch.device("cuda", device)
                    if isinstance(device, int)
                    else torch.device(device)
                )
                options["device"] = place.type
                if place.type == "cuda" and place.index is not None:
                    options["ordinal"] = place.index
            communicator = Communicator.from_torch(group, **options)
        self.communicator: Optional[Communicator] = communicator
        self.world_size, self.rank = communicator.size, communicator.rank
        row = 1024
        communicator.prepare(
            Family("allreduce", dtype, row, -(-max_size // (row * dtype.itemsize)))
        )
        self.disabled = False

    def should_custom_ar(self, inp: torch.Tensor) -> bool:
        """Would custom_all_reduce() serve it? Depends on dtype, size and layout only: equal on all
        ranks."""
        return (
            not self.disabled
            and inp.dtype == self.dtype
            and inp.is_contiguous()
            and inp.numel() * inp.element_size() <= self.max_size
        )

    def custom_all_reduce(self, input: torch.Tensor) -> Optional[torch.Tensor]:
        """The sum in a new tensor, or None for what is not served."""
        if not self.should_custom_ar(input) or self.communicator is None:
            return None
        return self.communicator.all_reduce(input)

    def all_reduce(
        self, inp: torch.Tensor, *, out: Optional[torch.Tensor] = None, registered: bool = False
    ) -> Any:
        """The sum in `out`, or in a new tensor."""
        if self.communicator is None:
            raise InvalidArgument("it was closed")
        return self.communicator.all_reduce(inp, out=out)

    @contextlib.contextmanager
    def capture(self) -> Iterator[None]:
        """Around vLLM's graph capture. Nothing has to be registered afterwards."""
        yield

    def register_graph_buffers(self) -> None:
        """Nothing to do: graphs need no registration."""

    def finalize_p2p(self) -> None:
        """Nothing to do: creating it has found out what peers can reach."""

    def close(self) -> None:
        """Collective."""
        self.disabled = True
        communicator, self.communicator = self.communicator, None
        if communicator is not None and self._owned:
            communicator.close()


class FusedAllreduce:
    """vLLM's fused op: writes to its arguments and returns nothing."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def __call__(
        self,
        allreduce_in: torch.Tensor,
        residual: torch.Tensor,
        rms_gamma: torch.Tensor,
        rms_eps: float,
        *,
        pattern_code: int = 1,
        norm_out: Optional[torch.Tensor] = None,
        quant_out: Optional[torch.Tensor] = None,
        scale_out: Optional[torch.Tensor] = None,
        scale_factor: Any = None,
        layout_code: Optional[int] = None,
        weight_bias: float = 0.0,
        block_quant_group_size: Optional[int] = None,
        **ignored: Any,
    ) -> None:
        """Without norm_out: allreduce_in becomes the norm, residual the new residual. With it: the
        norm goes there and allreduce_in becomes the new residual. Both cost a copy, because no
        kernel writes the norm or the residual over its input. A code that quantises without the
        norm leaves allreduce_in alone and updates residual. Further arguments of vLLM's op
        (world_size, launch_with_pdl, fp32_acc, max_token_num) are ignored."""
        del ignored
        quantised = pattern_code not in (0, 1, 6, 7)
        keeps_norm = pattern_code in (1, 4, 5, 9, 11)
        norm = (
            norm_out
            if norm_out is not None
            else torch.empty_like(allreduce_in) if keeps_norm else None
        )
        summed = residual if norm_out is None else torch.empty_like(residual)
        allreduce_fusion(
            allreduce_in,
            self.workspace,
            pattern_code,
            residual_in=residual,
            residual_out=summed,
            norm_out=norm,
            quant_out=quant_out if quantised else None,
            scale_out=scale_out if quantised else None,
            rms_gamma=rms_gamma,
            rms_eps=rms_eps,
            scale_factor=scale_factor,
            layout_code=layout_code,
            weight_bias=weight_bias,
            block_quant_group_size=block_quant_group_size,
        )
        if norm_out is not None:
            allreduce_in.copy_(summed)
        elif norm is not None:
            allreduce_in.copy_(norm)


def patch(module: Any) -> None:
    """Puts ArbiterAllreduce into vLLM's module custom_all_reduce, before vLLM makes its
    communicators. Raises InvalidArgument if there is no CustomAllreduce in it: another version of
    vLLM."""
    if not hasattr(module, "CustomAllreduce"):
        raise InvalidArgument(
            f"{getattr(module, '__name__', module)} has no CustomAllreduce: not the module, or not"
            " the version, that docs/engines.md names"
        )
    module.CustomAllreduce = ArbiterAllreduce
