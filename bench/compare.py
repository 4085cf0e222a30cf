"""Compares two results of `arbiter bench --json` and prints what changed beyond noise.

    python3 bench/compare.py before.json after.json
    python3 bench/compare.py before.json after.json --only auto,nccl --threshold 0.02 --json

A time changed if the confidence intervals of its medians do not overlap and the medians differ by more than the
threshold. Measurements of other machines, drivers or libraries are compared as well, but that is said first: absolute
times then mean little, and --relative-to nccl compares the ratios to a column of the same file instead. Exit status: 0 if
nothing became slower, 1 if something did, 2 if the files cannot be compared.
"""

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

KEY = ("mode", "world", "dtype", "pattern", "hidden", "tokens")
MACHINE = (
    "gpu_name",
    "driver_version",
    "cuda_runtime",
    "compiler_version",
    "nccl_version",
    "topology",
    "symmetric_memory",
    "nccl_variables",
)


class Unusable(Exception):
    """A file that holds no results of bench."""


@dataclass
class Change:
    problem: str
    name: str
    before: float  # microseconds, or times those of the reference column
    after: float
    ratio: float  # after over before: below 1 is faster
    chosen_before: str
    chosen_after: str


def load(path: Path) -> dict:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Unusable(f"{path}: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
        raise Unusable(f"{path}: it has no rows; expected what 'arbiter bench --json' prints")
    return content


def machine_differences(before: dict, after: dict) -> list:
    ours, theirs = (content.get("environment", {}) for content in (before, after))
    unequal = [name for name in MACHINE if ours.get(name) != theirs.get(name)]
    return [f"{name}: {ours.get(name)} before, {theirs.get(name)} after" for name in unequal]


def describe(key: tuple) -> str:
    mode, world, dtype, pattern, hidden, tokens = key
    return f"{pattern} {dtype} hidden={hidden} tokens={tokens} world={world} {mode}"


def interval(result: dict, reference: float) -> tuple:
    """Median and its bounds, over the reference."""
    return tuple(result[name] / reference for name in ("median_us", "ci_low_us", "ci_high_us"))


def compare(before: dict, after: dict, threshold: float, only: list, relative_to: str) -> tuple:
    """What changed, most slowed down first, and how many times were compared."""
    rows = {tuple(row.get(name) for name in KEY): row["results"] for row in before["rows"]}
    changes, compared = [], 0
    for row in after["rows"]:
        key = tuple(row.get(name) for name in KEY)
        ours, theirs = rows.get(key), row["results"]
        if ours is None:
            continue
        references = [1.0, 1.0]
        if relative_to:
            references = [results.get(relative_to, {}).get("median_us") for results in (ours, theirs)]
            if None in references:
                continue
        for name in theirs:
            if (only and name not in only) or name == relative_to:
                continue
            if "median_us" not in theirs[name] or "median_us" not in ours.get(name, {}):
                continue
            compared += 1
            old, old_low, old_high = interval(ours[name], references[0])
            new, new_low, new_high = interval(theirs[name], references[1])
            apart = new_low > old_high or new_high < old_low
            if old > 0 and apart and abs(new / old - 1) > threshold:
                chosen = [results[name].get("chosen", "") for results in (ours, theirs)]
                changes.append(Change(describe(key), name, old, new, new / old, *chosen))
    return sorted(changes, key=lambda change: -change.ratio), compared


def print_text(changes: list, compared: int, relative_to: str, threshold: float) -> None:
    unit = f"times {relative_to}" if relative_to else "us"
    for change in changes:
        word = "slower" if change.ratio > 1 else "faster"
        percent = abs(change.ratio - 1) * 100
        print(change.problem)
        print(f"  {change.name}: {change.before:.4g} -> {change.after:.4g} {unit}, {percent:.1f}% {word}")
        if change.chosen_before != change.chosen_after:
            print(f"    {change.chosen_before} -> {change.chosen_after}")
    slower = sum(change.ratio > 1 for change in changes)
    print(
        f"{compared} times compared: {slower} slower, {len(changes) - slower} faster, the others within "
        f"{threshold * 100:g}% or their own noise"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--threshold", type=float, default=0.02, help="smallest change to print (default: 0.02)")
    parser.add_argument("--only", default="", help="columns: auto,nccl,mnnvl/twoshot_push,...")
    parser.add_argument("--relative-to", default="", metavar="COLUMN", help="compare ratios to this column of each file")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    try:
        before, after = load(options.before), load(options.after)
    except Unusable as error:
        print(f"compare.py: {error}", file=sys.stderr)
        return 2
    only = [name for name in options.only.split(",") if name]
    changes, compared = compare(before, after, options.threshold, only, options.relative_to)
    differences = machine_differences(before, after)
    if compared == 0:
        print("compare.py: the files have no time in common", file=sys.stderr)
        return 2
    if options.json:
        all_changes = [asdict(change) for change in changes]
        report = {"schema": 1, "compared": compared, "machine": differences, "changes": all_changes}
        print(json.dumps(report, indent=1))
    else:
        for difference in differences:
            print(f"not the same machine: {difference}")
        print_text(changes, compared, options.relative_to, options.threshold)
    return 1 if any(change.ratio > 1 for change in changes) else 0


if __name__ == "__main__":
    sys.exit(main())
