"""Times torch.distributed.all_reduce and checks every result. Run it with and without libarbiter-nccl.so, in turns:

    torchrun --nproc-per-node 4 bench/nccl_shim.py --json plain.json
    LD_PRELOAD=build/lib/libarbiter-nccl.so torchrun --nproc-per-node 4 bench/nccl_shim.py --json arbiter.json

Per size: microseconds of one call in a captured graph of many and of one call in an eager burst, the slowest rank, the
median of several repetitions. Inputs are small integers, so sums are exact in every order; new inputs for every check.
"""

import argparse
import json
import os
import statistics
import time

import torch
import torch.distributed as dist


def slowest(microseconds: float) -> float:
    value = torch.tensor([microseconds], device="cuda", dtype=torch.float64)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return value.item()


def integers(count: int, rank: int, salt: int, dtype: torch.dtype) -> torch.Tensor:
    index = torch.arange(count, device="cuda", dtype=torch.int32)
    return ((index * 7 + rank * 3 + salt) % 11 - 5).to(dtype)


def expected(count: int, world: int, salt: int, dtype: torch.dtype) -> torch.Tensor:
    total = torch.zeros(count, device="cuda", dtype=torch.float32)
    for rank in range(world):
        total += integers(count, rank, salt, torch.float32)
    return total.to(dtype)


def timed(action, calls: int, repeats: int) -> float:
    samples = []
    for _ in range(repeats):
        dist.barrier()
        torch.cuda.synchronize()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        action()
        end.record()
        end.synchronize()
        samples.append(slowest(begin.elapsed_time(end) * 1000 / calls))
    return statistics.median(samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="8K,16K,64K,256K,1M,4M,16M,64M", help="bytes of one message")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", help="write the results here (rank 0)")
    options = parser.parse_args()
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl")
    rank, world = dist.get_rank(), dist.get_world_size()
    dtype = getattr(torch, options.dtype)
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    sizes = [int(size[:-1]) * units[size[-1]] if size[-1] in units else int(size) for size in options.sizes.split(",")]
    rows, wrong = [], 0
    started = time.monotonic()
    for size in sizes:
        count = size // dtype.itemsize
        tensor = integers(count, rank, 0, dtype)
        dist.all_reduce(tensor)  # sets up what is behind it
        bad = int((tensor != expected(count, world, 0, dtype)).sum())
        calls = 100 if size <= 1 << 20 else 20 if size <= 16 << 20 else 5
        stream = torch.cuda.Stream()
        graph = torch.cuda.CUDAGraph()
        buffer = torch.zeros(count, device="cuda", dtype=dtype)
        single, once = torch.cuda.CUDAGraph(), torch.zeros(count, device="cuda", dtype=dtype)
        with torch.cuda.stream(stream):
            dist.all_reduce(buffer)
            torch.cuda.synchronize()
            with torch.cuda.graph(graph, stream=stream):
                for _ in range(calls):
                    dist.all_reduce(buffer)
            with torch.cuda.graph(single, stream=stream):
                dist.all_reduce(once)
        # What a captured graph computes, with new inputs each time.
        for salt in range(1, 6):
            once.copy_(integers(count, rank, salt, dtype))
            torch.cuda.synchronize()
            single.replay()
            torch.cuda.synchronize()
            bad += int((once != expected(count, world, salt, dtype)).sum())
        buffer.zero_()
        graph_us = timed(graph.replay, calls, options.repeats)
        tensor.zero_()
        eager_us = timed(lambda: [dist.all_reduce(tensor) for _ in range(calls)], calls, options.repeats)
        tensor.copy_(integers(count, rank, 9, dtype))
        dist.all_reduce(tensor)
        bad += int((tensor != expected(count, world, 9, dtype)).sum())
        total_bad = torch.tensor([bad], device="cuda", dtype=torch.int64)
        dist.all_reduce(total_bad)
        wrong += int(total_bad.item())
        rows.append({"bytes": size, "graph_us": graph_us, "eager_us": eager_us, "wrong_elements": int(total_bad.item())})
        if rank == 0:
            print(f"{size:>11} bytes  graph {graph_us:8.2f} us  eager {eager_us:8.2f} us  wrong {int(total_bad.item())}",
                  flush=True)
        del graph, single
    if rank == 0 and options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"schema": 1, "world": world, "dtype": options.dtype, "gpu": torch.cuda.get_device_name(),
                       "torch": torch.__version__, "nccl": ".".join(map(str, torch.cuda.nccl.version())),
                       "preload": os.path.basename(os.environ.get("LD_PRELOAD", "")), "rows": rows,
                       "seconds": time.monotonic() - started}, file, indent=2)
    dist.destroy_process_group()
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
