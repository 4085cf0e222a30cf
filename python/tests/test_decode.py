"""bench/decode.py's own logic, with one rank on the CPU device: rows agree, and one that is wrong is found out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

DECODE = Path(__file__).resolve().parents[2] / "bench" / "decode.py"
ARGUMENTS = [
    "--device",
    "cpu",
    "--models",
    "tiny,tiny-moe",
    "--batches",
    "1,3",
    "--context",
    "8",
    "--steps",
    "2",
    "--rounds",
    "2",
    "--check-steps",
    "5",
]
# Arbiter's row, broken: it forgets to add the residual.
BROKEN = """
import runpy, sys
sys.argv = sys.argv[1:]
import arbiter
real = arbiter.Communicator.all_reduce_fused
def broken(self, x, **arguments):
    arguments["residual"].zero_()
    return real(self, x, **arguments)
arbiter.Communicator.all_reduce_fused = broken
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(tmp_path, *before):
    import arbiter

    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(arbiter.__file__).parents[1]),
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(20000 + os.getpid() % 20000),
    }
    done = subprocess.run(
        [sys.executable, *before, DECODE, *ARGUMENTS, "--json", tmp_path / "out.json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done, json.loads((tmp_path / "out.json").read_text())


def test_rows_agree(tmp_path):
    done, result = run(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(result["cases"]) == 4
    for case in result["cases"]:
        rows = {row["row"]: row for row in case["rows"]}
        assert set(rows) == {"nccl", "arbiter-plain", "arbiter-auto", "arbiter-trtllm", "arbiter-mnnvl"}
        for row in rows.values():
            assert row["repeats"] and not row["wrong"] and row["us_per_token"] > 0
        assert rows["arbiter-plain"]["equal_steps"] == 5 and rows["arbiter-plain"]["gap"] == 0


def test_a_wrong_row_is_found_out(tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    done, result = run(tmp_path, tmp_path / "broken.py")
    assert done.returncode == 1, done.stdout + done.stderr
    wrong = {row["row"] for case in result["cases"] for row in case["rows"] if row["wrong"]}
    assert wrong == {"arbiter-auto", "arbiter-trtllm", "arbiter-mnnvl"}
