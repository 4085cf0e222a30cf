"""The checks for GPUs try themselves on the CPU device, so that they are known to run before they meet a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

import arbiter  # noqa: E402

RUN = Path(__file__).resolve().parent / "gpu" / "run.py"
# The same program with a library that adds one to every sum.
BROKEN = """
import runpy, sys
sys.argv = sys.argv[1:]
import arbiter
real = arbiter.Communicator.all_reduce
arbiter.Communicator.all_reduce = lambda self, x, out=None, **more: real(self, x, out, **more).add_(1)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(tmp_path, *before, only):
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(arbiter.__file__).parents[1]),
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(20000 + (os.getpid() + 7) % 20000),
    }
    done = subprocess.run(
        [sys.executable, *before, RUN, "--device", "cpu", "--only", only, "--json", tmp_path / "out.json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    checks = json.loads((tmp_path / "out.json").read_text())["checks"]
    return done, {check["check"]: check["status"] for check in checks}


def test_they_pass(tmp_path):
    done, status = run(tmp_path, only="creation,eager,refused,engine,captured")
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(status.values()) == {"passed", "skipped"}
    assert status["eager_fused"] == status["creation_from_callbacks"] == status["engine_vllm"] == "passed"
    assert status["captured_methods"] == "skipped"


def test_a_wrong_sum_fails(tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    done, status = run(tmp_path, tmp_path / "broken.py", only="eager_plain,eager_in_place")
    assert done.returncode == 1, done.stdout + done.stderr
    assert status == {"eager_plain": "failed", "eager_in_place_and_into_given_places": "passed"}
