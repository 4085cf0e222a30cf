"""Eager calls: results, streams, and what is refused."""

from typing import Any

import torch
from harness import DTYPES, FAMILIES, HIDDEN, NORM, Ranks, check, close, rmsnorm, same

import arbiter
import arbiter.torch as ops

TOKENS = (1, 3, 16, 128)


@check
def eager_plain(ranks: Ranks) -> None:
    for dtype in DTYPES:
        for seed, shape in enumerate(
            [(HIDDEN,), (3, HIDDEN), (2, 4, HIDDEN), (131,), (1,), (0, HIDDEN), (128, HIDDEN)]
        ):
            x = ranks.mine(seed, *shape, dtype=dtype)
            kept, expected = x.clone(), ranks.total(seed, *shape, dtype=dtype)
            same(ranks.communicator.all_reduce(x), expected, f"{dtype} {shape}")
            same(x, kept, "the input")
            assert ranks.communicator.all_reduce(x, out=x) is x
            same(x, expected, f"{dtype} {shape} in place")


def _expected(ranks: Ranks, pattern: str, seed: int, tokens: int, dtype: torch.dtype) -> Any:
    summed = ranks.total(seed, tokens, HIDDEN, dtype=dtype)
    residual, gamma = ranks.values(seed + 50, tokens, HIDDEN, dtype=dtype), ranks.values(
        seed + 60, HIDDEN, dtype=dtype
    )
    total = (summed.float() + residual.float()).to(dtype) if "residual" in pattern else summed
    return residual, gamma, total, rmsnorm(total, gamma)


@check
def eager_fused(ranks: Ranks) -> None:
    """Every pattern; quantised values times their scales are the norm again."""
    for pattern, dtype in FAMILIES:
        for seed, tokens in enumerate(TOKENS if pattern != "allreduce" else ()):
            residual, gamma, total, norm = _expected(ranks, pattern, seed, tokens, dtype)
            arguments: Any = {}
            if "residual" in pattern:
                arguments["residual"] = residual
            if "norm" in pattern:
                arguments.update(gamma=gamma, norm_out=True)
            if "static" in pattern or "nvfp4" in pattern:
                arguments["scale_in"] = torch.full((1,), 0.5, device=ranks.device)
            x = ranks.mine(seed, tokens, HIDDEN, dtype=dtype)
            done = ranks.communicator.all_reduce_fused(x, pattern=pattern, **arguments)
            if "residual" in pattern:
                same(done.residual_out, total, f"{pattern} {tokens}: residual")
            if "norm" in pattern:
                close(done.norm_out, norm)
            if pattern.endswith("fp8_token"):
                close(done.quant_out.float() * done.scale_out.view(-1, 1), norm, 0.08)
            elif pattern.endswith("fp8_static"):
                close(done.quant_out.float() * 0.5, norm, 0.08)
            elif pattern.endswith("group128_fp32"):
                close(done.quant_out.float() * done.scale_out.repeat_interleave(128, 1), norm, 0.08)


@check
def eager_in_place_and_into_given_places(ranks: Ranks) -> None:
    residual, gamma, total, norm = _expected(ranks, NORM, 3, 16, torch.bfloat16)
    x, into = ranks.mine(3, 16, HIDDEN), torch.empty_like(residual)
    done = ranks.communicator.all_reduce_fused(
        x, residual=residual, gamma=gamma, residual_out=residual, norm_out=into
    )
    assert done.residual_out is residual and done.norm_out is into
    same(residual, total)
    close(into, norm)


@check
def eager_operators(ranks: Ranks) -> None:
    number = ops.number(ranks.communicator)
    residual, gamma, total, norm = _expected(ranks, NORM, 4, 16, torch.bfloat16)
    x = ranks.mine(4, 16, HIDDEN)
    same(ops.all_reduce(x, number), ranks.total(4, 16, HIDDEN))
    ours = ops.all_reduce_residual_rmsnorm(x, residual, gamma, 1e-6, 0.0, number)
    close(ours[0], norm)
    same(ours[1], total)
    ops.all_reduce_(x, number)
    same(x, ranks.total(4, 16, HIDDEN))


