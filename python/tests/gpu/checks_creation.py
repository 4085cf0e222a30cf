"""Every way to make a communicator."""

import os
import pickle

import torch
import torch.distributed as dist
from harness import HIDDEN, Ranks, Skip, check, same

from arbiter import Communicator, Family, Unsupported

PLAIN = Family("allreduce", torch.bfloat16, HIDDEN, 16)


def _reduces(ranks: Ranks, communicator: Communicator, members: range) -> None:
    communicator.prepare(PLAIN)
    x = torch.full((8, HIDDEN), float(ranks.rank + 1), dtype=torch.bfloat16, device=ranks.device)
    ours = communicator.all_reduce(x)
    ranks.synchronize()
    communicator.check()
    same(ours, torch.full_like(x, float(sum(member + 1 for member in members))))


def _from_callbacks(ranks: Ranks) -> Communicator:
    def gather(item: bytes) -> list:
        everyone = [None] * ranks.size
        dist.all_gather_object(everyone, pickle.dumps(item))
        return [pickle.loads(part) for part in everyone]

    options = {"ordinal": ranks.device.index} if ranks.cuda else {"device": "cpu"}
    return Communicator.from_callbacks(
        ranks.rank,
        ranks.size,
        gather,
        lambda data, root: gather(data)[root],
        lambda: gather(b""),
        **options,
    )


@check
def creation_from_callbacks(ranks: Ranks) -> None:
    with _from_callbacks(ranks) as communicator:
        _reduces(ranks, communicator, range(ranks.size))


@check(needs_gpu=True, seconds=40)
def creation_from_callbacks_and_nccl_when_asked(ranks: Ranks) -> dict:
    """Messages that no family covers: refused, and NCCL's after prepare_nccl, in a graph too."""
    tokens = 64 * PLAIN.max_tokens
    with _from_callbacks(ranks) as communicator:
        communicator.prepare(PLAIN)
        x = ranks.mine(5, tokens, HIDDEN)
        refused = False
        try:
            communicator.all_reduce(x)
        except Unsupported:
            refused = True
        communicator.prepare_nccl(x.dtype, x.numel())
        same(communicator.all_reduce(x), ranks.total(5, tokens, HIDDEN))
        out, graph = torch.empty_like(x), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            communicator.all_reduce(x, out)
        graph.replay()
        ranks.synchronize()
        same(out, ranks.total(5, tokens, HIDDEN))
        communicator.check()
        del graph
        _reduces(ranks, communicator, range(ranks.size))
    return {"refused_before": refused}


@check(needs_gpu=True)
def creation_from_env(ranks: Ranks) -> None:
    with Communicator.from_env() as communicator:
        assert (communicator.rank, communicator.size) == (ranks.rank, ranks.size)
        _reduces(ranks, communicator, range(ranks.size))


@check
def creation_from_a_group_with_gloo(ranks: Ranks) -> None:
    group = dist.new_group(backend="gloo")
    with Communicator.from_torch(group) as communicator:
        _reduces(ranks, communicator, range(ranks.size))


@check(needs_gpu=True)
def creation_of_sub_groups(ranks: Ranks) -> None:
    """Pairs of ranks, in both orders of counting, at the same time as the whole."""
    if ranks.size < 4 or ranks.size % 2:
        raise Skip("needs an even number of ranks, 4 or more")
    pairs = [dist.new_group([first, first + 1]) for first in range(0, ranks.size, 2)]
    mine = ranks.rank // 2
    with Communicator.from_torch(pairs[mine]) as communicator:
        assert (communicator.rank, communicator.size) == (ranks.rank % 2, 2)
        _reduces(ranks, communicator, range(2 * mine, 2 * mine + 2))
        _reduces(ranks, ranks.communicator, range(ranks.size))


@check(needs_gpu=True)
def creation_again_and_again_returns_the_memory(ranks: Ranks) -> dict:
    free = []
    for _ in range(4):
        with Communicator.from_torch() as communicator:
            _reduces(ranks, communicator, range(ranks.size))
        torch.cuda.synchronize()
        free.append(torch.cuda.mem_get_info()[0])
    lost = (free[0] - free[-1]) / 2**20
    assert lost < 32, f"{lost:.0f} MiB less are free after three more communicators"
    return {
        "lost_mib": lost,
        "launcher": "torchrun" if "TORCHELASTIC_RUN_ID" in os.environ else "another",
    }
