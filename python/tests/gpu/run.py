"""Checks of the Python package with real GPUs, one rank on each, and what a call costs the host.

    torchrun --nproc-per-node 4 python/tests/gpu/run.py --json checks.json
    torchrun --nproc-per-node 2 python/tests/gpu/run.py --only captured,compiled

Needs PyTorch and libarbiter.so (ARBITER_LIBRARY). Exit status 1 if a check failed. A check that
hangs is told to give up after its own time, and the next one gets a new communicator. With --device
cpu and one process it tries itself without a GPU."""

import argparse
import datetime
import importlib
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.append(str(Path(__file__).resolve().parents[2]))  # an installed package comes first

import harness

SUBJECTS = ("creation", "calls", "graphs", "memory", "compiled", "backend", "engines", "cost")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument(
        "--only", help="checks whose names contain one of these, separated by commas"
    )
    parser.add_argument("--skip", help="not those whose names contain one of these")
    parser.add_argument("--seconds", type=float, default=90, help="no check begins later")
    parser.add_argument("--json", help="write the results here (rank 0)")
    options = parser.parse_args()
    began = time.monotonic()

    def wanted(name: str) -> bool:
        only, skip = ((text or "").split(",") for text in (options.only, options.skip))
        return any(part in name for part in only) and not any(
            part and part in name for part in skip
        )

    cuda = options.device == "cuda"
    os.environ.setdefault("NCCL_NVLS_ENABLE", "0")  # NVLink multicast is opt-in, for NCCL too
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if cuda else "gloo", timeout=datetime.timedelta(minutes=20))
    for subject in SUBJECTS:
        importlib.import_module(f"checks_{subject}")
    with torch.inference_mode():
        ranks = harness.Ranks(options.device)
        failed = harness.run_all(ranks, wanted, options.json, options.seconds, began)
        ranks.communicator.close()
    sys.stdout.flush()
    os._exit(
        1 if failed else 0
    )  # some versions of gloo end a process in std::terminate() while it exits


if __name__ == "__main__":
    main()
