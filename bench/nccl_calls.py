"""ncclAllReduce of NCCL and of libarbiter-nccl.so in one process, in turns: what the shim gains and costs, without what
changes between two starts of a program (placement of processes, clocks, other users).

    torchrun --nproc-per-node 4 bench/nccl_calls.py --library build/lib/libarbiter-nccl.so --json calls.json

Both libraries are opened by path and called through ctypes; PyTorch gives memory, streams and graphs only. Per size:
  graph_us   one call in a captured graph of many
  eager_us   one call in a burst of eager calls
  host_us    what the host needs for one call of such a burst (no GPU time in it)
Each is the median over turns of the slowest rank, and ratio_* is NCCL's time over Arbiter's. Sums are of small
integers, so they are exact; all are checked, in graphs after a replay with new inputs. Exits with 1 if one is wrong.
"""

import argparse
import ctypes
import json
import os
import statistics
import time

import torch
import torch.distributed as dist

TYPES = {"float16": 6, "float32": 7, "bfloat16": 9}


class UniqueId(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_byte * 128)]


def loaded_nccl() -> str:
    """The NCCL that PyTorch has loaded."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            path = line.split()[-1]
            if os.path.basename(path).startswith("libnccl.so"):
                return path
    raise SystemExit("PyTorch has loaded no libnccl.so.2; name one with --nccl")


class Nccl:
    """One library, and a communicator of it over all ranks."""

    def __init__(self, path: str):
        self.library = ctypes.CDLL(path, mode=os.RTLD_LOCAL | os.RTLD_NOW)
        self.library.ncclGetErrorString.restype = ctypes.c_char_p
        self.library.ncclCommInitRank.argtypes = [ctypes.c_void_p, ctypes.c_int, UniqueId, ctypes.c_int]
        self.call = self.library.ncclAllReduce
        self.call.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int,
                              ctypes.c_void_p, ctypes.c_void_p]
        identity = UniqueId()
        if dist.get_rank() == 0:
            self.check(self.library.ncclGetUniqueId(ctypes.byref(identity)))
        shared = torch.frombuffer(bytearray(bytes(identity)), dtype=torch.uint8).clone()
        dist.broadcast(shared, 0)
        identity = UniqueId.from_buffer_copy(bytes(shared.tolist()))
        self.comm = ctypes.c_void_p()
        self.check(self.library.ncclCommInitRank(ctypes.byref(self.comm), dist.get_world_size(), identity,
                                                 dist.get_rank()))

    def check(self, result: int) -> None:
        if result != 0:
            raise RuntimeError(f"NCCL: {self.library.ncclGetErrorString(result).decode()}")

    def all_reduce(self, source: torch.Tensor, target: torch.Tensor, dtype: int, stream: int) -> None:
        self.check(self.call(source.data_ptr(), target.data_ptr(), source.numel(), dtype, 0, self.comm, stream))

    def close(self) -> None:
        self.check(self.library.ncclCommDestroy(self.comm))


def slowest(values: list) -> list:
    tensor = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor.tolist()


def fill(tensor: torch.Tensor, rank: int, salt: int) -> None:
    index = torch.arange(tensor.numel(), device=tensor.device, dtype=torch.int32)
    tensor.copy_(((index * 7 + rank * 3 + salt) % 11 - 5).to(tensor.dtype))


def wrong_elements(tensor: torch.Tensor, salt: int) -> int:
    total = torch.zeros(tensor.numel(), device=tensor.device, dtype=torch.float32)
    one = torch.empty_like(total)
    for rank in range(dist.get_world_size()):
        fill(one, rank, salt)
        total += one
    return int((tensor != total.to(tensor.dtype)).sum())


class Case:
    """One library at one size: buffers, a graph, and what was measured so far."""

    def __init__(self, nccl: Nccl, size: int, dtype: torch.dtype, in_place: bool, calls: int, offset: int):
        self.nccl, self.calls, self.type = nccl, calls, TYPES[str(dtype).split(".")[-1]]
        count = max(1, size // dtype.itemsize)
        whole = torch.zeros(count + offset, device="cuda", dtype=dtype)
        self.source = whole[offset:]
        self.target = self.source if in_place else torch.zeros(count + offset, device="cuda", dtype=dtype)[offset:]
        self.stream = torch.cuda.Stream()
        self.samples = {"graph_us": [], "eager_us": [], "host_us": []}
        self.wrong = 0
        self.one()
        torch.cuda.synchronize()
        self.check(1, self.one)
        self.graph, single = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        with torch.cuda.graph(single, stream=self.stream, capture_error_mode="thread_local"):
            self.one()
        for salt in range(2, 5):
            self.check(salt, single.replay)
        self.source.zero_()
        with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
            self.burst()
        torch.cuda.synchronize()

    def one(self) -> None:
        self.nccl.all_reduce(self.source, self.target, self.type, self.stream.cuda_stream)

    def burst(self) -> None:
        call, source, target = self.nccl.call, self.source.data_ptr(), self.target.data_ptr()
        count, comm, stream = self.source.numel(), self.nccl.comm, self.stream.cuda_stream
        for _ in range(self.calls):
            if call(source, target, count, self.type, 0, comm, stream) != 0:
                raise RuntimeError("ncclAllReduce failed")

    def check(self, salt: int, action) -> None:
        fill(self.source, dist.get_rank(), salt)
        torch.cuda.synchronize()
        with torch.cuda.stream(self.stream):
            action()
        torch.cuda.synchronize()
        self.wrong += wrong_elements(self.target, salt)

    def turn(self) -> None:
        self.source.zero_()
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        times = []
        for action in (self.graph.replay, self.burst):
            torch.cuda.synchronize()
            dist.barrier()
            with torch.cuda.stream(self.stream):
                begin.record()
                started = time.perf_counter()
                action()
                host = time.perf_counter() - started
                end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) * 1000 / self.calls)
        graph, eager, host = slowest([*times, host * 1e6 / self.calls])
        for name, value in (("graph_us", graph), ("eager_us", eager), ("host_us", host)):
            self.samples[name].append(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", required=True, help="libarbiter-nccl.so")
    parser.add_argument("--nccl", help="the real libnccl.so.2; default: PyTorch's")
    parser.add_argument("--sizes", default="8,1000,8K,64K,256K,1M,4M,8M,16M,64M", help="bytes of one message")
    parser.add_argument("--dtype", default="bfloat16", choices=sorted(TYPES))
    parser.add_argument("--in-place", action="store_true")
    parser.add_argument("--offset", type=int, default=0, help="elements past an aligned address")
    parser.add_argument("--turns", type=int, default=11)
    parser.add_argument("--pin", action="store_true", help="keep each rank on cores of its own")
    parser.add_argument("--json", help="write the results here (rank 0)")
    options = parser.parse_args()
    local = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(local)
    if options.pin:
        cores = sorted(os.sched_getaffinity(0))
        share = len(cores) // int(os.environ["LOCAL_WORLD_SIZE"])
        os.sched_setaffinity(0, cores[local * share:(local + 1) * share])
    dist.init_process_group("gloo")
    torch.zeros(1, device="cuda")
    torch.cuda.nccl.version()
    real = options.nccl or loaded_nccl()
    os.environ["ARBITER_NCCL_LIBRARY"] = real
    libraries = {"nccl": Nccl(real), "arbiter": Nccl(os.path.abspath(options.library))}
    dtype = getattr(torch, options.dtype)
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
    sizes = [int(size[:-1]) * units[size[-1]] if size[-1] in units else int(size) for size in options.sizes.split(",")]
    rows, wrong = [], 0
    for size in sizes:
        calls = 100 if size <= 1 << 20 else 20 if size <= 16 << 20 else 5
        cases = {who: Case(nccl, size, dtype, options.in_place, calls, options.offset)
                 for who, nccl in libraries.items()}
        for turn in range(options.turns + 2):
            for case in cases.values():
                case.turn()
            if turn == 1:  # the first two warm up
                for case in cases.values():
                    for samples in case.samples.values():
                        samples.clear()
        bad = int(slowest([sum(case.wrong for case in cases.values())])[0])
        wrong += bad
        row = {"bytes": size, "wrong_elements": bad}
        for name in ("graph_us", "eager_us", "host_us"):
            nccl, arbiter = (statistics.median(cases[who].samples[name]) for who in ("nccl", "arbiter"))
            row.update({f"nccl_{name}": nccl, f"arbiter_{name}": arbiter, f"ratio_{name[:-3]}": nccl / arbiter})
        rows.append(row)
        if dist.get_rank() == 0:
            print(f"{size:>10} B " + "  ".join(
                f"{name} {row[f'nccl_{name}_us']:8.2f} {row[f'arbiter_{name}_us']:8.2f} us {row[f'ratio_{name}']:6.3f}x"
                for name in ("graph", "eager", "host")) + f"  wrong {bad}", flush=True)
        del cases
    for nccl in libraries.values():
        nccl.close()
    if dist.get_rank() == 0 and options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"schema": 1, "world": dist.get_world_size(), "dtype": options.dtype,
                       "in_place": options.in_place, "offset": options.offset, "pinned": options.pin,
                       "gpu": torch.cuda.get_device_name(), "nccl": real, "rows": rows}, file, indent=1)
    dist.destroy_process_group()
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
