"""Shapes of results are those that the library asks for."""

import ctypes

import pytest

from arbiter import InvalidArgument, _library, _patterns

QUANTISED = [
    "fp8_static",
    "fp8_token",
    "fp8_group32_ue8m0",
    "fp8_group128_ue8m0",
    "fp8_group64_fp32",
    "nvfp4_linear",
    "nvfp4_128x4",
    "nvfp4_8x4",
]
WIDTHS = {"fp32": 4, "int32": 4, "e4m3": 1}


@pytest.mark.parametrize("quantisation", QUANTISED)
@pytest.mark.parametrize("hidden", [128, 1152, 4096])
@pytest.mark.parametrize("tokens", [1, 4, 7, 8, 129])
def test_bytes_of_results(quantisation, hidden, tokens):
    name = f"allreduce_residual_rmsnorm_{quantisation}"
    pattern = _patterns.parse(name)
    size = ctypes.c_size_t()
    library = _library.load()
    assert library.arbiter_quant_out_bytes(name.encode(), hidden, tokens, ctypes.byref(size)) == 0
    rows, columns = pattern.quant_shape(tokens, hidden)
    assert rows * columns == size.value
    assert library.arbiter_scale_out_bytes(name.encode(), hidden, tokens, ctypes.byref(size)) == 0
    if "scale_out" not in pattern.writes:
        assert size.value == 0
        return
    kind, shape = pattern.scale_shape(tokens, hidden)
    elements = 1
    for extent in shape:
        elements *= extent
    assert elements * WIDTHS[kind] == size.value


def test_what_is_written():
    assert _patterns.parse("allreduce").writes == {"output": True}
    assert _patterns.parse("allreduce_residual").writes == {"residual_out": True}
    assert _patterns.parse("allreduce_rmsnorm").writes == {"output": False, "norm_out": True}
    assert _patterns.parse("moe_reduce_allreduce_residual_rmsnorm_fp8_token").writes == {
        "residual_out": False,
        "norm_out": False,
        "quant_out": True,
        "scale_out": True,
    }


@pytest.mark.parametrize(
    "name",
    ["", "all_reduce", "allreduce_fp8", "allreduce_rmsnorm_residual", "allreduce_fp8_group0_fp32"],
)
def test_what_is_no_pattern(name):
    with pytest.raises(InvalidArgument, match="is not a pattern"):
        _patterns.parse(name)
