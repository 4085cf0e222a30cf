"""The wheel: one for every Python from 3.9 on, whole, and the same each time it is built."""

import ast
import base64
import csv
import hashlib
import io
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import arbiter
from arbiter import _library

PACKAGE = Path(arbiter.__file__).resolve().parent
BACKEND = PACKAGE.parent / "backend"
OLDEST = (3, 9)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    if not BACKEND.is_dir():
        pytest.skip("the package is installed, and its backend is not here")
    folder = tmp_path_factory.mktemp("wheel")
    code = (
        f"import sys; sys.path.insert(0, {str(BACKEND)!r}); import arbiter_build;"
        " print(arbiter_build.build_wheel(sys.argv[1]))"
    )
    environment = {**os.environ, "ARBITER_LIBRARY": _library.load()._name}
    names = []
    for turn in ("one", "two"):
        (folder / turn).mkdir()
        done = subprocess.run(
            [sys.executable, "-c", code, folder / turn],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        names.append(folder / turn / done.stdout.strip())
    assert names[0].read_bytes() == names[1].read_bytes()
    return names[0]


def test_tag(wheel):
    tag = f"py3-none-linux_{os.uname().machine}"  # no Python's or PyTorch's ABI, but a machine's
    assert wheel.name == f"arbiter-{arbiter.__version__}-{tag}.whl"
    with zipfile.ZipFile(wheel) as archive:
        stem = f"arbiter-{arbiter.__version__}.dist-info"
        described = archive.read(f"{stem}/WHEEL").decode()
        assert f"Tag: {tag}\n" in described and "Root-Is-Purelib: false\n" in described
        assert "Requires-Python: >=3.9\n" in archive.read(f"{stem}/METADATA").decode()


def test_everything_is_in_it_and_on_record(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        record = next(name for name in names if name.endswith("/RECORD"))
        rows = list(csv.reader(io.StringIO(archive.read(record).decode())))
        assert {row[0] for row in rows} == names
        for name, digest, size in rows:
            if name == record:
                continue
            data = archive.read(name)
            kind, value = digest.split("=", 1)
            assert kind == "sha256" and int(size) == len(data)
            assert (
                base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
                == value
            )
        sources = {f"arbiter/{path.relative_to(PACKAGE)}" for path in PACKAGE.rglob("*.py")}
        assert names >= sources | {"arbiter/py.typed", "arbiter/lib/libarbiter.so"}
        assert archive.getinfo("arbiter/lib/libarbiter.so").external_attr >> 16 & 0o111


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_the_oldest_python_can_read_it(path):
    text = path.read_text(encoding="utf-8")
    ast.parse(text, feature_version=OLDEST)
    assert max(len(line) for line in text.splitlines()) <= 100


def test_it_works_with_the_oldest_and_the_newest_python(wheel, tmp_path):
    """Of those that are installed here."""
    others = [
        found for minor in (9, 13, 14) for found in [shutil.which(f"python3.{minor}")] if found
    ]
    if not others:
        pytest.skip("no Python 3.9, 3.13 or 3.14 here")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = (
        "import arbiter, arbiter.database, arbiter._dlpack; print(arbiter.library_version());"
        "print(arbiter.Communicator.in_process(1).run(lambda c: c.size))"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    environment.pop("ARBITER_LIBRARY", None)
    for python in others:
        done = subprocess.run(
            [python, "-W", "ignore", "-c", code], env=environment, capture_output=True, text=True
        )
        if "pyenv" in done.stderr:  # a shim of pyenv without the version behind it
            continue
        assert done.returncode == 0 and done.stdout.split("\n")[1] == "[1]", done.stderr


def test_types_hold():
    pytest.importorskip("mypy")
    options = [
        "--ignore-missing-imports",
        "--follow-imports=silent",
        "--disallow-untyped-defs",
        "--check-untyped-defs",
    ]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            *options,
            "--cache-dir",
            os.devnull,
            "--no-incremental",
            "-p",
            "arbiter",
        ],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
