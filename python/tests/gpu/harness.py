"""Checks that all ranks run together: one passes when it passes on every rank. See run.py."""

import json
import os
import threading
import time
import traceback
import weakref
from typing import Any, Callable, Dict, List, NamedTuple, NoReturn, Optional

import torch
import torch.distributed as dist

from arbiter import Communicator, Family

HIDDEN, MAX_TOKENS = 1024, 128
NORM = "allreduce_residual_rmsnorm"
QUANTISED = ("fp8_static", "fp8_token", "fp8_group128_ue8m0", "fp8_group128_fp32", "nvfp4_128x4")
PATTERNS = (
    "allreduce",
    "allreduce_rmsnorm",
    "allreduce_residual",
    NORM,
    *(f"{NORM}_{kind}" for kind in QUANTISED),
)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
FAMILIES = [
    (pattern, dtype)
    for pattern in PATTERNS
    for dtype in DTYPES
    if not ("nvfp4" in pattern and dtype.itemsize > 2)
]


class Skip(Exception):
    """The check says nothing here; why is its text."""


class Check(NamedTuple):
    name: str
    run: Callable[["Ranks"], Optional[Dict[str, Any]]]
    needs_gpu: bool
    seconds: float
    risky: bool


CHECKS: List[Check] = []


def check(
    function: Any = None, *, needs_gpu: bool = False, seconds: float = 15, risky: bool = False
) -> Any:
    """Registers a function of one argument, Ranks. It raises what is wrong, and may return what it
    measured. After `seconds` its communicators are told to give up, which ends it. Risky ones come
    last."""

    def register(function: Any) -> Any:
        CHECKS.append(Check(function.__name__, function, needs_gpu, seconds, risky))
        return function

    return register if function is None else register(function)


class Meeting:
    """What all ranks tell each other between checks, over the store: no device can keep it from
    ending."""

    def __init__(self, rank: int, size: int) -> None:
        self._store = dist.PrefixStore("checks", dist.distributed_c10d._get_default_store())
        self._rank, self._size, self._turn = rank, size, 0

    def gather(self, text: str, seconds: float) -> List[str]:
        """Everybody's text, by rank. Raises TimeoutError, naming who did not come within
        `seconds`."""
        self._turn += 1
        self._store.set(f"{self._turn}/{self._rank}", "." + text)
        deadline = time.monotonic() + seconds
        keys = [f"{self._turn}/{rank}" for rank in range(self._size)]
        while not self._store.check(keys):
            if time.monotonic() > deadline:
                missing = [rank for rank, key in enumerate(keys) if not self._store.check([key])]
                raise TimeoutError(f"ranks {missing} did not come back")
            time.sleep(0.002)
        return [self._store.get(key).decode()[1:] for key in keys]


class Ranks:
    """This rank among the others, a communicator for which FAMILIES were prepared, and known
    inputs: small integers, of which sums are exact in every order and dtype."""

    def __init__(self, device: str) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.cuda = device == "cuda"
        self.device = (
            torch.device("cuda", torch.cuda.current_device()) if self.cuda else torch.device("cpu")
        )
        self.meeting = Meeting(self.rank, self.size)
        self.communicators: "weakref.WeakSet[Communicator]" = (
            weakref.WeakSet()
        )  # all that were made
        self._watch_creation()
        self.communicator = self.create()

    def _watch_creation(self) -> None:
        made, real = self.communicators, Communicator.__init__

        def remembered(communicator: Communicator, *arguments: Any, **options: Any) -> None:
            real(communicator, *arguments, **options)
            made.add(communicator)

        Communicator.__init__ = remembered  # type: ignore[method-assign]

    def abort_all(self) -> None:
        """Whoever waits for a peer in a kernel stops. From any thread."""
        for communicator in list(self.communicators):
            if communicator._pointer is not None:
                communicator.abort()

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
        return sum(
            self.values(1000 * seed + rank, *shape, dtype=torch.float32)
            for rank in range(self.size)
        ).to(dtype)

    def synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def mend(self) -> None:
        """A new communicator after a check that failed, wherever that left the old one.
        Collective."""
        self.communicator.abort()
        self.communicator.close()
        self.communicator = self.create()


