"""What a pattern reads and writes, and the shapes of it. docs/catalogue.md is the reference; the
library decides."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Dict, Optional, Tuple

from .errors import InvalidArgument

_NAME = re.compile(
    r"(?P<moe>moe_reduce_|moe_finalize_)?allreduce"
    r"(?P<residual>_residual)?(?P<norm>_rmsnorm|_layernorm)?"
    r"(?:_(?P<quantisation>fp8_static|fp8_token|fp8_group(?P<group>[1-9]\d*)_(?:ue8m0|fp32)"
    r"|nvfp4_(?:linear|128x4|8x4)))?"
)


@dataclass(frozen=True)
class Pattern:
    """The parts of a pattern's name. `group`: elements that share a scale, 0 where there is no such
    thing."""

    name: str
    moe: str
    residual: bool
    norm: bool
    quantisation: str
    group: int

    @property
    def writes(self) -> Dict[str, bool]:
        """The tensors that the pattern can write, by name: True where it must be given a place for
        them."""
        stages = self.residual or self.norm or bool(self.quantisation)
        outputs: Dict[str, bool] = {}
        if self.residual:
            outputs["residual_out"] = not (self.norm or self.quantisation)
        else:
            outputs["output"] = not stages
        if self.norm:
            outputs["norm_out"] = not self.quantisation
        if self.quantisation:
            outputs["quant_out"] = True
            if self.quantisation != "fp8_static":
                outputs["scale_out"] = True
        return outputs

    @property
    def needs_scale(self) -> bool:
        return self.quantisation == "fp8_static" or self.quantisation.startswith("nvfp4")

    def quant_shape(self, tokens: Any, hidden: int) -> Tuple[Any, ...]:
        """Bytes: e4m3 values, or NVFP4 pairs."""
        return (tokens, hidden // 2 if self.quantisation.startswith("nvfp4") else hidden)

    def scale_shape(self, tokens: Any, hidden: int) -> Tuple[str, Tuple[Any, ...]]:
        """("fp32", "int32" or "e4m3", shape), padding included."""
        kind = self.quantisation
        if kind == "fp8_token":
            return "fp32", (tokens,)
        if kind.endswith("_fp32"):
            return "fp32", (tokens, hidden // self.group)
        if kind.endswith("_ue8m0"):
            return "int32", (_ceil(hidden // self.group, 4), _ceil(tokens, 4) * 4)
        columns = hidden // 16
        if kind == "nvfp4_linear":
            return "e4m3", (tokens, columns)
        rows = 128 if kind == "nvfp4_128x4" else 8
        return "e4m3", (_ceil(tokens, rows) * rows, _ceil(columns, 4) * 4)


def _ceil(value: Any, unit: int) -> Any:
    return (value + unit - 1) // unit


@lru_cache(maxsize=None)
def parse(name: str) -> Pattern:
    """Raises InvalidArgument for what is no pattern."""
    found: Optional["re.Match[str]"] = _NAME.fullmatch(name)
    if found is None:
        raise InvalidArgument(
            f"'{name}' is not a pattern; expected"
            " [moe_reduce_|moe_finalize_]allreduce[_residual][_rmsnorm][_<quantisation>], as in"
            " 'allreduce_residual_rmsnorm' (docs/catalogue.md)"
        )
    return Pattern(
        name,
        (found["moe"] or "").rstrip("_"),
        found["residual"] is not None,
        found["norm"] is not None,
        found["quantisation"] or "",
        int(found["group"] or 0),
    )
