"""What docs/python.md and docs/engines.md show is there, and the program runs."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from snippets import snippet

import arbiter

DOCS = Path(__file__).resolve().parents[2] / "docs"
PROGRAMS = [
    (page, name)
    for page in ("python.md", "engines.md")
    for name in re.findall(r"^```python\n# (.+)$", (DOCS / page).read_text(encoding="utf-8"), re.M)
]


def test_the_program_for_the_cpu_device_runs(tmp_path):
    (tmp_path / "program.py").write_text(snippet(DOCS / "python.md", "cpu"))
    environment = {**os.environ, "PYTHONPATH": str(Path(arbiter.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, tmp_path / "program.py"], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "rank 0 of 2: 3.0\nrank 1 of 2: 3.0\n", done.stderr


@pytest.mark.parametrize("page, name", PROGRAMS)
def test_programs_are_python(page, name):
    compile(snippet(DOCS / page, name), name, "exec")


def test_there_are_programs_to_look_at():
    assert len(PROGRAMS) >= 8


def test_the_torchrun_program_is_fifteen_lines():
    lines = [
        line for line in snippet(DOCS / "python.md", "torchrun").splitlines()[1:] if line.strip()
    ]
    assert len(lines) <= 15


def test_every_method_that_is_named_exists():
    text = (DOCS / "python.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\bcomm\.(\w+)\(", text)) | set(
        re.findall(r"`Communicator\.(\w+)\(", text)
    )
    assert named >= {
        "prepare",
        "all_reduce",
        "all_reduce_fused",
        "check",
        "explain",
        "from_torch",
        "in_process",
    }
    for name in named:
        assert callable(getattr(arbiter.Communicator, name)), name


def test_every_exception_is_named():
    text = (DOCS / "python.md").read_text(encoding="utf-8")
    for name, value in vars(arbiter).items():
        if inspect.isclass(value) and issubclass(value, arbiter.ArbiterError):
            assert f"`{name}`" in text, name
