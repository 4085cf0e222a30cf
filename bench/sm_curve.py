"""How long an allreduce takes on a part of the GPU: `arbiter bench` once for each bound of ARBITER_MAX_SMS.

    python3 bench/sm_curve.py --sms 4,8,16,32,64,132 --json curve.json -- --world 2 --tokens 64,1024,8192

What stands behind -- goes to `arbiter bench`. A line for each size and bound: the fastest of Arbiter's own algorithms
under it, NCCL's fastest beside it (which the bound does not touch), and how much longer the message takes than
without a bound. Every result is verified before it is timed. Exits with 1 if a run fails.
"""

import argparse
import json
import os
import subprocess
import sys

KEY = ("mode", "world", "dtype", "pattern", "hidden", "tokens")


def bench(options: argparse.Namespace, sms: int) -> dict:
    """What `arbiter bench` says with at most `sms` multiprocessors; 0: all."""
    environment = {**os.environ, "ARBITER_MAX_SMS": str(sms)}
    done = subprocess.run([options.arbiter, "bench", "--json", *options.bench], env=environment, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=options.timeout, check=False)
    if done.returncode != 0:
        raise SystemExit(f"sm_curve: arbiter bench with ARBITER_MAX_SMS={sms} ended with {done.returncode}:\n"
                         f"{done.stderr.strip() or done.stdout.strip()}")
    return json.loads(done.stdout)


def fastest(results: dict, ours: bool) -> tuple:
    """(candidate, microseconds); (None, None) if nothing of the kind ran."""
    times = {}
    for name, result in results.items():
        if name == "auto" or "median_us" not in result or name.startswith("nccl") == ours:
            continue
        times[result.get("chosen") or name] = result["median_us"]
    return min(times.items(), key=lambda item: item[1]) if times else (None, None)


def curve(rows_of: dict) -> list:
    """One entry for each problem: its times by the number of multiprocessors, those of all (0) first."""
    problems = {}
    for sms, content in rows_of.items():
        for row in content["rows"]:
            problem = problems.setdefault(tuple(row[name] for name in KEY),
                                          {**{name: row[name] for name in KEY}, "bytes": row["bytes"], "points": []})
            candidate, us = fastest(row["results"], ours=True)
            if us is None:
                continue
            point = {"sms": sms, "us": us, "candidate": candidate}
            auto = row["results"].get("auto", {})
            if "median_us" in auto:
                point["auto"] = {"us": auto["median_us"], "candidate": auto.get("chosen"), "rule": auto.get("rule")}
            nccl = fastest(row["results"], ours=False)
            if nccl[1] is not None:
                point["nccl_us"] = nccl[1]
            problem["points"].append(point)
    for problem in problems.values():
        whole = next((point["us"] for point in problem["points"] if point["sms"] == 0), None)
        for point in problem["points"]:
            if whole:
                point["times_whole"] = round(point["us"] / whole, 3)
    return list(problems.values())


def table(problems: list) -> str:
    lines = []
    for problem in problems:
        lines.append(f"{problem['pattern']} {problem['dtype']}, {problem['world']} ranks, {problem['tokens']} tokens "
                     f"({problem['bytes'] / 1024:g} KiB), {problem['mode']}")
        for point in problem["points"]:
            beside = f"   auto {point['auto']['us']:9.2f}" if "auto" in point else ""
            beside += f"   NCCL {point['nccl_us']:9.2f}" if "nccl_us" in point else ""
            sms = point["sms"] or "all"
            times = f"{point['times_whole']:6.2f}x" if "times_whole" in point else ""
            lines.append(f"  {sms:>4} SMs {point['us']:9.2f} us {times}{beside}   {point['candidate']}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arbiter", default="build/bin/arbiter", help="the program")
    parser.add_argument("--sms", default="4,8,16,32,64,96", help="bounds to try, beside none at all")
    parser.add_argument("--timeout", type=int, default=300, help="seconds of one run")
    parser.add_argument("--json", help="write the outcome here")
    parser.add_argument("bench", nargs="*", help="behind --: for arbiter bench")
    options = parser.parse_args()
    try:
        bounds = sorted({int(text) for text in options.sms.split(",")})
    except ValueError:
        parser.error(f"--sms: expected numbers with commas between them, not '{options.sms}'")
    if not bounds or bounds[0] < 1:
        parser.error("--sms: expected 1 or more")
    rows_of = {}
    for sms in [0, *bounds]:
        print(f"sm_curve: {sms or 'all'} multiprocessors", file=sys.stderr, flush=True)
        rows_of[sms] = bench(options, sms)
    problems = curve(rows_of)
    print(table(problems))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"schema": 1, "command": "python3 bench/sm_curve.py " + " ".join(sys.argv[1:]),
                       "environment": rows_of[0].get("environment"), "problems": problems}, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
