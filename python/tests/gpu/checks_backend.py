"""torch.distributed's backend `arbiter`: eager, captured, compiled, and what it leaves to the other
one."""

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from harness import HIDDEN, Ranks, check, same

from arbiter import distributed


def _group(ranks: Ranks) -> dist.ProcessGroup:
    device = "cuda" if ranks.cuda else "cpu"
    group = dist.new_group(
        backend=f"{device}:arbiter", pg_options=distributed.Options(device=device)
    )
    assert isinstance(group, distributed.ArbiterGroup)
    return group


def _served(group: dist.ProcessGroup) -> int:
    made = distributed.communicator(group)
    return 0 if made is None else sum(call["count"] for call in made.stats()["calls"])


@check
def backend_eager(ranks: Ranks) -> None:
    group = _group(ranks)
    for seed, tokens in enumerate((1, 16, 128)):
        for dtype in (torch.bfloat16, torch.float32):
            x = ranks.mine(seed, tokens, HIDDEN, dtype=dtype)
            dist.all_reduce(x, group=group)
            same(x, ranks.total(seed, tokens, HIDDEN, dtype=dtype), f"{tokens} rows of {dtype}")
    assert _served(group) == 6, _served(group)
    largest = torch.tensor([float(ranks.rank)], device=ranks.device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
    assert largest.item() == ranks.size - 1 and _served(group) == 6
    everyone = [torch.empty(1, device=ranks.device) for _ in range(ranks.size)]
    dist.all_gather(everyone, torch.tensor([float(ranks.rank)], device=ranks.device), group=group)
    assert [part.item() for part in everyone] == list(range(ranks.size))
    dist.destroy_process_group(group)


@check(needs_gpu=True)
def backend_captured(ranks: Ranks) -> None:
    group = _group(ranks)
    x = torch.zeros(16, HIDDEN, dtype=torch.bfloat16, device=ranks.device)
    dist.all_reduce(x, group=group)
    torch.cuda.synchronize()
    before = _served(group)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        dist.all_reduce(x, group=group)
    assert _served(group) == before + 1
    for seed in range(5):
        x.copy_(ranks.mine(seed, 16, HIDDEN))
        graph.replay()
        same(x, ranks.total(seed, 16, HIDDEN))
    torch.cuda.synchronize()
    del graph
    dist.destroy_process_group(group)


@check(seconds=40)
def backend_compiled(ranks: Ranks) -> None:
    group = _group(ranks)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x: functional.all_reduce(x * 2, "sum", group) + 1, fullgraph=True
    )
    for seed in range(3):
        ours = compiled(ranks.mine(seed, 16, HIDDEN))
        same(ours, 2 * ranks.total(seed, 16, HIDDEN) + 1)
    assert _served(group) == 3, _served(group)
    ranks.synchronize()
    dist.destroy_process_group(group)
