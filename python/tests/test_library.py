"""Finding libarbiter.so, and what is said when it is not there. In processes of their own: it is
loaded once."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(library, code="import arbiter; arbiter.library_version()"):
    import arbiter

    environment = {
        **os.environ,
        "ARBITER_LIBRARY": str(library),
        "PYTHONPATH": str(Path(arbiter.__file__).parents[1]),
    }
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )


def test_a_missing_library_is_named():
    done = run("/nowhere/libarbiter.so")
    assert done.returncode != 0
    assert (
        "Unavailable: libarbiter.so was not found" in done.stderr
        and "/nowhere/libarbiter.so" in done.stderr
    )


def test_another_library_is_refused(tmp_path):
    (tmp_path / "other.c").write_text("int other(void) { return 1; }")
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", tmp_path / "other.so", tmp_path / "other.c"], check=True
    )
    assert "is not Arbiter's library" in run(tmp_path / "other.so").stderr


@pytest.mark.parametrize(
    "abi, message",
    [(2, "has ABI version 2; this package needs 1"), (1, "is older than this package")],
)
def test_a_library_of_another_release_is_refused(tmp_path, abi, message):
    (tmp_path / "old.c").write_text(f"unsigned arbiter_abi_version(void) {{ return {abi}; }}")
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-o", tmp_path / "libarbiter.so", tmp_path / "old.c"], check=True
    )
    assert message in run(tmp_path).stderr  # a folder will do


def test_importing_needs_neither_library_nor_torch_nor_numpy():
    code = "import sys, arbiter; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    assert run("/nowhere", code).returncode == 0
