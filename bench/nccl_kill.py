"""How long a torchrun job lives on after one of its ranks was killed, without and with libarbiter-nccl.so.

    python3 bench/nccl_kill.py --library build/lib/libarbiter-nccl.so --ranks 4 --json kill.json

The ranks reduce without end, and one of them kills itself while the others wait for it in a kernel. Also a job whose
ranks are watched by PyTorch alone (--watchdog seconds), without an agent that ends them. Exits with 1 if the job with
Arbiter lives --slack seconds longer than the other, or if Arbiter served nothing.
"""

import itertools
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import shim_runs


def worker(path: str, options) -> None:
    import datetime
    import torch
    import torch.distributed as dist
    rank = int(os.environ["RANK"])
    torch.cuda.set_device(rank)
    dist.init_process_group("nccl", timeout=datetime.timedelta(seconds=options.watchdog))
    tensor = torch.zeros(4096, device="cuda", dtype=torch.bfloat16)
    for step in range(200):
        dist.all_reduce(tensor)
    torch.cuda.synchronize()
    if rank == dist.get_world_size() - 1:
        with open(path, "w", encoding="utf-8") as file:
            file.write(repr(time.time()))
        os.kill(os.getpid(), signal.SIGKILL)
    while True:
        dist.all_reduce(tensor)
        torch.cuda.synchronize()


def alone(options, path: str, library: str) -> tuple:
    """Ranks without an agent. Returns the time when the last one ended, how often Arbiter served, and who hung."""
    processes = []
    for rank in range(options.ranks):
        variables = {**shim_runs.environment(library), "RANK": str(rank), "WORLD_SIZE": str(options.ranks),
                     "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(options.port)}
        processes.append(subprocess.Popen([sys.executable, __file__, "--worker", path, "--watchdog",
                                           str(options.watchdog)], env=variables, stdout=subprocess.PIPE,
                                          stderr=subprocess.STDOUT, text=True))
    options.port += 1
    end = time.monotonic() + options.timeout
    texts, hung = [], []
    for rank, process in enumerate(processes):
        try:
            texts.append(process.communicate(timeout=max(0.1, end - time.monotonic()))[0])
        except subprocess.TimeoutExpired:
            process.kill()
            texts.append(process.communicate()[0])
            hung.append(rank)
            print(f"rank {rank} hung:", texts[-1][-3000:], sep="\n", file=sys.stderr, flush=True)
    return time.time(), sum(len(shim_runs.SERVED.findall(text)) for text in texts), hung


def main() -> None:
    parser = shim_runs.parser(__doc__)
    parser.add_argument("--kinds", default="torchrun,watchdog")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--watchdog", type=int, default=10, help="seconds until PyTorch gives up on a collective")
    parser.add_argument("--slack", type=float, default=2.0)
    parser.add_argument("--port", type=int, default=29711)
    options = shim_runs.parse(parser)
    if options.worker:
        worker(options.worker, options)
        return
    seconds = {kind: {"nccl": [], "arbiter": []} for kind in options.kinds.split(",")}
    served, failures = 0, []
    for _ in range(options.rounds):
        for kind, (who, library) in itertools.product(seconds, (("nccl", ""), ("arbiter", options.library))):
            path = os.path.join(tempfile.mkdtemp(), "killed")
            if kind == "torchrun":
                command = shim_runs.torchrun(options.ranks, __file__, "--worker", path, "--watchdog", "600")
                done = shim_runs.start(command, shim_runs.environment(library), options.timeout)
                ended, count, hung = time.time(), done["served"], done["status"] == "hung"
                text = done["stderr"]
            else:
                ended, count, hung = alone(options, path, library)
                text = ""
            served += count if library else 0
            if hung:
                failures.append(f"{kind}, {who}: hung for {options.timeout} s")
                print(text[-4000:], file=sys.stderr, flush=True)
                continue
            seconds[kind][who].append(ended - killed_at(path, text))
            print(f"{kind}, {who}: the job ended {seconds[kind][who][-1]:.1f} s after the kill", file=sys.stderr,
                  flush=True)
    if not served:
        failures.append("Arbiter served no communicator")
    for kind, times in seconds.items():
        if not times["nccl"] or not times["arbiter"]:
            continue
        if statistics.median(times["arbiter"]) > statistics.median(times["nccl"]) + options.slack:
            failures.append(f"{kind}: {statistics.median(times['arbiter']):.1f} s with Arbiter, "
                            f"{statistics.median(times['nccl']):.1f} s without")
    shim_runs.finish(options, {"ranks": options.ranks, "watchdog_seconds": options.watchdog,
                               "seconds_after_the_kill": seconds, "served": served}, failures)


def killed_at(path: str, text: str) -> float:
    try:
        with open(path, encoding="utf-8") as file:
            return float(file.read())
    except OSError:
        raise SystemExit("the ranks did not get as far as the kill:\n" + text[-4000:]) from None


if __name__ == "__main__":
    main()
