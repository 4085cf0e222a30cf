"""What stands around an allreduce in a model: a matrix product writes its input, another one reads
its output, and ranks do not arrive together."""

import torch

from transformer.context import Context


class Surroundings:
    """`depth`: what the first product sums over, as a layer's width; `apart`: microseconds that the
    last rank comes after the first, the others between them. The product gives the source itself,
    bit for bit: its left side is the identity, and zeros."""

    def __init__(self, context: Context, rows: int, hidden: int, depth: int, apart: float) -> None:
        depth = max(depth, rows)

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(*shape, dtype=context.dtype, device=context.device)

        self._left, self._weights = zeros(rows, depth), zeros(depth, hidden)
        self._left[:, :rows].fill_diagonal_(1)
        self.source = self._weights[:rows]
        self._probe, self._read = zeros(hidden, 128), zeros(rows, 128)
        late = apart * context.rank / max(context.size - 1, 1)
        self._cycles = round(late * _cycles_per_microsecond(context)) if late > 0 else 0

    def before(self, x: torch.Tensor) -> None:
        if self._cycles:
            torch.cuda._sleep(self._cycles)
        torch.matmul(self._left, self._weights, out=x)

    def after(self, result: torch.Tensor) -> None:
        torch.matmul(result, self._probe, out=self._read)


def _cycles_per_microsecond(context: Context) -> float:
    """Of torch.cuda._sleep, measured: clocks differ, and boost. 0 without a GPU: nobody is late."""
    if not context.cuda:
        return 0.0
    cycles = 2_000_000
    torch.cuda._sleep(cycles)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    torch.cuda._sleep(cycles)
    end.record()
    end.synchronize()
    return cycles / (begin.elapsed_time(end) * 1000)
