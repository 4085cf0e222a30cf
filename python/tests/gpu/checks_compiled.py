"""torch.compile, with and without graph trees."""

import sys
from pathlib import Path
from typing import Any, Tuple

import torch
from harness import HIDDEN, NORM, Ranks, check, close, same

import arbiter.torch as ops
from arbiter.inductor import Fusion

sys.path.append(str(Path(__file__).resolve().parents[1]))

import nvfp4_operators  # noqa: E402

TAIL = (1e-6, 0.0)


def _layer(number: int) -> Any:
    def layer(
        x: torch.Tensor, residual: torch.Tensor, gamma: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        x = ops.all_reduce(x * 2, number)
        norm, residual = ops.all_reduce_residual_rmsnorm(x, residual, gamma, *TAIL, number)
        norm = norm + 1
        ops.all_reduce_(norm, number)
        return norm * 0.5, residual

    return layer


def _arguments(ranks: Ranks, seed: int, tokens: int) -> Tuple[torch.Tensor, ...]:
    return (
        ranks.mine(seed, tokens, HIDDEN),
        ranks.values(seed + 1, tokens, HIDDEN),
        ranks.values(seed + 2, HIDDEN),
    )


def _agree(ranks: Ranks, compiled: Any, layer: Any, sizes: Tuple[int, ...]) -> None:
    for seed, tokens in enumerate(sizes):
        arguments = _arguments(ranks, seed, tokens)
        torch.compiler.cudagraph_mark_step_begin()
        ours = [tensor.clone() for tensor in compiled(*arguments)]
        for mine, expected in zip(ours, layer(*arguments)):
            same(mine, expected, f"{tokens} rows")


@check(seconds=40)
def compiled_operators_keep_pytorch_s_contract(ranks: Ranks) -> None:
    number = ops.number(ranks.communicator)
    x, residual, gamma = _arguments(ranks, 1, 4)
    checks = ("test_schema", "test_faketensor")
    with torch.inference_mode(False):
        x, residual, gamma = x.clone(), residual.clone(), gamma.clone()
        torch.library.opcheck(ops.all_reduce, (x, number), test_utils=checks)
        torch.library.opcheck(ops.all_reduce_, (x, number), test_utils=checks)
        fused = (x, residual, gamma, *TAIL, number)
        torch.library.opcheck(ops.all_reduce_residual_rmsnorm, fused, test_utils=checks)


@check(seconds=40)
def compiled_by_inductor(ranks: Ranks) -> None:
    layer = _layer(ops.number(ranks.communicator))
    torch._dynamo.reset()
    _agree(ranks, torch.compile(layer, fullgraph=True, dynamic=False), layer, (4, 16))
    torch._dynamo.reset()
    _agree(ranks, torch.compile(layer, fullgraph=True, dynamic=True), layer, (4, 7, 128, 2))


@check(needs_gpu=True, seconds=40)
def compiled_with_graph_trees(ranks: Ranks) -> dict:
    """mode="reduce-overhead": several sizes in turns, and nothing that keeps PyTorch from
    capturing."""
    layer = _layer(ops.number(ranks.communicator))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(layer, fullgraph=True, mode="reduce-overhead", dynamic=False)
    _agree(ranks, compiled, layer, (4, 16, 4, 16, 4, 16, 128, 4, 16, 128, 128))
    skips = torch._dynamo.utils.counters["inductor"]["cudagraph_skips"]
    assert skips == 0, f"PyTorch skipped CUDA graphs {skips} times"
    return {"cudagraph_skips": skips}


@check(seconds=40)
def compiled_with_the_fusing_pass(ranks: Ranks) -> dict:
    """Two layers' allreduces, additions and norms, written as separate steps, become two calls;
    results stay close."""
    number = ops.number(ranks.communicator)

    def layer(
        x: torch.Tensor, residual: torch.Tensor, gamma: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        for _ in range(2):
            residual = residual + ops.all_reduce(x, number)
            x = torch.nn.functional.rms_norm(residual, (HIDDEN,), gamma, 1e-6)
        return x, residual

    torch._dynamo.reset()
    fusion = Fusion(ranks.communicator)
    with torch._inductor.config.patch(
        force_disable_caches=True, **({"triton.cudagraphs": True} if ranks.cuda else {})
    ):
        compiled = torch.compile(
            layer, fullgraph=True, options={"post_grad_custom_pre_pass": fusion}
        )
        for seed in range(4):
            arguments = _arguments(ranks, seed, 16)
            torch.compiler.cudagraph_mark_step_begin()
            ours = [tensor.clone() for tensor in compiled(*arguments)]
            for mine, expected in zip(ours, layer(*arguments)):
                close(mine, expected, 3e-2)
    assert fusion.replaced == {NORM: 2}, fusion.replaced
    return dict(fusion.replaced)


E4M3 = torch.float8_e4m3fn


def _fp8_static(norm: torch.Tensor, scale: torch.Tensor) -> Tuple[torch.Tensor, ...]:
    return ((norm.float() / scale).clamp(-448.0, 448.0).to(E4M3),)


def _fp8_token(norm: torch.Tensor, scale: torch.Tensor) -> Tuple[torch.Tensor, ...]:
    scales = norm.float().abs().amax(-1, keepdim=True) / 448.0
    return (norm.float() / scales).clamp(-448.0, 448.0).to(E4M3), scales


@check(seconds=90)
def compiled_with_the_fusing_pass_and_quantisation(ranks: Ranks) -> dict:
    """FP8 as torch's operations, NVFP4 as the operators of the engines: one call each, and few
    values fall the other way."""
    number = ops.number(ranks.communicator)
    scale = torch.full((1,), 0.25, device=ranks.device)
    replaced = {}
    for kind, quantise in (
        ("fp8_static", _fp8_static),
        ("fp8_token", _fp8_token),
        ("nvfp4_128x4", nvfp4_operators.vllm),
        ("nvfp4_128x4", nvfp4_operators.sglang),
        ("nvfp4_128x4", nvfp4_operators.tensorrt_llm),
    ):

        def layer(
            x: torch.Tensor, residual: torch.Tensor, gamma: torch.Tensor, quantise: Any = quantise
        ) -> Tuple[torch.Tensor, ...]:
            residual = residual + ops.all_reduce(x, number)
            norm = torch.nn.functional.rms_norm(residual, (HIDDEN,), gamma, 1e-6)
            return (*quantise(norm, scale), residual)

        torch._dynamo.reset()
        fusion = Fusion(ranks.communicator)
        with torch._inductor.config.patch(force_disable_caches=True):
            compiled = torch.compile(
                layer, fullgraph=True, options={"post_grad_custom_pre_pass": fusion}
            )
            for seed in range(2):
                arguments = _arguments(ranks, seed, 16)
                for mine, expected in zip(compiled(*arguments), layer(*arguments)):
                    assert mine.dtype == expected.dtype and mine.shape == expected.shape
                    ours, theirs = mine.view(torch.uint8), expected.view(torch.uint8)
                    if mine.dtype is torch.float32:
                        close(mine, expected, 1e-2)
                    else:
                        apart = (ours != theirs).sum() / (theirs != 0).sum()
                        assert apart < 0.03, f"{kind}: {apart:.1%} of the values differ"
            assert fusion.replaced == {f"{NORM}_{kind}": 1}, fusion.replaced
        replaced[kind] = replaced.get(kind, 0) + 1
    return replaced
