"""Where PyTorch's allocator may put tensors."""

import torch
from harness import HIDDEN, Ranks, Skip, check, close, rmsnorm, same

MIB = 2**20


@check(needs_gpu=True)
def expandable_segments(ranks: Ranks) -> None:
    """Memory that legacy CUDA IPC cannot export: eager and captured, plain and fused."""
    configure = (
        getattr(torch._C, "_accelerator_setAllocatorSettings", None)
        or torch.cuda.memory._set_allocator_settings
    )
    try:
        configure("expandable_segments:True")
    except RuntimeError as error:
        raise Skip(f"this PyTorch cannot: {error}") from error
    try:
        torch.cuda.empty_cache()
        room = torch.empty(256 * MIB, dtype=torch.uint8, device=ranks.device)
        kinds = {
            segment.get("is_expandable")
            for segment in torch.cuda.memory_snapshot()
            if segment["address"] <= room.data_ptr() < segment["address"] + segment["total_size"]
        }
        if kinds != {True}:
            raise Skip(f"the allocator gave other memory ({kinds})")
        places = room.view(torch.bfloat16)
        for seed, tokens in enumerate((1, 16, 128)):
            count = tokens * HIDDEN
            x, out, residual, norm = (
                places[index * count : (index + 1) * count].view(tokens, HIDDEN)
                for index in range(4)
            )
            gamma, given = ranks.values(9, HIDDEN), ranks.values(seed + 20, tokens, HIDDEN)

            def calls() -> None:
                ranks.communicator.all_reduce(x, out=out)
                ranks.communicator.all_reduce_fused(
                    x, residual=residual, gamma=gamma, residual_out=residual, norm_out=norm
                )

            def fill(seed: int) -> None:
                x.copy_(ranks.mine(seed, tokens, HIDDEN))
                residual.copy_(given)

            def look(seed: int) -> None:
                expected = ranks.total(seed, tokens, HIDDEN)
                total = (expected.float() + given.float()).to(expected.dtype)
                same(out, expected, f"{tokens} rows")
                same(residual, total, f"{tokens} rows, residual")
                close(norm, rmsnorm(total, gamma))

            fill(seed)
            calls()
            look(seed)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                calls()
            for replay in range(3):
                fill(30 + replay)
                graph.replay()
                look(30 + replay)
    finally:
        configure("expandable_segments:False")


@check(needs_gpu=True)
def memory_of_other_streams_and_pools(ranks: Ranks) -> None:
    """Tensors of a private pool, and views into the middle of a large one."""
    pool = torch.cuda.MemPool()
    with torch.cuda.use_mem_pool(pool):
        x = torch.empty(64, HIDDEN, dtype=torch.bfloat16, device=ranks.device)
    for first in (0, 8, 40):
        part = x[first : first + 16].copy_(ranks.mine(first, 16, HIDDEN))
        same(ranks.communicator.all_reduce(part), ranks.total(first, 16, HIDDEN))
