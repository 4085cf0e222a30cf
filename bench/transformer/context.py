"""Where a rank is in its tensor-parallel group, and what all ranks of the group agree on."""

import time
from typing import Any, Callable, Optional

import torch
import torch.distributed as dist


class Context:
    """`group`: the tensor-parallel group; None: all ranks. Its methods that talk to other ranks are
    collective."""

    def __init__(self, device: str, group: Any = None) -> None:
        self.group = dist.group.WORLD if group is None else group
        self.rank, self.size = dist.get_rank(self.group), dist.get_world_size(self.group)
        self.cuda = device == "cuda"
        self.device = (
            torch.device("cuda", torch.cuda.current_device()) if self.cuda else torch.device("cpu")
        )
        self.dtype = torch.bfloat16

    def slowest(self, value: float) -> float:
        """The largest of the ranks' values."""
        tensor = torch.tensor([value], device=self.device, dtype=torch.float64)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self.group)
        return tensor.item()

    def failure(self, reason: Optional[str]) -> Optional[str]:
        """None if no rank has a reason; else this rank's, or that another one failed."""
        if self.slowest(1.0 if reason else 0.0) == 0.0:
            return None
        return reason or "another rank failed"

    def barrier(self) -> None:
        self.slowest(0.0)  # dist.barrier() guesses the device

    def synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def microseconds(self, work: Callable[[], Any], times: int) -> float:
        """Of `work`, done `times` times behind each other; the slowest rank's. Collective."""
        self.barrier()
        self.synchronize()
        if self.cuda:
            begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            begin.record()
            for _ in range(times):
                work()
            end.record()
            end.synchronize()
            elapsed = begin.elapsed_time(end) * 1000
        else:
            began = time.perf_counter()
            for _ in range(times):
                work()
            elapsed = (time.perf_counter() - began) * 1e6
        return self.slowest(elapsed / times)

    def say(self, text: str) -> None:
        if self.rank == 0:
            print(text, flush=True)
