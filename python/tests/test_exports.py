"""What `arbiter export` writes for engines that have tables of their own, read where they read
them: stand-ins of vLLM's and SGLang's look-ups."""

import ast
import os
import subprocess
import types
from pathlib import Path
from typing import NamedTuple

import pytest

from arbiter.database import Database

LINES = Path(__file__).resolve().parents[2] / "tests/fuzz/corpus/jsonl/h200-2-ranks.jsonl"
CAPABILITY, RANKS, MIB = 90, 2, 1 << 20


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """A format to its text."""
    library = os.environ.get("ARBITER_LIBRARY", "")
    program = Path(library).resolve().parents[1] / "bin" / "arbiter"
    if not library or not program.is_file():
        pytest.skip("the program is not beside the library")
    database = tmp_path_factory.mktemp("export") / "h200.db"

    def run(*words):
        done = subprocess.run([program, *words], stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout

    run("import", "--db", database, LINES)
    return lambda name: run("export", "--db", database, "--format", name)


@pytest.fixture(scope="module")
def largest():
    """Bytes of the largest message that is decided, by pattern: all of these are one-shot's."""
    found = {}
    for decision in Database(LINES).decisions(world=RANKS, mode="graph"):
        assert "oneshot" in decision.candidate
        size = decision.tokens_max * decision.hidden * 2
        found[decision.pattern] = max(found.get(decision.pattern, 0), size)
    return found


def test_vllm(export, largest):
    """Its module has two dictionaries, which a patch sets; passes look up the capability and the
    ranks, in MiB."""
    module = types.ModuleType("allreduce_rms_fusion")
    module.FI_ALLREDUCE_FUSION_MAX_SIZE_MB = {CAPABILITY: {RANKS: 0.5}}
    module._FI_ALLREDUCE_ONE_SHOT_MAX_SIZES_MB = {CAPABILITY: {RANKS: 0.5}}
    exec(compile(export("vllm"), "vllm.py", "exec"), module.__dict__)

    def fuses(size):
        return size <= module.FI_ALLREDUCE_FUSION_MAX_SIZE_MB[CAPABILITY][RANKS] * MIB

    def one_shot(size):
        most = module._FI_ALLREDUCE_ONE_SHOT_MAX_SIZES_MB.get(CAPABILITY, {}).get(RANKS)
        return most is None or size <= most * MIB

    most = largest["allreduce_residual_rmsnorm"]
    assert fuses(most) and one_shot(most) and not fuses(most + 16) and not one_shot(most + 16)
    assert 100 not in module.FI_ALLREDUCE_FUSION_MAX_SIZE_MB


class Heuristic(NamedTuple):
    one_shot_push_threshold: int = 0
    one_shot_pull_threshold: int = 0
    two_shot_pull_threshold: int = 0


def test_sglang(export, largest):
    """Its custom allreduce has three thresholds for captured and for other calls, in bytes."""
    table = ast.literal_eval(export("sglang"))
    heuristic = Heuristic()._replace(**table[CAPABILITY][RANKS]["graph"])

    def algorithm(size):
        for name, threshold in heuristic._asdict().items():
            if size <= threshold:
                return name
        return None

    most = largest["allreduce"]
    assert algorithm(16) == algorithm(most) == "one_shot_push_threshold"
    assert algorithm(most + 16) is None
