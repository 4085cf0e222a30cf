"""bench/compare.py: only what changed beyond noise, and what it refuses."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def result(median, spread=0.01, chosen="trtllm/oneshot_push"):
    return {
        "median_us": median,
        "ci_low_us": median * (1 - spread),
        "ci_high_us": median * (1 + spread),
        "chosen": chosen,
    }


def row(tokens, **results):
    key = {
        "mode": "graph",
        "world": 2,
        "dtype": "bf16",
        "pattern": "allreduce",
        "hidden": 8192,
        "tokens": tokens,
    }
    return {**key, "results": results}


BEFORE = {
    "schema": 1,
    "environment": {"gpu_name": "GPU", "driver_version": "1", "nccl_variables": {}},
    "rows": [
        row(1, auto=result(2.0), nccl=result(8.0, chosen="nccl/classic")),
        row(2, auto=result(4.0, spread=0.2), nccl=result(8.0, chosen="nccl/classic")),
    ],
}


def changed(tokens, name, median, chosen=None):
    after = copy.deepcopy(BEFORE)
    for one in after["rows"]:
        if one["tokens"] == tokens:
            one["results"][name].update(result(median))
            if chosen:
                one["results"][name]["chosen"] = chosen
    return after


def compare(folder, before, after, *options):
    paths = []
    for name, content in (("before.json", before), ("after.json", after)):
        paths.append(folder / name)
        paths[-1].write_text(
            content if isinstance(content, str) else json.dumps(content), encoding="utf-8"
        )
    command = [sys.executable, ROOT / "bench" / "compare.py", *paths, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_is_slower_is_found_and_fails(tmp_path):
    done = compare(tmp_path, BEFORE, changed(1, "auto", 2.2, "mnnvl/twoshot_push"), "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert report["compared"] == 4 and report["machine"] == []
    (change,) = report["changes"]
    assert change["name"] == "auto" and change["ratio"] == pytest.approx(1.1)
    assert change["chosen_after"] == "mnnvl/twoshot_push"


def test_what_is_faster_passes(tmp_path):
    done = compare(tmp_path, BEFORE, changed(1, "auto", 1.8))
    assert done.returncode == 0
    assert "2 -> 1.8 us, 10.0% faster" in done.stdout
    assert "0 slower, 1 faster" in done.stdout


def test_noise_is_no_change(tmp_path):
    # 10% more, but inside the interval that was measured before.
    assert compare(tmp_path, BEFORE, changed(2, "auto", 4.4)).returncode == 0
    # Outside, but less than is asked for.
    assert compare(tmp_path, BEFORE, changed(1, "auto", 2.2), "--threshold", "0.2").returncode == 0


def test_ratios_to_a_column_of_the_same_file(tmp_path):
    after = changed(1, "auto", 4.0)
    after["rows"][0]["results"]["nccl"] = result(16.0)
    after["environment"]["gpu_name"] = "another GPU"
    done = compare(tmp_path, BEFORE, after, "--relative-to", "nccl", "--only", "auto")
    assert done.returncode == 0
    assert "not the same machine: gpu_name" in done.stdout
    assert compare(tmp_path, BEFORE, after).returncode == 1


@pytest.mark.parametrize("content", ["{", "[]", '{"rows": 1}', '{"rows": []}'])
def test_what_is_no_result_is_refused(tmp_path, content):
    done = compare(tmp_path, BEFORE, content)
    assert done.returncode == 2
    assert done.stderr.startswith("compare.py: ")


def test_results_that_are_recorded_can_be_compared(tmp_path):
    recorded = (ROOT / "bench" / "results" / "2026-11-27-bench-2xh200.json").read_text(
        encoding="utf-8"
    )
    done = compare(tmp_path, recorded, recorded)
    assert done.returncode == 0
    assert " 0 slower, 0 faster" in done.stdout
