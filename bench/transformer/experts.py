"""Multiplying rows by the weights of their experts: by Triton kernels that read each weight once
and sum in a fixed order, or, without Triton, by copies of the weights."""

from typing import Any, Optional, Tuple

import torch
import torch.nn.functional as F

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

BLOCK = 64  # of the inner dimension; it must divide the widths


def choose(tokens: torch.Tensor, layer: int, offsets: torch.Tensor, experts: int) -> torch.Tensor:
    """[batch, top_k] experts, by a hash of token and layer. Scores of a router with random weights
    are near ties, where the last bit of a sum decides: then rows of which each is right would
    compute different models."""
    return ((tokens * 2654435761 + layer * 40503)[:, None] // 64 + offsets) % experts


def copied(
    x: torch.Tensor,
    up: torch.Tensor,
    down: torch.Tensor,
    chosen: torch.Tensor,
    scores: torch.Tensor,
) -> Any:
    """x [batch, hidden], up [experts, hidden, 2 * wide], down [experts, wide, hidden], scores
    [batch, top_k]."""
    gate, value = torch.matmul(x[:, None, None, :], up[chosen]).chunk(2, -1)
    rows = torch.matmul(F.silu(gate) * value, down[chosen]).squeeze(2)
    return (rows * scores[:, :, None].to(rows.dtype)).sum(1)


if triton is not None:

    @triton.jit
    def _up_kernel(
        x,
        up,
        chosen,
        out,
        hidden: tl.constexpr,
        wide: tl.constexpr,
        top_k: tl.constexpr,
        columns: tl.constexpr,
        block: tl.constexpr,
    ):
        row = tl.program_id(0)
        column = tl.program_id(1) * columns + tl.arange(0, columns)
        inside = column < wide
        weights = up + tl.load(chosen + row) * (hidden * 2 * wide)
        gate = tl.zeros([columns], tl.float32)
        value = tl.zeros([columns], tl.float32)
        for first in range(0, hidden, block):
            k = first + tl.arange(0, block)
            factor = tl.load(x + (row // top_k) * hidden + k).to(tl.float32)[:, None]
            at = weights + k[:, None] * (2 * wide) + column[None, :]
            gate += tl.sum(factor * tl.load(at, mask=inside[None, :], other=0.0).to(tl.float32), 0)
            value += tl.sum(
                factor * tl.load(at + wide, mask=inside[None, :], other=0.0).to(tl.float32), 0
            )
        gated = gate / (1.0 + tl.exp(-gate)) * value
        tl.store(out + row * wide + column, gated.to(out.dtype.element_ty), mask=inside)

    @triton.jit
    def _down_kernel(
        rows,
        down,
        chosen,
        scores,
        out,
        hidden: tl.constexpr,
        wide: tl.constexpr,
        top_k: tl.constexpr,
        columns: tl.constexpr,
        block: tl.constexpr,
    ):
        token = tl.program_id(0)
        column = tl.program_id(1) * columns + tl.arange(0, columns)
        inside = column < hidden
        total = tl.zeros([columns], tl.float32)
        for slot in range(top_k):
            row = token * top_k + slot
            weights = down + tl.load(chosen + row) * (wide * hidden)
            part = tl.zeros([columns], tl.float32)
            for first in range(0, wide, block):
                k = first + tl.arange(0, block)
                factor = tl.load(rows + row * wide + k).to(tl.float32)[:, None]
                at = weights + k[:, None] * hidden + column[None, :]
                part += tl.sum(
                    factor * tl.load(at, mask=inside[None, :], other=0.0).to(tl.float32), 0
                )
            total += tl.load(scores + row).to(tl.float32) * part
        tl.store(out + token * hidden + column, total.to(out.dtype.element_ty), mask=inside)


def by_kernels(
    x: torch.Tensor,
    up: torch.Tensor,
    down: torch.Tensor,
    chosen: torch.Tensor,
    scores: torch.Tensor,
) -> torch.Tensor:
    """As copied(). Raises RuntimeError where widths are not multiples of BLOCK."""
    batch, hidden = x.shape
    wide, top_k = down.shape[1], chosen.shape[1]
    if hidden % BLOCK or wide % BLOCK:
        raise RuntimeError(f"widths {hidden} and {wide} are not multiples of {BLOCK}")
    rows, out = x.new_empty(batch * top_k, wide), torch.empty_like(x)
    few = 32 if batch * top_k * wide < 1 << 15 else 64  # enough blocks for all SMs
    _up_kernel[(batch * top_k, triton.cdiv(wide, few))](
        x, up, chosen, rows, hidden, wide, top_k, few, _block(hidden), num_warps=8
    )
    few = 16 if batch < 4 else 64
    _down_kernel[(batch, triton.cdiv(hidden, few))](
        rows, down, chosen, scores, out, hidden, wide, top_k, few, _block(wide), num_warps=8
    )
    return out


def _block(extent: int) -> int:
    """The more is read at once, the better memory is used."""
    return next(block for block in (256, 128, BLOCK) if extent % block == 0)


def kernels_work(
    x: torch.Tensor, up: torch.Tensor, down: torch.Tensor, top_k: int
) -> Tuple[bool, Optional[str]]:
    """Are the kernels there and right? (False, why not)."""
    if triton is None:
        return False, "no Triton"
    batch = x.shape[0]
    chosen = torch.arange(batch * top_k, device=x.device).view(batch, top_k) % up.shape[0]
    scores = torch.full((batch, top_k), 1 / top_k, device=x.device, dtype=x.dtype)
    try:
        expected = copied(x, up, down, chosen, scores).float()
        gap = (by_kernels(x, up, down, chosen, scores).float() - expected).abs().max()
    except (
        Exception
    ) as error:  # of a compiler that is not there, or of a device that it does not know
        return False, f"{type(error).__name__}: {error}"
    good = bool(gap <= 0.03 * expected.abs().max())
    return good, None if good else f"they differ by {gap.item():g}"
