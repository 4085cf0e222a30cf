"""The checks for GPUs try themselves on the CPU device, so that they are known to run before they
meet a GPU."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from processes import two_ranks  # noqa: E402

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
    """With two ranks, as processes on the CPU device."""
    command = [
        sys.executable,
        *before,
        RUN,
        "--device",
        "cpu",
        "--only",
        only,
        "--seconds",
        "1000",
        "--json",
        tmp_path / "out.json",
    ]
    code, texts = two_ranks(command, 7)
    checks = json.loads((tmp_path / "out.json").read_text())["checks"]
    return (
        code,
        "".join(texts),
        {check["check"]: check["status"] for check in checks},
    )


def test_they_pass(tmp_path):
    code, text, status = run(tmp_path, only="creation,eager,refused,engine,captured")
    assert code == 0, text
    assert set(status.values()) == {"passed", "skipped"}
    assert (
        status["eager_fused"]
        == status["creation_from_callbacks"]
        == status["engine_vllm"]
        == "passed"
    )
    assert status["backend_eager"] == "passed"
    assert status["captured_methods"] == "skipped"


def test_the_fusing_pass_passes(tmp_path):
    code, text, status = run(tmp_path, only="fusing_pass")
    assert code == 0 and set(status.values()) == {"passed"} and len(status) == 2, text


def test_a_wrong_sum_fails(tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    code, text, status = run(tmp_path, tmp_path / "broken.py", only="eager_plain,eager_in_place")
    assert code == 1, text
    assert status == {"eager_plain": "failed", "eager_in_place_and_into_given_places": "passed"}


# A check in which rank 1 never calls, one that fails on rank 0 alone while rank 1 waits in a
# kernel, and one that works.
HANGS = """
import runpy, sys, time
sys.argv = sys.argv[1:]
sys.path[:0] = [sys.argv[0].rsplit("/", 1)[0], sys.argv[0].rsplit("/", 3)[0]]
import harness, torch
harness.CHECKS.clear()

@harness.check(seconds=0.1)
def eager_hangs(ranks):
    if ranks.rank == 0:
        ranks.communicator.all_reduce(torch.ones(4, harness.HIDDEN))

@harness.check(seconds=30)
def eager_fails_on_one(ranks):
    assert ranks.rank == 1
    ranks.communicator.all_reduce(torch.ones(4, harness.HIDDEN))

@harness.check
def eager_works(ranks):
    assert (ranks.communicator.all_reduce(torch.ones(4, harness.HIDDEN)) == 2).all()

harness.FAMILIES[:] = [("allreduce", torch.float32)]
import types
for name in ("creation", "calls", "graphs", "memory", "compiled", "backend", "engines", "cost"):
    sys.modules[f"checks_{name}"] = types.ModuleType(name)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_hang_ends_its_own_check_only(tmp_path):
    (tmp_path / "hangs.py").write_text(HANGS)
    code, text, status = run(tmp_path, tmp_path / "hangs.py", only="eager")
    assert code == 1, text
    assert status == {
        "eager_hangs": "failed",
        "eager_fails_on_one": "failed",
        "eager_works": "passed",
    }, text
    assert "told to give up" in text
