"""Builds the wheel: Python files, libarbiter.so, and, where they were built, libarbiter-nccl.so and
the program `arbiter`.

The library is the file in ARBITER_LIBRARY, or is built by CMake from the clone around this folder
(preset `portable`, in build-portable/: everything static but the C library). Needs nothing but
Python's standard library."""

import base64
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

_HERE = Path(__file__).resolve().parent.parent
_CLONE = _HERE.parent
_PROJECT = (_HERE / "pyproject.toml").read_text(encoding="utf-8")


def _field(name):
    return re.search(rf'^{name} = "(.*)"$', _PROJECT, re.M)[1]


_VERSION = _field("version")
_STEM = f"arbiter-{_VERSION}"


def _fail(text):
    sys.exit(f"arbiter: {text}")


def _machine():
    return os.uname().machine


def _prebuilt():
    """The library that ARBITER_LIBRARY names, or None."""
    named = os.environ.get("ARBITER_LIBRARY")
    if not named:
        return None
    path = Path(named)
    path = path / "libarbiter.so" if path.is_dir() else path
    if not path.is_file():
        _fail(
            f"ARBITER_LIBRARY is '{named}', and there is no such file; set it to a libarbiter.so,"
            " or unset it to build one"
        )
    return path.resolve()


def _built():
    """Builds the library in the clone and returns its path."""
    if not (_CLONE / "CMakePresets.json").is_file():
        _fail(
            "this is not a clone of Arbiter, so there is nothing to build; set ARBITER_LIBRARY to a"
            " libarbiter.so"
        )
    for program, package in (("cmake", "cmake"), ("ninja", "ninja-build")):
        if shutil.which(program) is None:
            _fail(
                f"{program} is not installed: apt-get install {package}, or run tools/quickstart"
                " once (docs/install.md); or set ARBITER_LIBRARY to a libarbiter.so that is built"
            )
    configure = ["cmake", "--preset", "portable", *os.environ.get("CMAKE_ARGS", "").split()]
    wheels = _CLONE / "build" / "cuda-wheels"
    if wheels.is_dir() and not (_CLONE / "build-portable" / "cuda-wheels").exists():
        (_CLONE / "build-portable").mkdir(exist_ok=True)
        (_CLONE / "build-portable" / "cuda-wheels").symlink_to(wheels)
    build = [
        "cmake",
        "--build",
        "build-portable",
        "--target",
        "arbiter_shared",
        "arbiter_nccl",
        "arbiter",
    ]
    for command in (configure, build):
        if subprocess.run(command, cwd=_CLONE).returncode != 0:
            _fail(
                f"'{' '.join(command)}' failed (its message is above); docs/install.md says what is"
                " needed"
            )
    return (_CLONE / "build-portable" / "lib" / "libarbiter.so").resolve()


class _Wheel:
    def __init__(self, path):
        self._zip = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED)
        self._record = []

    def add(self, name, data, executable=False):
        entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))  # the same files make the same wheel
        entry.compress_type = zipfile.ZIP_DEFLATED
        entry.external_attr = (0o100755 if executable else 0o100644) << 16
        self._zip.writestr(entry, data)
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        self._record.append(f"{name},sha256={digest},{len(data)}\n")

    def close(self):
        name = f"{_STEM}.dist-info/RECORD"
        self._zip.writestr(
            zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), "".join(self._record) + f"{name},,\n"
        )
        self._zip.close()


def _metadata():
    extras = re.search(r"\[project.optional-dependencies\]\n((?:.+\n)*)", _PROJECT)[1]
    lines = [
        "Metadata-Version: 2.1",
        "Name: arbiter",
        f"Version: {_VERSION}",
        f"Summary: {_field('description')}",
        f"Requires-Python: {_field('requires-python')}",
        "License: Apache-2.0",
    ]
    for extra, packages in re.findall(r"^(\w+) = \[(.*)\]$", extras, re.M):
        lines.append(f"Provides-Extra: {extra}")
        lines += [
            f"Requires-Dist: {package}; extra == '{extra}'"
            for package in re.findall(r'"([^"]+)"', packages)
        ]
    lines += [
        "Description-Content-Type: text/markdown",
        "",
        (_HERE / "README.md").read_text(encoding="utf-8"),
    ]
    return "\n".join(lines).encode()


def _wheel_file(tag):
    return (
        f"Wheel-Version: 1.0\nGenerator: arbiter_build\nRoot-Is-Purelib: false\nTag: {tag}\n"
        .encode()
    )


def _write(wheel_directory, fill):
    tag = f"py3-none-linux_{_machine()}"
    name = f"{_STEM}-{tag}.whl"
    wheel = _Wheel(Path(wheel_directory) / name)
    fill(wheel)
    wheel.add(f"{_STEM}.dist-info/METADATA", _metadata())
    wheel.add(f"{_STEM}.dist-info/WHEEL", _wheel_file(tag))
    wheel.close()
    return name


def _sources():
    return sorted(
        path
        for path in (_HERE / "arbiter").rglob("*")
        if path.suffix in (".py", ".typed") or path.name == "py.typed"
    )


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    library = _prebuilt() or _built()

    def fill(wheel):
        for path in _sources():
            wheel.add(str(path.relative_to(_HERE)), path.read_bytes())
        wheel.add("arbiter/lib/libarbiter.so", library.read_bytes(), executable=True)
        nccl = library.parent / "libarbiter-nccl.so"
        if nccl.is_file():
            wheel.add("arbiter/lib/libarbiter-nccl.so", nccl.read_bytes(), executable=True)
        program = library.parent.parent / "bin" / "arbiter"
        if program.is_file():
            wheel.add(f"{_STEM}.data/scripts/arbiter", program.read_bytes(), executable=True)

    return _write(wheel_directory, fill)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    """The package as it lies in the clone; the library is found in the clone's build folders."""
    return _write(wheel_directory, lambda wheel: wheel.add("_arbiter.pth", f"{_HERE}\n".encode()))


def build_sdist(sdist_directory, config_settings=None):
    """Python files only: a wheel of it needs ARBITER_LIBRARY."""
    name = f"{_STEM}.tar.gz"
    with tarfile.open(Path(sdist_directory) / name, "w:gz", format=tarfile.PAX_FORMAT) as archive:
        files = [
            *_sources(),
            *(_HERE / "backend").glob("*.py"),
            _HERE / "pyproject.toml",
            _HERE / "README.md",
        ]
        for path in files:
            archive.add(path, f"{_STEM}/{path.relative_to(_HERE)}")
        info = tarfile.TarInfo(f"{_STEM}/PKG-INFO")
        info.size = len(_metadata())
        archive.addfile(info, io.BytesIO(_metadata()))
    return name
