"""bench/generate.py: a model of transformers through the backend, with two processes on the CPU device."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from processes import two_ranks  # noqa: E402

GENERATE = Path(__file__).resolve().parents[2] / "bench" / "generate.py"


def run(path, *more):
    command = [sys.executable, GENERATE, "--device", "cpu", "--hidden", "512", "--layers", "1"]
    command += ["--tokens", "3", "--json", path, *more]
    code, texts = two_ranks(command, 27)
    return code, texts[0]


def test_the_same_tokens_and_arbiter_s_sums(tmp_path):
    usual, ours = tmp_path / "usual.json", tmp_path / "ours.json"
    code, text = run(usual, "--backend", "usual")
    assert code == 0, text
    code, text = run(ours, "--against", usual)
    assert code == 0, text
    result = json.loads(ours.read_text())["result"]
    assert result["equal_tokens"] == 3 and result["served"] > 0
    assert json.loads(usual.read_text())["result"]["served"] == 0
    # Other tokens are noticed.
    changed = json.loads(usual.read_text())
    changed["result"]["tokens"][1] += 1
    usual.write_text(json.dumps(changed))
    code, text = run(ours, "--against", usual)
    assert code == 1 and "equal tokens: 1 of 3" in text, text
