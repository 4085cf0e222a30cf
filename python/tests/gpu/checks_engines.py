"""The engines' calling conventions, eager and captured."""

from typing import Any, Callable

import torch
from harness import HIDDEN, Ranks, check, close, rmsnorm, same

from arbiter.integrations import flashinfer, sglang, vllm

TOKENS = 16


def _both_ways(ranks: Ranks, call: Callable[[], Any], look: Callable[[Any], None]) -> None:
    look(call())
    if not ranks.cuda:
        return
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        done = call()
    for _ in range(3):
        graph.replay()
    look(done)


@check
def engine_flashinfer(ranks: Ranks) -> None:
    workspace = flashinfer.create_allreduce_fusion_workspace(
        world_size=ranks.size,
        rank=ranks.rank,
        max_token_num=64,
        hidden_dim=HIDDEN,
        dtype=torch.bfloat16,
        patterns=(0, 1, 10),
    )
    x, residual, gamma = (
        ranks.mine(1, TOKENS, HIDDEN),
        ranks.values(2, TOKENS, HIDDEN),
        ranks.values(3, HIDDEN),
    )
    summed = ranks.total(1, TOKENS, HIDDEN)
    total = (summed.float() + residual.float()).to(x.dtype)
    into, norm = torch.empty_like(x), torch.empty_like(x)
    Pattern = flashinfer.AllReduceFusionPattern
    _both_ways(
        ranks,
        lambda: flashinfer.allreduce_fusion(x, workspace, Pattern.kAllReduce, launch_with_pdl=True),
        lambda ours: same(ours, summed),
    )

    def look(ours: torch.Tensor) -> None:
        assert ours is norm
        same(into, total)
        close(norm, rmsnorm(total, gamma))

    _both_ways(
        ranks,
        lambda: flashinfer.allreduce_fusion(
            x,
            workspace,
            Pattern.kARResidualRMSNorm,
            residual_in=residual,
            residual_out=into,
            norm_out=norm,
            rms_gamma=gamma,
        ),
        look,
    )
    for use_oneshot in (True, False):

        def forced(use_oneshot: bool = use_oneshot) -> torch.Tensor:
            return flashinfer.allreduce_fusion(
                x, workspace, Pattern.kAllReduce, use_oneshot=use_oneshot
            )

        _both_ways(ranks, forced, lambda ours: same(ours, summed))
        kind = workspace.of(use_oneshot).explain("allreduce", x.dtype, HIDDEN, TOKENS)["algorithm"]
        assert ranks.size == 1 or kind.startswith("oneshot" if use_oneshot else "twoshot"), kind
    ranks.synchronize()
    workspace.destroy()


@check
def engine_sglang(ranks: Ranks) -> None:
    sglang.configure(
        hidden_dim=HIDDEN,
        max_token_num=64,
        dtype=torch.bfloat16,
        backend="auto",
        fused_backend="trtllm",
    )
    x, residual, gamma = (
        ranks.mine(1, TOKENS, HIDDEN),
        ranks.values(2, TOKENS, HIDDEN),
        ranks.values(3, HIDDEN),
    )
    summed = ranks.total(1, TOKENS, HIDDEN)
    total = (summed.float() + residual.float()).to(x.dtype)

    def look(ours: Any) -> None:
        close(ours[0], rmsnorm(total, gamma))
        same(ours[1], total)

    _both_ways(
        ranks, lambda: sglang.flashinfer_allreduce_residual_rmsnorm(x, residual, gamma), look
    )
    _both_ways(ranks, lambda: sglang.all_reduce(x), lambda ours: same(ours, summed))
    ranks.synchronize()
    sglang.shutdown()


@check
def engine_vllm(ranks: Ranks) -> None:
    device = ranks.device if ranks.cuda else None
    ours = vllm.ArbiterAllreduce(torch.distributed.group.WORLD, device, max_size=1 << 20)
    x, expected = ranks.mine(1, TOKENS, HIDDEN), ranks.total(1, TOKENS, HIDDEN)
    assert ours.should_custom_ar(x) and not ours.should_custom_ar(x.float())
    with ours.capture():
        _both_ways(ranks, lambda: ours.custom_all_reduce(x), lambda done: same(done, expected))
    ranks.synchronize()
    ours.close()
