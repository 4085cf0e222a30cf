"""What a call costs the host, beside the launch alone."""

import ctypes
import statistics
import time
from typing import Any, Callable, Dict, List

import torch
import torch.distributed as dist
from harness import HIDDEN, NORM, Ranks, check

import arbiter.torch as ops
from arbiter import _abi

LIMIT_US = 3.0  # of Python over the launch
TOKENS = 16


def _microseconds(ranks: Ranks, calls: Dict[str, Callable[[], Any]]) -> Dict[str, float]:
    """Of the host, per call, while the device has not yet done the work: the medians of rounds that
    fit the queue. All take turns, so that what else the machine does meets all of them alike."""
    rounds: Dict[str, List[float]] = {name: [] for name in calls}
    for _ in range(25):
        for name, call in calls.items():
            ranks.synchronize()
            dist.barrier()
            ranks.synchronize()
            began = time.perf_counter()
            for _ in range(100):
                call()
            rounds[name].append((time.perf_counter() - began) * 1e4)
    return {name: statistics.median(times) for name, times in rounds.items()}


@check(needs_gpu=True)
def host_cost_of_a_call(ranks: Ranks) -> Dict[str, Any]:
    """`launch`: the C function, with arguments that are ready. Python's share is the rest; it is
    compared without new tensors, which are PyTorch's allocator's time."""
    communicator, bf16 = ranks.communicator, torch.bfloat16
    x, residual, norm, out = (ranks.values(seed, TOKENS, HIDDEN) for seed in range(4))
    gamma = ranks.values(5, HIDDEN)
    number = ops.number(communicator)
    stream = torch.cuda.current_stream().cuda_stream if ranks.cuda else None
    fused = {"residual": residual, "gamma": gamma, "residual_out": residual, "norm_out": norm}
    calls = {
        "torch_all_reduce": lambda: dist.all_reduce(x),
        "all_reduce_out": lambda: communicator.all_reduce(x, out=out),
        "all_reduce_new": lambda: communicator.all_reduce(x),
        "operator_all_reduce_new": lambda: ops.all_reduce(x, number),
        "fused_out": lambda: communicator.all_reduce_fused(x, **fused),
        "fused_new": lambda: communicator.all_reduce_fused(x, residual=residual, gamma=gamma),
        "operator_fused_out": lambda: ops.all_reduce_residual_rmsnorm_out(
            x, residual, gamma, norm, 1e-6, 0.0, number
        ),
        "empty_like": lambda: torch.empty_like(x),
    }
    if not ranks.cuda:
        return _rounded(_microseconds(ranks, calls), bf16)
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
    pointers, code = (x.data_ptr(), out.data_ptr()), 0
    plain, address = library.arbiter_all_reduce, communicator._open()
    calls["launch_fused"] = lambda: function(handle, place, TOKENS, stream)
    calls["launch_plain"] = lambda: plain(address, *pointers, x.numel(), code, stream)
    measured = _microseconds(ranks, calls)
    for name, call in (("plain", "all_reduce_out"), ("fused", "fused_out")):
        measured[f"python_over_launch_{name}"] = measured[call] - measured[f"launch_{name}"]
    for name in ("plain", "fused"):
        over = measured[f"python_over_launch_{name}"]
        assert over <= LIMIT_US, f"{name}: {over:.2f} us over the launch; {measured}"
    return _rounded(measured, bf16)


def _rounded(measured: Dict[str, float], dtype: torch.dtype) -> Dict[str, Any]:
    return {name: round(value, 2) for name, value in measured.items()} | {"dtype": str(dtype)}
