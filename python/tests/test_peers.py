"""bench/peers.py with two processes on the CPU device: what it measures, and that a wrong sum is
not timed."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from processes import two_ranks  # noqa: E402

PEERS = Path(__file__).resolve().parents[2] / "bench" / "peers.py"
# Arbiter's allreduce, off by one on one rank.
BROKEN = """
import runpy, sys
sys.argv = sys.argv[1:]
import arbiter
real = arbiter.Communicator.all_reduce
def broken(self, x, out=None, **more):
    return real(self, x, out, **more).add_(self.rank)
arbiter.Communicator.all_reduce = broken
runpy.run_path(sys.argv[0], run_name="__main__")
"""
SIZES = {"1024", "4096"}


def run(tmp_path, *before, more=()):
    command = [
        sys.executable,
        *before,
        PEERS,
        "--device",
        "cpu",
        "--sizes",
        "1K,4K",
        "--hidden",
        "512",
    ]
    command += ["--rounds", "1", "--replays", "1", "--json", tmp_path / "out.json", *more]
    code, texts = two_ranks(command, 17)
    assert (tmp_path / "out.json").exists(), "".join(texts)
    return code, texts[0], json.loads((tmp_path / "out.json").read_text())


def test_peers_are_right_and_timed(tmp_path):
    code, text, result = run(tmp_path, more=["--label", "gloo"])
    assert code == 0, text
    assert [case["pattern"] for case in result["cases"]] == [
        "allreduce",
        "allreduce_residual_rmsnorm",
    ]
    for case in result["cases"]:
        for name in ("gloo", "arbiter auto", "arbiter trtllm", "arbiter mnnvl", "arbiter custom"):
            row = case["peers"][name]
            assert (
                set(row["us"]) == SIZES
                and all(us > 0 for us in row["us"].values())
                and not row["why_not"]
            )
        assert set(case["peers"]["arbiter auto"]["candidate"]) == SIZES
        assert "--allow-multicast" in case["peers"]["flashinfer auto"]["unavailable"]
        assert (
            "nccl" not in case["peers"]
            and "needs GPUs" in case["peers"]["torch one_shot"]["unavailable"]
        )
    assert result["multicast"] is False and "gloo" in text


def test_behind_a_producer(tmp_path):
    more = ["--only", "nccl,arbiter auto", "--producer", "64", "--apart", "5"]
    code, text, result = run(tmp_path, more=more)
    assert code == 0, text
    assert result["producer"] == 64 and result["apart_us"] == 5
    assert "behind a product over 64, ranks 5 us apart" in text
    for case in result["cases"]:
        for name in ("nccl", "arbiter auto"):
            row = case["peers"][name]
            assert set(row["us"]) == SIZES and not row["why_not"], row


def test_behind_a_producer_a_wrong_sum_is_found_too(tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    more = ["--patterns", "allreduce", "--only", "arbiter auto", "--producer", "64"]
    code, text, result = run(tmp_path, tmp_path / "broken.py", more=more)
    assert code == 1, text
    why = result["cases"][0]["peers"]["arbiter auto"]["why_not"]
    assert why == dict.fromkeys(SIZES, "wrong: off by 1")


def test_a_wrong_sum_is_not_timed(tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    more = ["--patterns", "allreduce", "--only", "nccl,arbiter auto"]
    code, text, result = run(tmp_path, tmp_path / "broken.py", more=more)
    assert code == 1, text
    row = result["cases"][0]["peers"]["arbiter auto"]
    assert row["us"] == {} and row["why_not"] == dict.fromkeys(SIZES, "wrong: off by 1")
    assert set(result["cases"][0]["peers"]["nccl"]["us"]) == SIZES
