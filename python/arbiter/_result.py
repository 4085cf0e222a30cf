"""What a call gives back."""

from typing import Any, NamedTuple


class Fused(NamedTuple):
    """What a call wrote; None for what it did not."""

    output: Any = None
    residual_out: Any = None
    norm_out: Any = None
    quant_out: Any = None
    scale_out: Any = None
