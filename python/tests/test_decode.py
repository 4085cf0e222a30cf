"""bench/decode.py's own logic, with one rank on the CPU device: rows agree, and one that is wrong
is found out."""

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
    done, result = run(tmp_path, more=["--models", "tiny-moe", "--rows", "auto,mnnvl_fusion"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert [(case["model"], case["batch"]) for case in result["cases"]] == [
        ("tiny-moe", 1),
        ("tiny-moe", 3),
    ]
    for case in result["cases"]:
        rows = {row["row"]: row for row in case["rows"]}
        kinds = ("allreduce", "fusion", "fusion+allreduce")
        assert set(rows) == {"nccl", "arbiter mnnvl_fusion"} | {
            f"arbiter auto_{kind}" for kind in kinds
        }
        for row in rows.values():
            assert row["repeats"] and not row["wrong"]
            assert row["tokens_per_s"] == pytest.approx(case["batch"] * 1e6 / row["tpot_us"])
            assert row["equal_steps"] == 5 or row["parted"]["step"] == row["equal_steps"]
        assert (
            rows["arbiter auto_allreduce"]["equal_steps"] == 5
            and rows["arbiter auto_allreduce"]["gap"] == 0
        )
    assert result["left_out"] == []


def test_a_wrong_row_is_found_out(tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    done, result = run(
        tmp_path,
        tmp_path / "broken.py",
        more=["--models", "tiny", "--batches", "3", "--rows", "trtllm"],
    )
    assert done.returncode == 1, done.stdout + done.stderr
    wrong = {row["row"] for case in result["cases"] for row in case["rows"] if row["wrong"]}
    assert wrong == {"arbiter trtllm_fusion", "arbiter trtllm_fusion+allreduce"}


def test_where_tokens_part(monkeypatch):
    """The margin is what the reference's own logits say of the two tokens, at the first step that
    differs."""
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
    assert result["equal_steps"] == 1 and result["parted"] == {
        "step": 1,
        "sequence": 0,
        "margin": 0.5,
    }
    assert result["first_gap"] == 0.25 and result["gap"] == 0.75
    broken = decode.Trace(theirs.tokens, torch.tensor([float("nan"), 0.0, 0.0]), logits[0])
    assert decode.compare(Context(), Model(), broken, theirs)["first_gap"] == float("inf")


EXPERTS = """
import sys, torch
from transformer import experts
x, up, down = torch.randn(3, 128), torch.randn(8, 128, 2 * 64) / 11, torch.randn(8, 64, 128) / 8
tokens = torch.tensor([5, 900, 151000])
chosen = experts.choose(tokens, 3, torch.tensor([2, 7]), 8)
assert chosen.shape == (3, 2) and all(len(set(row)) == 2 for row in chosen.tolist())
assert torch.equal(chosen, experts.choose(tokens, 3, torch.tensor([2, 7]), 8))
layers = {tuple(experts.choose(tokens, layer, torch.tensor([2, 7]), 8).flatten().tolist()) for layer in range(20)}
assert len(layers) > 5  # layers choose differently
scores = torch.rand(3, 2)
expected = torch.stack([sum(
    scores[token, slot] * (torch.nn.functional.silu((x[token] @ up[expert])[:64]) * (x[token] @ up[expert])[64:]) @ down[expert]
    for slot, expert in enumerate(chosen[token])) for token in range(3)])
torch.testing.assert_close(experts.copied(x, up, down, chosen, scores), expected, rtol=1e-4, atol=1e-4)
if experts.triton is None:
    sys.exit(3)
torch.testing.assert_close(experts.by_kernels(x, up, down, chosen, scores), expected, rtol=1e-4, atol=1e-4)
assert experts.kernels_work(x, up, down, 2) == (True, None)
"""


def test_experts_are_multiplied_right():
    """The Triton kernels too, in Triton's interpreter."""
    environment = {**os.environ, "PYTHONPATH": str(DECODE.parent), "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", EXPERTS],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    if done.returncode == 3:
        pytest.skip("no Triton")
    assert done.returncode == 0, done.stderr
