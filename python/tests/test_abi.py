"""The structs of the package are those of arbiter.h, and the functions are all in the library."""

import ctypes
import re
import subprocess
from pathlib import Path

import pytest

from arbiter import _abi, _library

HEADER = Path(__file__).resolve().parents[2] / "runtime" / "include" / "arbiter.h"
STRUCTS = {
    "arbiter_communicator_options": _abi.Options,
    "arbiter_callbacks": _abi.Callbacks,
    "arbiter_family": _abi.Family,
    "arbiter_tensors": _abi.Tensors,
}


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """{struct: {member: (offset, size)}} as the C compiler lays them out, with "" for the whole."""
    folder = tmp_path_factory.mktemp("layout")
    lines = ["#include <stdio.h>", f'#include "{HEADER}"', "int main(void) {"]
    for name, struct in STRUCTS.items():
        lines.append(f'  printf("{name}  0 %zu\\n", sizeof({name}));')
        for member, _ in struct._fields_:
            lines.append(
                f'  printf("{name} {member} %zu %zu\\n", offsetof({name}, {member}),'
                f" sizeof((({name}*)0)->{member}));"
            )
    (folder / "layout.c").write_text("\n".join([*lines, "}"]))
    subprocess.run(["cc", "-std=c99", "-o", folder / "layout", folder / "layout.c"], check=True)
    found = {name: {} for name in STRUCTS}
    for line in subprocess.run(
        [folder / "layout"], check=True, capture_output=True, text=True
    ).stdout.splitlines():
        name, member, offset, size = line.split(" ")
        found[name][member] = (int(offset), int(size))
    return found


@pytest.mark.parametrize("name", STRUCTS)
def test_struct_has_the_header_s_layout(name, layout):
    struct = STRUCTS[name]
    ours = {
        member: (getattr(struct, member).offset, getattr(struct, member).size)
        for member, _ in struct._fields_
    }
    ours[""] = (0, ctypes.sizeof(struct))
    assert ours == layout[name]


def test_every_function_is_declared_in_the_header_and_loads():
    text = HEADER.read_text()
    for name in _abi.FUNCTIONS:
        assert re.search(rf"\b{name}\(", text), name
    assert _library.load().arbiter_abi_version() == _abi.ABI_VERSION
    assert f"#define ARBITER_ABI_VERSION {_abi.ABI_VERSION}\n" in text


def test_statuses_have_exceptions():
    from arbiter import errors

    numbers = re.findall(
        r"ARBITER_\w+ =\s+(\d+)",
        re.search(r"enum arbiter_status \{(.*?)\}", HEADER.read_text(), re.S)[1],
    )
    assert set(map(int, numbers)) - {0, 9} == set(
        errors.BY_STATUS
    )  # 9, too small, is met by asking again
