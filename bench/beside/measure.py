"""One harness for all: the same inputs, a captured graph of many calls, the slowest rank, results
checked."""

from typing import Any, Callable, Optional, Tuple

import torch

from transformer.context import Context
from transformer.model import EPS

from .peers import NORM, Peer
from .producer import Surroundings

CALLS = 20  # in a graph; the input is written anew before them, or sums in place would overflow


def inputs(context: Context, rank: int, rows: int, hidden: int, salt: int) -> torch.Tensor:
    """Small integers: sums are exact in every order. Equal for equal arguments on all ranks."""
    index = torch.arange(rows * hidden, device=context.device, dtype=torch.int32)
    return ((index * 7 + rank * 3 + salt) % 11 - 5).view(rows, hidden).to(context.dtype)


def expected(context: Context, rows: int, hidden: int, salt: int) -> torch.Tensor:
    total = torch.zeros(rows, hidden, device=context.device)
    for rank in range(context.size):
        total += inputs(context, rank, rows, hidden, salt)
    return total


class Program:
    """`calls` calls of a peer on its input, captured where there is a GPU. Collective."""

    def __init__(
        self,
        context: Context,
        peer: Peer,
        pattern: str,
        rows: int,
        calls: int,
        around: Optional[Surroundings] = None,
    ) -> None:
        self.around = around
        self.context, self.peer, self.pattern, self.rows, self.calls = (
            context,
            peer,
            pattern,
            rows,
            calls,
        )
        self.hidden = peer.work.hidden
        self.x = peer.input(rows)
        self.source = torch.zeros_like(self.x) if around is None else around.source
        self.residual = torch.zeros(rows, self.hidden, dtype=context.dtype, device=context.device)
        self.gamma = torch.ones(self.hidden, dtype=context.dtype, device=context.device)
        self.result: Any = None
        self.x.zero_()
        self.run: Callable[[], None] = self._calls
        if context.cuda:
            self._capture()

    def _calls(self) -> None:
        if self.around is None:
            self.x.copy_(self.source)
        for _ in range(self.calls):
            if self.around is not None:
                self.around.before(self.x)
            if self.pattern == NORM:
                self.result = self.peer.norm(self.x, self.residual, self.gamma)
            else:
                self.result = self.peer.plain(self.x)
            if self.around is not None:
                self.around.after(self.result)

    def _capture(self) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._calls()
        torch.cuda.synchronize()
        self.context.barrier()
        graph = torch.cuda.CUDAGraph()
        with self.peer.capture(), torch.cuda.graph(
            graph, stream=stream, capture_error_mode="thread_local"
        ):
            self._calls()
        torch.cuda.synchronize()
        self.run = graph.replay

    def gap(self, salt: int) -> float:
        """The largest difference from what is expected, over all ranks; for a program of one
        call."""
        self.source.copy_(inputs(self.context, self.context.rank, self.rows, self.hidden, salt))
        residual = inputs(self.context, 97, self.rows, self.hidden, salt)
        self.residual.copy_(residual)
        self.run()
        self.context.synchronize()
        right = expected(self.context, self.rows, self.hidden, salt)
        ours = self.result.float()
        if self.pattern == NORM:
            right = right + residual.float()
            gap = (self.residual.float() - right).abs().max().item()
            norm = right * torch.rsqrt(right.pow(2).mean(-1, keepdim=True) + EPS)
            # A relative error of one rounding of bf16, 2^-8, is right.
            gap = max(gap, ((ours - norm).abs() - norm.abs() / 128).max().item())
        else:
            gap = (ours - right).abs().max().item()
        return self.context.slowest(gap if gap == gap else float("inf"))

    def microseconds(self, replays: int) -> float:
        """Of one call; the slowest rank."""
        context = self.context
        self.source.copy_(inputs(context, context.rank, self.rows, self.hidden, 0))
        self.residual.zero_()
        context.synchronize()
        return context.microseconds(self.run, replays) / self.calls


def prepare(
    context: Context,
    peer: Peer,
    pattern: str,
    rows: int,
    calls: int,
    around: Optional[Surroundings] = None,
) -> Tuple[Any, Any]:
    """(a program to time, "") after results were right three times, or (None, what was wrong).
    Collective."""
    program, reason = None, None
    try:
        once = Program(context, peer, pattern, rows, 1, around)
        gaps = [once.gap(salt) for salt in (1, 2, 3)]
        if max(gaps) > 0:
            reason = f"wrong: off by {max(gaps):g}"
        else:
            program = Program(context, peer, pattern, rows, calls, around)
    except Exception as error:  # of any library
        reason = f"{type(error).__name__}: {error}"
    reason = context.failure(reason)
    return (None, reason) if reason is not None else (program, "")
