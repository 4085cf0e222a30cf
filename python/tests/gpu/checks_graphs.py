"""CUDA graphs: many sizes, new inputs at every replay, several graphs in turns."""

import torch
from harness import DTYPES, HIDDEN, Ranks, check, close, rmsnorm, same

import arbiter.torch as ops

TOKENS = (1, 3, 16, 128)


class _Layer:
    """Places of one size, and a graph of an allreduce, a fused one on its result, and one in
    place."""

    def __init__(self, ranks: Ranks, tokens: int, dtype: torch.dtype, operators: bool) -> None:
        self.ranks, self.tokens, self.dtype = ranks, tokens, dtype
        self.x = torch.zeros(tokens, HIDDEN, dtype=dtype, device=ranks.device)
        self.residual, self.norm, self.again = (torch.zeros_like(self.x) for _ in range(3))
        self.gamma = ranks.values(7, HIDDEN, dtype=dtype)
        self.empty = self.x[:0]
        self.number = ops.number(ranks.communicator) if operators else None
        self.calls()
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.calls()

    def calls(self) -> None:
        communicator = self.ranks.communicator
        communicator.all_reduce(self.empty)
        if self.number is not None:
            self.summed = ops.all_reduce(self.x, self.number)
            ops.all_reduce_residual_rmsnorm_out(
                self.x, self.residual, self.gamma, self.norm, 1e-6, 0.0, self.number
            )
            self.again.copy_(self.x)
            ops.all_reduce_(self.again, self.number)
            return
        self.summed = communicator.all_reduce(self.x)
        communicator.all_reduce_fused(
            self.x,
            residual=self.residual,
            gamma=self.gamma,
            residual_out=self.residual,
            norm_out=self.norm,
        )
        self.again.copy_(self.x)
        communicator.all_reduce(self.again, out=self.again)

    def replay(self, seed: int) -> None:
        ranks, shape = self.ranks, (self.tokens, HIDDEN)
        self.x.copy_(ranks.mine(seed, *shape, dtype=self.dtype))
        residual = ranks.values(seed + 70, *shape, dtype=self.dtype)
        self.residual.copy_(residual)
        self.graph.replay()
        expected = ranks.total(seed, *shape, dtype=self.dtype)
        total = (expected.float() + residual.float()).to(self.dtype)
        same(self.summed, expected, f"{shape}")
        same(self.again, expected, f"{shape} in place")
        same(self.residual, total, f"{shape} residual")
        close(self.norm, rmsnorm(total, self.gamma))


@check(needs_gpu=True)
def captured_methods(ranks: Ranks) -> None:
    for dtype in DTYPES:
        layers = [_Layer(ranks, tokens, dtype, False) for tokens in TOKENS]
        for round_ in range(4):
            for index, layer in enumerate(layers):
                layer.replay(10 * round_ + index)


@check(needs_gpu=True)
def captured_operators(ranks: Ranks) -> None:
    layers = [_Layer(ranks, tokens, torch.bfloat16, True) for tokens in TOKENS]
    for round_ in range(4):
        for index, layer in enumerate(reversed(layers)):
            layer.replay(10 * round_ + index)


@check(needs_gpu=True)
def captured_and_eager_in_turns(ranks: Ranks) -> None:
    layer = _Layer(ranks, 16, torch.bfloat16, False)
    for seed in range(20):
        layer.replay(seed)
        x = ranks.mine(seed + 100, 3, HIDDEN)
        same(ranks.communicator.all_reduce(x), ranks.total(seed + 100, 3, HIDDEN))


@check(needs_gpu=True)
def captured_many_replays_without_waiting(ranks: Ranks) -> None:
    """A thousand replays are queued; the last sum is right, so no replay overtook another."""
    communicator = ranks.communicator
    x = ranks.mine(1, 16, HIDDEN, dtype=torch.float32)
    kept = x.clone()
    communicator.all_reduce(x, out=x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        communicator.all_reduce(x, out=x)
        x.mul_(1 / ranks.size)
    x.copy_(kept)
    for _ in range(1000):
        graph.replay()
    close(x, ranks.total(1, 16, HIDDEN, dtype=torch.float32) / ranks.size, 1e-4)
