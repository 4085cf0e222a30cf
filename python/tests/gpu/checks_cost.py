"""What a call costs the host, beside the launch alone."""

import ctypes
import statistics
import time
from typing import Any, Callable, Dict

import torch
import torch.distributed as dist
from harness import HIDDEN, NORM, Ranks, check

import arbiter.torch as ops
from arbiter import _abi

LIMIT_US = 3.0  # of Python over the launch
TOKENS = 16


def _microseconds(ranks: Ranks, call: Callable[[], Any]) -> float:
    """Of the host, per call, while the device has not yet done the work: the median of rounds that
    fit the queue."""
    rounds = []
    for _ in range(15):
        ranks.synchronize()
        dist.barrier()
        ranks.synchronize()
        began = time.perf_counter()
        for _ in range(100):
            call()
        rounds.append((time.perf_counter() - began) * 1e4)
    return statistics.median(rounds)


@check(needs_gpu=True)
def host_cost_of_a_call(ranks: Ranks) -> Dict[str, float]:
    """`launch`: the C function, with arguments that are ready. Python's share is the rest; it is
    compared without new tensors, which are PyTorch's allocator's time."""
    communicator, bf16 = ranks.communicator, torch.bfloat16
    x, residual, norm, out = (ranks.values(seed, TOKENS, HIDDEN) for seed in range(4))
    gamma = ranks.values(5, HIDDEN)
    number = ops.number(communicator)
    stream = torch.cuda.current_stream().cuda_stream if ranks.cuda else None
    fused = {"residual": residual, "gamma": gamma, "residual_out": residual, "norm_out": norm}
    measured = {
        "torch_all_reduce": _microseconds(ranks, lambda: dist.all_reduce(x)),
        "all_reduce_out": _microseconds(ranks, lambda: communicator.all_reduce(x, out=out)),
        "all_reduce_new": _microseconds(ranks, lambda: communicator.all_reduce(x)),
        "operator_all_reduce_new": _microseconds(ranks, lambda: ops.all_reduce(x, number)),
        "fused_out": _microseconds(ranks, lambda: communicator.all_reduce_fused(x, **fused)),
        "fused_new": _microseconds(
            ranks, lambda: communicator.all_reduce_fused(x, residual=residual, gamma=gamma)
        ),
        "operator_fused_out": _microseconds(
            ranks,
            lambda: ops.all_reduce_residual_rmsnorm_out(
                x, residual, gamma, norm, 1e-6, 0.0, number
            ),
        ),
        "empty_like": _microseconds(ranks, lambda: torch.empty_like(x)),
    }
    if ranks.cuda:
        library = communicator._library
        handle = communicator._handle(NORM, "bf16", HIDDEN, TOKENS, None)
        tensors = _abi.Tensors(ctypes.sizeof(_abi.Tensors))
        tensors.input, tensors.residual_in, tensors.residual_out = (
            x.data_ptr(),
            residual.data_ptr(),
            residual.data_ptr(),
        )
        tensors.gamma, tensors.norm_out, tensors.epsilon = gamma.data_ptr(), norm.data_ptr(), 1e-6
        place, function = ctypes.byref(tensors), library.arbiter_run
        measured["launch_fused"] = _microseconds(
            ranks, lambda: function(handle, place, TOKENS, stream)
        )
        pointers, code = (x.data_ptr(), out.data_ptr()), 0
        plain = library.arbiter_all_reduce
        address = communicator._open()
        measured["launch_plain"] = _microseconds(
            ranks, lambda: plain(address, *pointers, x.numel(), code, stream)
        )
        for name in ("plain", "fused"):
            over = (
                measured["all_reduce_out" if name == "plain" else "fused_out"]
                - measured[f"launch_{name}"]
            )
            measured[f"python_over_launch_{name}"] = over
            assert over <= LIMIT_US, f"{name}: {over:.2f} us over the launch; {measured}"
    return {name: round(value, 2) for name, value in measured.items()} | {"dtype": str(bf16)}
