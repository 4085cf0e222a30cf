"""bench/sm_curve.py: every bound is asked for, and what counts is the fastest of Arbiter's own under it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Twice as long on a quarter of the GPU; NCCL and auto (which may be NCCL) do not care.
ARBITER = """#!{python}
import json, os, sys
sms = int(os.environ["ARBITER_MAX_SMS"])
if sms == 13:
    sys.exit("arbiter: no GPU is left")
times = 20.0 if sms == 4 else 10.0
problem = dict(mode="graph", world=2, dtype="bf16", pattern="allreduce", hidden=8192, tokens=64, bytes=1 << 20)
rows = [dict(**problem, results={{
    "auto": dict(median_us=5.0, chosen="nccl/classic"),
    "nccl": dict(median_us=40.0, chosen="nccl/classic"),
    "nccl_symmetric": dict(median_us=30.0, chosen="nccl/symmetric"),
    "trtllm/oneshot_push": dict(median_us=times, chosen="trtllm/oneshot_push:threads=128"),
    "mnnvl/twoshot_push": dict(median_us=times + 1, chosen="mnnvl/twoshot_push:threads=128"),
    "mnnvl/multimem": dict(unavailable="opt-in")}})]
print(json.dumps(dict(schema=1, environment=dict(gpu_name="GPU", arguments=sys.argv[1:]), rows=rows)))
"""


@pytest.fixture
def arbiter(tmp_path):
    program = tmp_path / "arbiter"
    program.write_text(ARBITER.format(python=sys.executable))
    program.chmod(0o755)
    return program


def run(*arguments):
    return subprocess.run([sys.executable, ROOT / "bench/sm_curve.py", *map(str, arguments)], capture_output=True,
                          text=True, check=False)


def test_a_curve(arbiter, tmp_path):
    done = run("--arbiter", arbiter, "--sms", "8,4", "--json", tmp_path / "curve.json", "--", "--world", "2", "--tokens",
               "64")
    assert done.returncode == 0, done.stderr
    outcome = json.loads((tmp_path / "curve.json").read_text())
    assert outcome["environment"]["arguments"] == ["bench", "--json", "--world", "2", "--tokens", "64"]
    (problem,) = outcome["problems"]
    assert [(point["sms"], point["us"], point["nccl_us"], point["times_whole"]) for point in problem["points"]] == [
        (0, 10.0, 30.0, 1.0),
        (4, 20.0, 30.0, 2.0),
        (8, 10.0, 30.0, 1.0),
    ]
    assert problem["points"][1]["candidate"] == "trtllm/oneshot_push:threads=128"
    lines = done.stdout.splitlines()
    assert lines[0] == "allreduce bf16, 2 ranks, 64 tokens (1024 KiB), graph"
    assert lines[2].split()[:5] == ["4", "SMs", "20.00", "us", "2.00x"]


def test_what_fails_is_said(arbiter):
    done = run("--arbiter", arbiter, "--sms", "13")
    assert done.returncode == 1
    assert "ARBITER_MAX_SMS=13" in done.stderr and "no GPU is left" in done.stderr


@pytest.mark.parametrize("sms", ["0", "-1", "many", ""])
def test_bounds_that_are_none(arbiter, sms):
    done = run("--arbiter", arbiter, f"--sms={sms}")
    assert done.returncode == 2
    assert "--sms" in done.stderr
