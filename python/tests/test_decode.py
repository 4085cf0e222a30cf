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
    "--batches",
    "1,3",
    "--tp",
    "1",
    "--context",
    "8",
    "--steps",
    "1",
    "--rounds",
    "1",
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


def run(tmp_path, *before, more=()):
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
        [sys.executable, *before, DECODE, *ARGUMENTS, *more, "--json", tmp_path / "out.json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done, json.loads((tmp_path / "out.json").read_text())


def test_rows_agree(tmp_path):
    done, result = run(tmp_path, more=["--models", "tiny-moe"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert [(case["model"], case["batch"]) for case in result["cases"]] == [("tiny-moe", 1), ("tiny-moe", 3)]
    for case in result["cases"]:
        rows = {row["row"]: row for row in case["rows"]}
        kinds = ("allreduce", "fusion", "fusion+allreduce")
        assert set(rows) == {"nccl"} | {
            f"arbiter {backend}_{kind}" for backend in ("auto", "trtllm", "mnnvl") for kind in kinds
        }
        for row in rows.values():
            assert row["repeats"] and not row["wrong"]
            assert row["tokens_per_s"] == pytest.approx(case["batch"] * 1e6 / row["tpot_us"])
            assert row["equal_steps"] == 5 or row["parted"]["step"] == row["equal_steps"]
        assert rows["arbiter auto_allreduce"]["equal_steps"] == 5 and rows["arbiter auto_allreduce"]["gap"] == 0
    assert result["left_out"] == []


def test_a_wrong_row_is_found_out(tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    done, result = run(tmp_path, tmp_path / "broken.py", more=["--models", "tiny", "--batches", "3"])
    assert done.returncode == 1, done.stdout + done.stderr
    wrong = {row["row"] for case in result["cases"] for row in case["rows"] if row["wrong"]}
    assert wrong == {
        f"arbiter {backend}_{kind}" for backend in ("auto", "trtllm", "mnnvl") for kind in ("fusion", "fusion+allreduce")
    }


def test_where_tokens_part(monkeypatch):
    """The margin is what the reference's own logits say of the two tokens, at the first step that differs."""
    monkeypatch.syspath_prepend(str(DECODE.parent))
    import decode

    class Context:
        rank = 0

        def slowest(self, value):
            return value

    class Model:
        rows = 4

    logits = torch.tensor([[[0.0, 3.0, 1.0, 2.0]], [[5.0, 4.5, 1.0, 2.0]], [[1.0, 0.0, 9.0, 0.0]]])
    theirs = decode.Trace(torch.tensor([[1], [0], [2]]), logits, logits[0])
    ours = decode.Trace(torch.tensor([[1], [1], [2]]), torch.tensor([0.25, 0.75, 8.0]), logits[0])
    result = decode.compare(Context(), Model(), ours, theirs)
    assert result["equal_steps"] == 1 and result["parted"] == {"step": 1, "sequence": 0, "margin": 0.5}
    assert result["first_gap"] == 0.25 and result["gap"] == 0.75
    broken = decode.Trace(theirs.tokens, torch.tensor([float("nan"), 0.0, 0.0]), logits[0])
    assert decode.compare(Context(), Model(), broken, theirs)["first_gap"] == float("inf")
