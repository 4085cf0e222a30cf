"""What a call from Python costs the host beside the launch: with a library that does nothing, so
that no GPU is needed.

    python bench/python_call.py [--json FILE]

`call`: arbiter_run or arbiter_all_reduce through ctypes, with arguments that are ready; the rest is
Python's share, of which `torch.empty_like` is PyTorch's. CPU tensors stand for a GPU's: the tests
that a call makes of its tensors are the same. python/tests/gpu/run.py measures the same with real
launches."""

import argparse
import ctypes
import json
import sys
import tempfile
import timeit
from pathlib import Path
from typing import Any, Callable

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path += [str(ROOT / "python" / "tests"), str(ROOT / "python")]

import null_library
from test_quick import short_way

from arbiter import Family, _abi, _objects, _quick

TOKENS, HIDDEN, NORM = 16, 64, "allreduce_residual_rmsnorm"


def microseconds(call: Callable[[], Any]) -> float:
    """The least of many short rounds: what the program itself takes, whatever else the machine
    does."""
    count = 1000
    return min(timeit.repeat(call, number=count, repeat=200)) / count * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", help="write the results here")
    parser.add_argument(
        "--way",
        choices=("library", "python"),
        default="library",
        help="who reads the tensors: the library, where PyTorch (2.10 and later) lends it the means"
        " (default), or Python",
    )
    options = parser.parse_args()
    x, residual, norm, out = (torch.zeros(TOKENS, HIDDEN, dtype=torch.bfloat16) for _ in range(4))
    gamma = torch.nn.Parameter(torch.ones(HIDDEN, dtype=torch.bfloat16))
    gpu = x.element_size()
    _quick._gpu = (
        torch.Tensor.element_size
    )  # as quick as get_device(), and a number that is none for the CPU
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        library = null_library.build(Path(folder))
        communicator = null_library.communicator(library, gpu)
        communicator.prepare(Family(NORM, x.dtype, HIDDEN, TOKENS))
        if options.way == "python" or _objects.table() is None:
            communicator._quick = _quick.Quick(communicator)
            communicator._quick._stream = int  # about as quick as asking PyTorch for its stream
        else:
            communicator._quick = short_way("library", library, communicator)
        handle, tensors = communicator._handle(NORM, "bf16", HIDDEN, TOKENS, None), _abi.Tensors()
        place, pointer, run, plain = (
            ctypes.byref(tensors),
            ctypes.c_void_p(1),
            library.arbiter_run,
            library.arbiter_all_reduce,
        )
        places = {"residual": residual, "gamma": gamma, "residual_out": residual, "norm_out": norm}
        measured = {
            "call_fused": microseconds(lambda: run(handle, place, TOKENS, gpu)),
            "fused_into_places": microseconds(lambda: communicator.all_reduce_fused(x, **places)),
            "fused_new": microseconds(
                lambda: communicator.all_reduce_fused(x, residual=residual, gamma=gamma)
            ),
            "call_plain": microseconds(lambda: plain(pointer, 1 << 40, 1 << 41, 1024, 0, gpu)),
            "plain_into_places": microseconds(lambda: communicator.all_reduce(x, out=out)),
            "plain_in_place": microseconds(lambda: communicator.all_reduce(x, out=x)),
            "plain_new": microseconds(lambda: communicator.all_reduce(x)),
            "empty_like": microseconds(lambda: torch.empty_like(x)),
        }
        communicator._pointer = None
    measured["python_over_call_fused"] = measured["fused_into_places"] - measured["call_fused"]
    measured["python_over_call_plain"] = measured["plain_into_places"] - measured["call_plain"]
    for name, value in measured.items():
        print(f"{name:<24}{value:>8.2f} us")
    if options.json:
        head = {
            "schema": 1,
            "command": " ".join(sys.argv),
            "torch": torch.__version__,
            "python": sys.version.split()[0],
        }
        rounded = {name: round(value, 3) for name, value in measured.items()}
        Path(options.json).write_text(json.dumps({**head, "us": rounded}, indent=2) + "\n")


if __name__ == "__main__":
    main()
