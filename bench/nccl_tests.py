"""Runs nccl-tests' all_reduce_perf with and without libarbiter-nccl.so, in turns, and compares.

    python3 bench/nccl_tests.py --binary nccl-tests/build/all_reduce_perf --library build/lib/libarbiter-nccl.so \
        --gpus 4 --json nccl-tests-4xh200.json

Layouts: `one-thread` (-g N), `threads` (-t N), and with --mpi-binary (built with MPI=1) `processes` (--mpirun). Each is
run eager and in graphs (-G). Every message is checked (-c 1). Per size, in and out of place: the median of the rounds
of both, and plain NCCL's time over Arbiter's. Exits with 1 if anything was wrong, or slower than --worst allows.
"""

import argparse
import itertools
import json
import math
import os
import shlex
import statistics
import sys

import shim_runs

UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def size_of(text: str) -> int:
    return int(text[:-1]) * UNITS[text[-1].upper()] if text[-1].upper() in UNITS else int(text)


def parse(output: str) -> dict:
    """Rows of the table: (bytes, type) -> microseconds and wrong elements, out of place and in place."""
    rows = {}
    for line in output.splitlines():
        fields = line.split()
        if len(fields) < 13 or not fields[0].isdigit() or not fields[1].isdigit():
            continue
        wrong = [0.0 if field == "N/A" else float(field) for field in (fields[8], fields[12])]
        rows[int(fields[0]), fields[2]] = {
            "out_of_place": {"us": float(fields[5]), "wrong": wrong[0]},
            "in_place": {"us": float(fields[9]), "wrong": wrong[1]},
        }
    return rows


def run(command: list, library: str, options) -> dict:
    environment = dict(os.environ)
    environment.pop("LD_PRELOAD", None)
    if library:
        environment["LD_PRELOAD"] = os.path.abspath(library)
    done = shim_runs.start(command, environment, options.timeout)
    rows = parse(done["stdout"])
    if done["status"] != 0 or not rows:
        print(f"{'preloaded' if library else 'plain'}: {shlex.join(command)}: {done['status']} after "
              f"{done['seconds']:.1f} s", done["stdout"][-4000:], done["stderr"][-4000:], sep="\n", file=sys.stderr,
              flush=True)
    return {"status": done["status"], "rows": rows}


def commands(options) -> list:
    """(layout, graph, dtype, command)"""
    layouts = {"one-thread": [options.binary, "-g", str(options.gpus)], "threads": [options.binary, "-t", str(options.gpus), "-g", "1"]}
    if options.mpi_binary:
        layouts["processes"] = [*shlex.split(options.mpirun.format(ranks=options.gpus)), options.mpi_binary, "-g", "1"]
    wanted = options.layouts.split(",") if options.layouts else list(layouts)
    found = []
    for layout, mode, dtype in itertools.product(wanted, options.modes.split(","), options.dtypes.split(",")):
        if layout not in layouts:
            raise SystemExit(f"layout '{layout}': expected one of {', '.join(layouts)}")
        command = [*layouts[layout], "-b", options.min, "-e", options.max, "-f", "2", "-d", dtype, "-o", options.op,
                   "-c", "1", "-n", str(options.iterations), "-w", str(options.warmup), "-a", "3"]
        if mode == "graph":
            command += ["-G", str(options.replays)]
        found.append((layout, mode, dtype, command))
    return found


def geometric_mean(values: list) -> float:
    return math.exp(statistics.fmean(math.log(value) for value in values)) if values else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True, help="all_reduce_perf")
    parser.add_argument("--mpi-binary", help="all_reduce_perf that was built with MPI=1: one process for every GPU")
    parser.add_argument("--mpirun", default="mpirun --allow-run-as-root -x LD_PRELOAD -np {ranks}")
    parser.add_argument("--library", required=True, help="libarbiter-nccl.so")
    parser.add_argument("--gpus", type=int, default=4)
    parser.add_argument("--layouts", help="some of one-thread,threads,processes; all that are possible")
    parser.add_argument("--modes", default="eager,graph")
    parser.add_argument("--dtypes", default="float,half,bfloat16")
    parser.add_argument("--op", default="sum")
    parser.add_argument("--min", default="8")
    parser.add_argument("--max", default="1G")
    parser.add_argument("--iterations", type=int, default=50)
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--replays", type=int, default=20, help="of a captured graph (-G)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, in turns")
    parser.add_argument("--timeout", type=int, default=120, help="seconds of one run, until it counts as hung")
    parser.add_argument("--worst", type=float, default=0.98, help="fail below this ratio at any size; 0: never")
    parser.add_argument("--json", help="write everything here")
    options = parser.parse_args()

    results, wrong, broken = [], 0.0, 0
    for layout, mode, dtype, command in commands(options):
        times, hung = {}, False
        for _ in range(options.rounds):
            for who, library in (("nccl", ""), ("arbiter", options.library)):
                if hung:
                    continue
                done = run(command, library, options)
                hung = done["status"] == "hung"  # another round would hang, too
                broken += done["status"] != 0 or not done["rows"]
                for (size, _), row in done["rows"].items():
                    for place, cell in row.items():
                        times.setdefault((size, place), {"nccl": [], "arbiter": []})[who].append(cell["us"])
                        wrong += cell["wrong"] if who == "arbiter" else 0
        rows = []  # of sizes that both have done
        for (size, place), samples in sorted(times.items()):
            if not samples["nccl"] or not samples["arbiter"]:
                continue
            nccl, arbiter = statistics.median(samples["nccl"]), statistics.median(samples["arbiter"])
            rows.append({"bytes": size, "place": place, "nccl_us": nccl, "arbiter_us": arbiter,
                         "ratio": nccl / arbiter if arbiter else math.inf, "samples": samples})
        middle = [row["ratio"] for row in rows if 8 << 10 <= row["bytes"] <= 4 << 20]
        worst = min(rows, key=lambda row: row["ratio"], default=None)
        results.append({"layout": layout, "mode": mode, "dtype": dtype, "command": shlex.join(command), "rows": rows,
                        "geomean_8K_to_4M": geometric_mean(middle), "worst_ratio": worst["ratio"] if worst else math.nan,
                        "worst_bytes": worst["bytes"] if worst else 0})
        print(f"{layout:>10} {mode:>5} {dtype:>8}: {geometric_mean(middle):5.2f}x from 8K to 4M, worst "
              f"{results[-1]['worst_ratio']:5.3f}x at {results[-1]['worst_bytes']} bytes", flush=True)
        for row in rows:
            print(f"    {row['bytes']:>11} {row['place']:>12}  {row['nccl_us']:9.2f} {row['arbiter_us']:9.2f} us "
                  f"{row['ratio']:6.3f}x", flush=True)
        if options.json:
            with open(options.json, "w", encoding="utf-8") as file:
                json.dump({"schema": 1, "command": shlex.join(["python3", *sys.argv]), "gpus": options.gpus,
                           "results": results, "wrong_elements": wrong, "broken_runs": broken}, file, indent=1)
    slow = [one for one in results if options.worst and not one["worst_ratio"] >= options.worst]
    print(f"{wrong:g} wrong elements, {broken} broken runs, {len(slow)} of {len(results)} slower than {options.worst}x")
    raise SystemExit(1 if wrong or broken or slow else 0)


if __name__ == "__main__":
    main()
