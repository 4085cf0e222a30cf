#!/usr/bin/env python3
"""A long run of every fuzz target, and a record of it.

    cmake --preset fuzz && cmake --build --preset fuzz
    tests/fuzz/record.py --seconds 3600 --output bench/results/2026-01-31-fuzz.json

Several workers of a target share what they find. The seconds that count are those of all workers together; beside them
stands the processor time that they had, which is less where workers outnumber processors. Exit status 1
if any target found anything; the input lies where "artifacts" says.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

SOURCE = pathlib.Path(__file__).resolve().parent
TARGETS = {  # and the folder of its seeds
    "jsonl": "jsonl",
    "snapshot": "snapshot",
    "catalogue": "catalogue",
    "cache_entry": "cache_entry",
    "tcp_message": "tcp_message",
    "file_exchange": "file_exchange",
    "descriptor_mailbox": "descriptor_mailbox",
    "nccl_plugin": "snapshot",
}


def run_worker(build: pathlib.Path, target: str, seconds: int, worker: int, unit_seconds: int) -> dict:
    found = build / "found" / target
    found.mkdir(parents=True, exist_ok=True)
    command = [
        str(build / "bin" / f"fuzz_{target}"),
        f"-max_total_time={seconds}",
        f"-timeout={unit_seconds}",
        "-rss_limit_mb=4096",
        "-max_len=131072",
        "-print_final_stats=1",
        "-verbosity=0",
        f"-seed={worker + 1}",
        "-reload=1",
        f"-artifact_prefix={build}/{target}-{worker}-",
        str(found),
        str(SOURCE / "corpus" / TARGETS[target]),
    ]
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        output = log.read()
    stats = dict(re.findall(r"^stat::(\w+):\s+(\d+)$", output, re.M))
    if process.returncode != 0:
        print(f"{target}, worker {worker}: exit status {process.returncode}\n{output[-4000:]}", file=sys.stderr)
    return {
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "executions": int(stats.get("number_of_executed_units", 0)),
        "new_inputs": int(stats.get("new_units_added", 0)),
        "failed": process.returncode != 0,
    }


def added(before: list, now: list) -> list:
    """The rows of both, one for each target; their numbers are added up."""
    rows = {row["target"]: dict(row) for row in before}
    for row in now:
        known = rows.setdefault(row["target"], {"target": row["target"]})
        for name, value in row.items():
            if name != "target":
                known[name] = known.get(name, 0) + value
    return list(rows.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=SOURCE.parent.parent / "build-fuzz")
    parser.add_argument("--seconds", type=int, default=3600, help="of each worker (default: an hour)")
    parser.add_argument("--workers", type=int, default=1, help="of each target (default: 1)")
    parser.add_argument("--parallel", type=int, default=os.cpu_count(), help="workers at a time (default: processors)")
    parser.add_argument("--targets", default=",".join(TARGETS), help="only these: jsonl,snapshot")
    parser.add_argument(
        "--unit-seconds",
        type=int,
        default=20,
        help="an input that takes longer is a finding (default: 20; more where workers wait for processors)",
    )
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        help="a record that is there already gets what this run adds to it: seconds, executions, findings",
    )
    options = parser.parse_args()
    build = options.build.resolve()
    targets = options.targets.split(",")
    with concurrent.futures.ThreadPoolExecutor(options.parallel) as pool:
        runs = {
            target: [pool.submit(run_worker, build, target, options.seconds, w, options.unit_seconds) for w in range(options.workers)]
            for target in targets
        }
        rows = []
        for target, workers in runs.items():
            results = [worker.result() for worker in workers]
            rows.append(
                {
                    "target": target,
                    "seconds": options.seconds * options.workers,
                    "cpu_seconds": round(sum(result["cpu_seconds"] for result in results)),
                    "executions": sum(result["executions"] for result in results),
                    "new_inputs": sum(result["new_inputs"] for result in results),
                    "failed": sum(result["failed"] for result in results),
                }
            )
    if options.output and options.output.exists():
        rows = added(json.loads(options.output.read_text())["targets"], rows)
    rows.sort(key=lambda row: list(TARGETS).index(row["target"]))
    record = {
        "schema": 1,
        "command": "tests/fuzz/record.py",
        "processors": os.cpu_count(),
        "sanitizers": ["address", "undefined"],
        "artifacts": str(build.name),
        "targets": rows,
    }
    text = json.dumps(record, indent=2) + "\n"
    if options.output:
        options.output.write_text(text)
    else:
        print(text, end="")
    return 1 if any(row["failed"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
