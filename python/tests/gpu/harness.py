"""Checks that all ranks run together: one passes when it passes on every rank. See run.py."""

import json
import os
import time
import traceback
from typing import Any, Callable, Dict, List, NamedTuple, Optional

import torch
import torch.distributed as dist

from arbiter import ArbiterError, Communicator, Family

HIDDEN, MAX_TOKENS = 1024, 128
NORM = "allreduce_residual_rmsnorm"
QUANTISED = ("fp8_static", "fp8_token", "fp8_group128_ue8m0", "fp8_group128_fp32", "nvfp4_128x4")
PATTERNS = ("allreduce", "allreduce_rmsnorm", "allreduce_residual", NORM, *(f"{NORM}_{kind}" for kind in QUANTISED))
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
FAMILIES = [(pattern, dtype) for pattern in PATTERNS for dtype in DTYPES if not ("nvfp4" in pattern and dtype.itemsize > 2)]


class Skip(Exception):
    """The check says nothing here; why is its text."""


class Check(NamedTuple):
    name: str
    run: Callable[["Ranks"], Optional[Dict[str, Any]]]
    needs_gpu: bool


CHECKS: List[Check] = []


def check(function: Any = None, *, needs_gpu: bool = False) -> Any:
    """Registers a function of one argument, Ranks. It raises what is wrong, and may return what it measured."""

    def register(function: Any) -> Any:
        CHECKS.append(Check(function.__name__, function, needs_gpu))
        return function

    return register if function is None else register(function)


class Ranks:
    """This rank among the others, a communicator for which FAMILIES were prepared, and known inputs: small
    integers, of which sums are exact in every order and dtype."""

    def __init__(self, device: str) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.cuda = device == "cuda"
        self.device = torch.device("cuda", torch.cuda.current_device()) if self.cuda else torch.device("cpu")
        self.communicator = self.create()

    def create(self, group: Any = None, **options: Any) -> Communicator:
        made = Communicator.from_torch(group, timeout=120, **options)
        made.prepare(*[Family(pattern, dtype, HIDDEN, MAX_TOKENS) for pattern, dtype in FAMILIES])
        return made

    def values(self, seed: int, *shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        """The same on all ranks."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(-4, 5, shape, generator=generator).to(self.device, dtype)

    def mine(self, seed: int, *shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        """This rank's input."""
        return self.values(1000 * seed + self.rank, *shape, dtype=dtype)

    def total(self, seed: int, *shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
        """The sum of all ranks' inputs."""
        return sum(self.values(1000 * seed + rank, *shape, dtype=torch.float32) for rank in range(self.size)).to(dtype)

    def synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def any(self, here: bool) -> bool:
        flag = torch.tensor([float(here)], device=self.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return flag.item() > 0

    def mend(self) -> None:
        """A new communicator if a rank's was poisoned."""
        poisoned = False
        try:
            self.communicator.check()
        except ArbiterError:
            poisoned = True
        if self.any(poisoned):
            self.communicator.abort()
            self.communicator.close()
            self.communicator = self.create()


def rmsnorm(x: torch.Tensor, gamma: torch.Tensor, eps: float = 1e-6, bias: float = 0.0) -> torch.Tensor:
    wide = x.float()
    return wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps) * (gamma.float() + bias)


def same(ours: torch.Tensor, expected: torch.Tensor, what: str = "") -> None:
    if not torch.equal(ours, expected):
        wrong = int((ours != expected).sum())
        raise AssertionError(f"{what}: {wrong} of {expected.numel()} elements differ from what is expected")


def close(ours: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-2) -> None:
    torch.testing.assert_close(ours.float(), expected.float(), rtol=tolerance, atol=tolerance)


def run_all(ranks: Ranks, wanted: Optional[str], path: Optional[str]) -> int:
    """Runs what is registered; prints a line for each, writes JSON to `path` after each. Returns how many failed."""
    results: List[Dict[str, Any]] = []
    for entry in CHECKS:
        if wanted is not None and not any(part in entry.name for part in wanted.split(",")):
            continue
        began = time.monotonic()
        error, skipped, measured = "", "", None
        try:
            if entry.needs_gpu and not ranks.cuda:
                raise Skip("needs a GPU")
            measured = entry.run(ranks)
            ranks.synchronize()
            ranks.communicator.check()
        except Skip as reason:
            skipped = str(reason)
        except Exception:
            error = traceback.format_exc()
        failed = ranks.any(bool(error))
        gathered: List[Any] = [None] * ranks.size
        dist.all_gather_object(gathered, error)
        if failed:
            ranks.mend()
        result: Dict[str, Any] = {
            "check": entry.name,
            "status": "failed" if failed else "skipped" if skipped else "passed",
            "seconds": round(time.monotonic() - began, 2),
        }
        if skipped:
            result["why"] = skipped
        if measured:
            result["measured"] = measured
        if failed:
            result["errors"] = {rank: text for rank, text in enumerate(gathered) if text}
        results.append(result)
        if ranks.rank == 0:
            _report(ranks, results, path)
    return sum(result["status"] == "failed" for result in results)


def _report(ranks: Ranks, results: List[Dict[str, Any]], path: Optional[str]) -> None:
    result = results[-1]
    print(f"{result['status']:<8}{result['check']} ({result['seconds']} s) {result.get('why', '')}", flush=True)
    if "measured" in result:
        print(f"        {json.dumps(result['measured'])}", flush=True)
    for rank, text in result.get("errors", {}).items():
        print(f"  rank {rank}: {text.strip().splitlines()[-1]}", flush=True)
    if path:
        head = {
            "schema": 1,
            "ranks": ranks.size,
            "gpu": torch.cuda.get_device_name() if ranks.cuda else "cpu",
            "torch": torch.__version__,
            "checks": results,
        }
        temporary = f"{path}.{os.getpid()}"
        with open(temporary, "w") as file:
            json.dump(head, file, indent=2)
        os.replace(temporary, path)
