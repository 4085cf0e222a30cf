"""Arbiter beside other allreduces: NCCL, PyTorch's symmetric memory, FlashInfer, vLLM, SGLang,
whichever is installed.

    torchrun --nproc-per-node 4 bench/peers.py --json peers.json --plot peers.svg
    torchrun --nproc-per-node 4 bench/peers.py --only nccl,"arbiter auto" --sizes 8K,64K,1M
    LD_PRELOAD=libmscclpp_nccl.so torchrun ... bench/peers.py --only nccl --label mscclpp

One harness: the same inputs, a captured graph of many calls, peers in turns, the slowest rank, the
median of rounds. Small integers as inputs, so sums must be exact; a peer that is wrong is not
timed. With --producer, every call stands between a matrix product that writes its input and one
that reads its output, ranks come --apart microseconds apart, and the times are those after the last
arrival: the same without the call is timed in turns, and subtracted. MSCCL++ speaks NCCL's
interface: preload its library and name the row with --label. NVLink multicast is used by nobody,
NCCL included (NCCL_NVLS_ENABLE=0, TORCH_SYMM_MEM_DISABLE_MULTICAST=1), unless --allow-multicast
says so."""

import argparse
import datetime
import gc
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any, Dict, List

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.append(
    str(Path(__file__).resolve().parents[1] / "python")
)  # an installed package comes first


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes",
        default="16K,32K,64K,128K,256K,512K,1M,2M,4M,8M,16M",
        help="bytes of a rank's message",
    )
    parser.add_argument("--hidden", type=int, default=8192, help="elements of a row")
    parser.add_argument("--patterns", default="allreduce,allreduce_residual_rmsnorm")
    parser.add_argument("--only", help="peers, separated by commas")
    parser.add_argument(
        "--label", help="instead of the name nccl, where another library was preloaded"
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--replays", type=int, default=10, help="of a round; a replay is 20 calls")
    parser.add_argument(
        "--producer",
        type=int,
        default=0,
        metavar="DEPTH",
        help="behind a matrix product that sums over so many (8192, say); 0: behind each other",
    )
    parser.add_argument(
        "--apart",
        type=float,
        default=0,
        metavar="US",
        help="with --producer: the last rank arrives so many microseconds after the first",
    )
    parser.add_argument("--decisions", help="what `arbiter tune` wrote; default: ARBITER_DB")
    parser.add_argument(
        "--allow-multicast", action="store_true", help="also what uses NVLink multicast"
    )
    parser.add_argument(
        "--device", default="cuda", choices=["cuda", "cpu"], help="cpu: to try the program"
    )
    parser.add_argument("--json", help="write the results here (rank 0)")
    parser.add_argument("--plot", help="draw the curves here (rank 0; needs matplotlib)")
    given = parser.parse_args()
    if given.apart and not given.producer:
        parser.error("--apart needs --producer")
    if not given.allow_multicast:  # before anything is loaded that reads them
        os.environ["NCCL_NVLS_ENABLE"] = "0"
        os.environ["TORCH_SYMM_MEM_DISABLE_MULTICAST"] = "1"
    return given


def byte_count(text: str) -> int:
    unit = {"K": 1 << 10, "M": 1 << 20}.get(text[-1:].upper())
    return int(text[:-1]) * unit if unit else int(text)


def where(given: argparse.Namespace) -> str:
    if not given.producer:
        return ""
    late = f", ranks {given.apart:g} us apart" if given.apart else ""
    return f" behind a product over {given.producer}{late}, after the last arrival"


def table(case: Dict[str, Any]) -> str:
    lines = [
        f"\n{case['pattern']}, {case['ranks']} ranks, hidden {case['hidden']}: microseconds of a"
        f" call{case['where']}"
    ]
    sizes = case["bytes"]
    lines.append("  " + f"{'':<20}" + "".join(f"{size >> 10:>8}K" for size in sizes))
    for name, row in case["peers"].items():
        if "unavailable" in row:
            lines.append(f"  {name:<20}unavailable: {row['unavailable'].splitlines()[0][:80]}")
            continue
        cells = [row["us"].get(str(size)) for size in sizes]
        lines.append(
            "  "
            + f"{name:<20}"
            + "".join(f"{'-' if cell is None else format(cell, '.2f'):>9}" for cell in cells)
        )
        for size, reason in row.get("why_not", {}).items():
            if reason.startswith("wrong"):
                lines.append(f"      {size} bytes: {reason}")
    return "\n".join(lines)


def plot(cases: List[Dict[str, Any]], path: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as pyplot

    figure, axes = pyplot.subplots(1, len(cases), figsize=(7 * len(cases), 5), squeeze=False)
    for axis, case in zip(axes[0], cases):
        for name, row in case["peers"].items():
            points = sorted((int(size), us) for size, us in row.get("us", {}).items())
            if points:
                axis.plot(
                    *zip(*points),
                    marker="o",
                    label=name,
                    linewidth=2.5 if name == "arbiter auto" else 1,
                )
        axis.set(
            xscale="log", yscale="log", xlabel="bytes", ylabel="us of a call", title=case["pattern"]
        )
        axis.legend(fontsize=8)
        axis.grid(True, which="both", alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    given = options()
    import torch
    import torch.distributed as dist
    from beside import measure, peers
    from transformer.context import Context

    cuda = given.device == "cuda"
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if cuda else "gloo", timeout=datetime.timedelta(minutes=20))
    context = Context(given.device)
    context.barrier()
    row_bytes = given.hidden * context.dtype.itemsize
    sizes = [byte_count(size) for size in given.sizes.split(",")]
    if any(size % row_bytes for size in sizes):
        raise SystemExit(f"--sizes: every size must be a multiple of a row, {row_bytes} bytes")
    host_group = dist.new_group(backend="gloo")
    work = peers.Work(context, given.hidden, max(sizes) // row_bytes, given.decisions, host_group)
    cases = []
    with torch.inference_mode():
        made = peers.make(
            work, given.only.split(",") if given.only else None, given.allow_multicast
        )
        for pattern in given.patterns.split(","):
            case = run(work, pattern, sizes, made, given)
            cases.append(case)
            context.say(table(case))
        for peer in made.values():
            if not isinstance(peer, str):
                peer.close()
    if context.rank == 0 and given.json:
        head = {
            "schema": 1,
            "command": " ".join(sys.argv),
            "ranks": context.size,
            "gpu": torch.cuda.get_device_name() if cuda else "cpu",
            "torch": torch.__version__,
            "nccl": ".".join(map(str, torch.cuda.nccl.version())) if cuda else "",
            "multicast": given.allow_multicast,
            "rounds": given.rounds,
            "replays": given.replays,
            "calls": measure.CALLS,
            "producer": given.producer,
            "apart_us": given.apart,
        }
        Path(given.json).write_text(json.dumps({**head, "cases": cases}, indent=2) + "\n")
    if context.rank == 0 and given.plot:
        plot(cases, given.plot)
    sys.stdout.flush()
    context.barrier()
    wrong = any(
        reason.startswith("wrong")
        for case in cases
        for row in case["peers"].values()
        for reason in row.get("why_not", {}).values()
    )
    os._exit(
        1 if wrong else 0
    )  # other libraries' threads and some versions of gloo do not always end well


def run(
    work: Any, pattern: str, sizes: List[int], made: Dict[str, Any], given: Any
) -> Dict[str, Any]:
    """One pattern: all sizes, all peers in turns."""
    from beside import measure, peers, producer

    context, nothing = work.context, peers.Nothing(work)
    rows: Dict[str, Any] = {}
    label = {"nccl": given.label} if given.label else {}
    for name, peer in made.items():
        if isinstance(peer, str):
            rows[label.get(name, name)] = {"unavailable": peer}
        elif pattern in peer.patterns:
            rows[label.get(name, name)] = {"us": {}, "spread": {}, "why_not": {}, "candidate": {}}
    calls = measure.CALLS if context.cuda else 1
    for size in sizes:
        count = size // (given.hidden * context.dtype.itemsize)
        programs = {}
        around = None
        if given.producer:
            around = producer.Surroundings(
                context, count, given.hidden, given.producer, given.apart
            )
            alone = measure.Program(context, nothing, pattern, count, calls, around)
        for name, peer in made.items():
            shown = label.get(name, name)
            if isinstance(peer, str) or pattern not in peer.patterns:
                continue
            if peer.max_bytes is not None and size > peer.max_bytes:
                rows[shown]["why_not"][str(size)] = "more than it takes"
                continue
            program, reason = measure.prepare(context, peer, pattern, count, calls, around)
            if program is None:
                rows[shown]["why_not"][str(size)] = reason
                continue
            programs[shown] = program
            if hasattr(peer, "candidate"):
                rows[shown]["candidate"][str(size)] = peer.candidate(pattern, count)
        samples: Dict[str, List[float]] = {name: [] for name in programs}
        for _ in range(given.rounds):
            rest = alone.microseconds(given.replays) if around is not None else 0.0
            for name, program in programs.items():
                samples[name].append(program.microseconds(given.replays) - rest)
        for name, times in samples.items():
            median = statistics.median(times)
            rows[name]["us"][str(size)] = median
            spread = max(times) - min(times)
            rows[name]["spread"][str(size)] = spread / abs(median) if median else 0.0
        programs.clear()
        gc.collect()
    return {
        "pattern": pattern,
        "where": where(given),
        "ranks": context.size,
        "hidden": given.hidden,
        "bytes": sizes,
        "peers": rows,
    }


if __name__ == "__main__":
    main()