def rmsnorm(
    x: torch.Tensor, gamma: torch.Tensor, eps: float = 1e-6, bias: float = 0.0
) -> torch.Tensor:
    wide = x.float()
    return wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps) * (gamma.float() + bias)


def same(ours: torch.Tensor, expected: torch.Tensor, what: str = "") -> None:
    if not torch.equal(ours, expected):
        wrong = int((ours != expected).sum())
        raise AssertionError(
            f"{what}: {wrong} of {expected.numel()} elements differ from what is expected"
        )


def close(ours: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-2) -> None:
    torch.testing.assert_close(ours.float(), expected.float(), rtol=tolerance, atol=tolerance)


def attempt(ranks: Ranks, entry: Check, seconds: float) -> Dict[str, Any]:
    """Runs one check on this rank; never raises, and ends soon after `seconds` if aborting ends
    it."""
    result: Dict[str, Any] = {"error": "", "skipped": "", "measured": None}
    late = threading.Event()

    def give_up() -> None:
        late.set()
        ranks.abort_all()

    watchdog = threading.Timer(seconds, give_up)
    watchdog.daemon = True
    watchdog.start()
    try:
        if entry.needs_gpu and not ranks.cuda:
            raise Skip("needs a GPU")
        result["measured"] = entry.run(ranks)
        ranks.synchronize()
        ranks.communicator.check()
    except Skip as reason:
        result["skipped"] = str(reason)
    except BaseException:
        result["error"] = traceback.format_exc()
        ranks.abort_all()  # peers must not wait for this rank
    watchdog.cancel()
    if late.is_set():
        result["error"] = f"not done after {seconds:.0f} s, and told to give up\n{result['error']}"
    return result


def run_all(
    ranks: Ranks, wanted: Callable[[str], bool], path: Optional[str], limit: float, began: float
) -> int:
    """Runs what is registered and `wanted`; prints a line for each, writes JSON to `path` after
    each. None begins later than `limit` seconds after `began`. Returns how many failed. Ends the
    process if a check hangs and cannot be ended."""
    results: List[Dict[str, Any]] = []
    for entry in sorted(CHECKS, key=lambda entry: entry.risky):
        if not wanted(entry.name):
            continue
        started = time.monotonic()
        left = limit - float(ranks.meeting.gather(str(started - began), 30)[0])
        # The CPU device is slow, and how slow depends on what else the machine does.
        seconds = min(entry.seconds if ranks.cuda else 20 * entry.seconds, left)
        here = {"error": "", "skipped": "no time left", "measured": None}
        if left > 0:
            hung = threading.Timer(seconds + 10, _hung, (ranks, entry, results, path))
            hung.daemon = True
            hung.start()
            here = attempt(ranks, entry, seconds)
            hung.cancel()
        try:
            errors = ranks.meeting.gather(here["error"], seconds + 15)
        except TimeoutError as error:
            _end(ranks, entry, results, path, str(error))
        failed = any(errors)
        if failed:
            ranks.mend()
        result: Dict[str, Any] = {
            "check": entry.name,
            "status": "failed" if failed else "skipped" if here["skipped"] else "passed",
            "seconds": round(time.monotonic() - started, 2),
        }
        if here["skipped"]:
            result["why"] = here["skipped"]
        if here["measured"]:
            result["measured"] = here["measured"]
        if failed:
            result["errors"] = {rank: text for rank, text in enumerate(errors) if text}
        results.append(result)
        if ranks.rank == 0:
            _report(ranks, results, path)
    return sum(result["status"] == "failed" for result in results)


def _hung(ranks: Ranks, entry: Check, results: List[Dict[str, Any]], path: Optional[str]) -> None:
    _end(ranks, entry, results, path, "hangs, and telling it to give up did not help")


def _end(
    ranks: Ranks, entry: Check, results: List[Dict[str, Any]], path: Optional[str], why: str
) -> NoReturn:
    errors = {ranks.rank: why}
    results.append({"check": entry.name, "status": "failed", "seconds": 0, "errors": errors})
    _report(ranks, results, path if ranks.rank == 0 else None)
    os._exit(1)


def _report(ranks: Ranks, results: List[Dict[str, Any]], path: Optional[str]) -> None:
    result = results[-1]
    print(
        f"{result['status']:<8}{result['check']} ({result['seconds']} s) {result.get('why', '')}",
        flush=True,
    )
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
