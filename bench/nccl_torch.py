"""torch.distributed with NCCL, without and with libarbiter-nccl.so: the same results?

    python3 bench/nccl_torch.py --library build/lib/libarbiter-nccl.so --ranks 4 --json torch.json

Allreduce of every dtype, in a captured graph, async on several streams, coalesced, in sub-groups and with other
operations between; sums of small integers, which must be equal to the last bit. DDP and FSDP train a small model in
fp32: losses and parameters must agree within rounding (sums are added up in another order). Exits with 1 if they do not,
or if Arbiter served no communicator.
"""

import os
import tempfile

import shim_runs

STEPS = 3


def integers(count: int, rank: int, salt: int, dtype):
    import torch
    index = torch.arange(count, device="cuda", dtype=torch.int32)
    return ((index * 7 + rank * 3 + salt) % 11 - 5).to(dtype)


def exact_results(rank: int, world: int) -> dict:
    import torch
    import torch.distributed as dist
    found = {}

    def keep(name: str, tensor) -> None:
        found[name] = tensor.detach().cpu()

    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int32):
        for count in (1, 7, 1000, 4096, 65536, 1 << 20 if dtype is torch.bfloat16 else 1 << 17):
            tensor = integers(count, rank, 1, dtype)
            dist.all_reduce(tensor)
            keep(f"sum {dtype} {count}", tensor)
    for name, operation in (("max", dist.ReduceOp.MAX), ("avg", dist.ReduceOp.AVG)):
        tensor = integers(4096, rank, 2, torch.float32)
        dist.all_reduce(tensor, op=operation)
        keep(name, tensor)

    # Asynchronous, on NCCL's own stream, with work of the program beside it.
    tensors = [integers(2048 * (i + 1), rank, i, torch.bfloat16) for i in range(8)]
    works = [dist.all_reduce(tensor, async_op=True) for tensor in tensors]
    for work in works:
        work.wait()
    for i, tensor in enumerate(tensors):
        keep(f"async {i}", tensor)

    # Streams that change, synchronous and not, other collectives between.
    streams = [torch.cuda.Stream() for _ in range(3)]
    tensor = integers(8192, rank, 3, torch.float32)
    for i in range(12):
        stream = streams[i % 3]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            dist.all_reduce(tensor)
            tensor.remainder_(97)
            if i % 4 == 1:
                gathered = [torch.empty_like(tensor) for _ in range(world)]
                dist.all_gather(gathered, tensor)
                tensor.copy_(gathered[i % world])
            if i % 4 == 3:
                dist.all_reduce(tensor, op=dist.ReduceOp.MAX, async_op=True).wait()
        torch.cuda.current_stream().wait_stream(stream)
    keep("changing streams", tensor)

    tensors = [integers(1024, rank, i, torch.float16) for i in range(5)]
    with dist._coalescing_manager(device=torch.device("cuda", torch.cuda.current_device()), async_ops=False):
        for tensor in tensors:
            dist.all_reduce(tensor)
    for i, tensor in enumerate(tensors):
        keep(f"coalesced {i}", tensor)

    groups = [dist.new_group(list(range(start, world, 2))) for start in range(min(2, world))]
    tensor = integers(4096, rank, 4, torch.bfloat16)
    for _ in range(3):
        dist.all_reduce(tensor, group=groups[rank % len(groups)])
        tensor.remainder_(31)
    keep("sub-group", tensor)

    graph = torch.cuda.CUDAGraph()
    source, tensor = integers(4096, rank, 5, torch.bfloat16), torch.zeros(4096, device="cuda", dtype=torch.bfloat16)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        dist.all_reduce(tensor)
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        tensor.copy_(source)
        dist.all_reduce(tensor)
        dist.all_reduce(tensor.float())
    for salt in range(3):
        source.copy_(integers(4096, rank, 10 + salt, torch.bfloat16))
        graph.replay()
        keep(f"replay {salt}", tensor)
        dist.all_reduce(tensor.remainder_(7))  # eager between replays
        keep(f"eager after replay {salt}", tensor)
    return found


def trained(rank: int, shard: bool) -> dict:
    import torch
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.nn.parallel import DistributedDataParallel
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(512, 1024), torch.nn.GELU(), torch.nn.Linear(1024, 1024),
                                torch.nn.GELU(), torch.nn.Linear(1024, 10)).cuda()
    if shard:
        model = FullyShardedDataParallel(model, device_id=torch.cuda.current_device(), use_orig_params=True)
    else:
        model = DistributedDataParallel(model, device_ids=[torch.cuda.current_device()])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    generator = torch.Generator(device="cuda").manual_seed(100 + rank)
    losses = []
    for _ in range(STEPS):
        data = torch.randn(32, 512, device="cuda", generator=generator)
        target = torch.randint(0, 10, (32,), device="cuda", generator=generator)
        loss = torch.nn.functional.cross_entropy(model(data), target)
        optimizer.zero_grad()
        loss.backward()
        if shard:
            model.clip_grad_norm_(0.5)  # an allreduce between all-gathers and reduce-scatters on other streams
        optimizer.step()
        losses.append(loss.detach())
    parameters = torch.cat([parameter.detach().flatten()[:10000] for parameter in model.parameters()])
    return {"losses": torch.stack(losses).cpu(), "parameters": parameters.cpu()}


def worker(folder: str) -> None:
    import torch
    import torch.distributed as dist
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl")
    rank = dist.get_rank()
    results = {"exact": exact_results(rank, dist.get_world_size()), "ddp": trained(rank, False),
               "fsdp": trained(rank, True)}
    torch.cuda.synchronize()
    torch.save(results, os.path.join(folder, f"{rank}.pt"))
    dist.destroy_process_group()


def main() -> None:
    options = shim_runs.parse(shim_runs.parser(__doc__))
    if options.worker:
        worker(options.worker)
        return
    import torch
    folders, outcome, failures = {}, {"ranks": options.ranks}, []
    for who, library in (("nccl", ""), ("arbiter", options.library)):
        folders[who] = tempfile.mkdtemp()
        done = shim_runs.run(shim_runs.torchrun(options.ranks, __file__, "--worker", folders[who]), library,
                             options.timeout)
        outcome[who] = {key: done[key] for key in ("status", "seconds", "served")}
        if done["status"] != 0:
            failures.append(f"{who}: the program ended with {done['status']}")
    if not outcome["arbiter"]["served"]:
        failures.append("Arbiter served no communicator")
    compared, largest = 0, {"ddp": 0.0, "fsdp": 0.0}
    for rank in range(0 if failures else options.ranks):
        plain, ours = (torch.load(os.path.join(folders[who], f"{rank}.pt")) for who in ("nccl", "arbiter"))
        for name, tensor in plain["exact"].items():
            compared += 1
            if not torch.equal(tensor, ours["exact"][name]):
                different = int((tensor != ours["exact"][name]).sum())
                failures.append(f"rank {rank}, {name}: {different} of {tensor.numel()} elements differ")
        for kind in largest:
            for name, tensor in plain[kind].items():
                difference = float((tensor - ours[kind][name]).abs().max())
                largest[kind] = max(largest[kind], difference)
                if not torch.allclose(tensor, ours[kind][name], rtol=1e-4, atol=1e-5):
                    failures.append(f"rank {rank}, {kind} {name}: differ by up to {difference:.3g}")
    shim_runs.finish(options, {**outcome, "compared_tensors": compared, "largest_difference": largest}, failures)


if __name__ == "__main__":
    main()