@check(risky=True)
def eager_addresses_of_one_rank_are_its_own_matter(ranks: Ranks) -> None:
    """Rank 0's tensors begin at odd elements; the others' are aligned."""
    for seed, tokens in enumerate(TOKENS):
        storage = torch.empty(tokens * HIDDEN + 8, dtype=torch.bfloat16, device=ranks.device)
        shift = 3 if ranks.rank == 0 else 0
        x = (
            storage[shift : shift + tokens * HIDDEN]
            .view(tokens, HIDDEN)
            .copy_(ranks.mine(seed, tokens, HIDDEN))
        )
        same(ranks.communicator.all_reduce(x), ranks.total(seed, tokens, HIDDEN), f"{tokens} rows")
        residual, gamma, total, norm = _expected(ranks, NORM, seed, tokens, torch.bfloat16)
        done = ranks.communicator.all_reduce_fused(x, residual=residual, gamma=gamma)
        same(done.residual_out, total)
        close(done.norm_out, norm)


@check(needs_gpu=True)
def eager_current_stream_is_used(ranks: Ranks) -> None:
    """The input is late, on a stream of its own; nothing but the order of that stream makes the sum
    right."""
    stream = torch.cuda.Stream()
    x = torch.zeros(16, HIDDEN, dtype=torch.bfloat16, device=ranks.device)
    fresh, expected = ranks.mine(5, 16, HIDDEN), ranks.total(5, 16, HIDDEN)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        x.copy_(fresh)
        ours = ranks.communicator.all_reduce(x)
        given = ranks.communicator.all_reduce(x, stream=stream)
    stream.synchronize()
    same(ours, expected)
    same(given, expected)


@check
def refused_tensors(ranks: Ranks) -> None:
    class Wrapped(torch.Tensor):
        pass

    x = ranks.values(1, 4, HIDDEN)
    cases = {
        "not contiguous": ranks.values(1, HIDDEN, 4).t(),
        "a subclass of torch.Tensor": x.as_subclass(Wrapped),
        "device 'meta'": x.to("meta"),
        "holds int64": x.long(),
    }
    if ranks.cuda:
        cases["host memory"] = x.cpu()
        if torch.cuda.device_count() > 1:
            cases["this communicator's GPU is"] = x.to(
                f"cuda:{(ranks.device.index + 1) % torch.cuda.device_count()}"
            )
    residual, gamma = ranks.values(2, 4, HIDDEN), ranks.values(3, HIDDEN)
    for message, tensor in cases.items():
        for call in (
            lambda tensor=tensor: ranks.communicator.all_reduce(tensor),
            lambda tensor=tensor: ranks.communicator.all_reduce_fused(
                tensor, residual=residual, gamma=gamma
            ),
        ):
            try:
                call()
            except arbiter.InvalidArgument as error:
                assert message in str(error), f"expected '{message}' in: {error}"
            else:
                raise AssertionError(f"{message}: not refused")
    for name, arguments in {
        "norm_out": {"norm_out": x},
        "residual_out": {"residual_out": gamma},
    }.items():
        try:
            ranks.communicator.all_reduce_fused(x, residual=residual, gamma=gamma, **arguments)
        except arbiter.InvalidArgument as error:
            assert name in str(error) or "norm" in str(error), error
        else:
            raise AssertionError(f"{name}: not refused")


@check(needs_gpu=True)
def dlpack_and_cuda_array_interface(ranks: Ranks) -> None:
    """A tensor that shows nothing but one protocol; its stream must be given."""

    class Interface:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.__cuda_array_interface__ = tensor.__cuda_array_interface__

    class Package:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.__dlpack__, self.__dlpack_device__ = tensor.__dlpack__, tensor.__dlpack_device__

    for kind, dtype in (
        (Interface, torch.float32),
        (Package, torch.float32),
        (Package, torch.bfloat16),
    ):
        x = ranks.mine(6, 4, HIDDEN, dtype=dtype)
        shown = kind(x)
        ranks.communicator.all_reduce(shown, out=shown, stream=torch.cuda.current_stream())
        same(x, ranks.total(6, 4, HIDDEN, dtype=dtype), f"{kind.__name__} {dtype}")
        try:
            ranks.communicator.all_reduce(shown, out=shown)
        except arbiter.InvalidArgument as error:
            assert "stream" in str(error), error
        else:
            raise AssertionError("without a stream: not refused")
