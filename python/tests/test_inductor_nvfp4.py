"""NVFP4 quantisation behind an allreduce in a compiled module: the engines' operators, here as
stand-ins that compute what theirs do, and what is left of them."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch._inductor.custom_graph_pass")

from graphs import rewritten, torch_norm, values  # noqa: E402

import arbiter.torch as ops  # noqa: E402
from arbiter import Communicator, Family  # noqa: E402
from arbiter.inductor import Fusion  # noqa: E402

HIDDEN, NORM = 96, "allreduce_residual_rmsnorm"  # 6 columns of scales, padded to 8
E4M3 = torch.float8_e4m3fn
MAGNITUDES = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def e2m1(x):
    """Codes of the nearest values, ties to the even code."""
    middles = (MAGNITUDES[1:] + MAGNITUDES[:-1]) / 2
    size = x.abs().unsqueeze(-1)
    code = (size > middles).sum(-1)
    tie = (size == middles).any(-1)
    code = torch.where(tie & (code % 2 == 1), code + 1, code)
    return torch.where(x.signbit(), code + 8, code).to(torch.uint8)


def nvfp4(x, scale):
    """([rows, H / 2] pairs, [rows, H / 16] scales)."""
    groups = x.float().reshape(x.shape[0], -1, 16)
    scales = (scale * (groups.abs().amax(-1) / 6)).clamp(max=448.0).to(E4M3)
    wide = scales.float().unsqueeze(-1)
    codes = e2m1(groups * torch.where(wide == 0, 0.0, scale / wide)).reshape(x.shape)
    return codes[:, ::2] | codes[:, 1::2] << 4, scales


def in_tiles(scales):
    rows, columns = scales.shape
    high, wide = -(-rows // 128) * 128, -(-columns // 4) * 4
    padded = torch.zeros(high, wide, dtype=torch.uint8)
    padded[:rows, :columns] = scales.view(torch.uint8)
    tiles = padded.reshape(high // 128, 4, 32, wide // 4, 4).permute(0, 3, 2, 1, 4)
    return tiles.reshape(high, wide)


def stand_in(namespace, schema, run, fake):
    library = torch.library.Library(namespace, "FRAGMENT")
    name = schema.split("(", 1)[0]
    library.define(schema)
    library.impl(name, run, "CPU")
    torch.library.register_fake(f"{namespace}::{name}", fake, lib=library)
    return library


def places(x, swizzled, dtype):
    rows, columns = x.shape[0], x.shape[1] // 16
    if not swizzled:
        return x.new_empty(rows, columns, dtype=torch.uint8)
    wide = (columns + 3) // 4 * 4 // dtype.itemsize
    return x.new_empty((rows + 127) // 128 * 128, wide, dtype=dtype)


def computed(x, scale, swizzled, like):
    pairs, scales = nvfp4(x, scale)
    packed = in_tiles(scales) if swizzled else scales.view(torch.uint8)
    return pairs, packed.view(like.dtype).reshape(like.shape)


def functional(x, scale, swizzled):
    return computed(x, scale, swizzled, places(x, swizzled, torch.int32))


def functional_fake(x, scale, swizzled):
    return x.new_empty(x.shape[0], x.shape[1] // 2, dtype=torch.uint8), places(
        x, swizzled, torch.int32
    )


def into(quant, x, scales, scale, swizzled=True):
    pairs, packed = computed(x, scale, swizzled, scales)
    quant.copy_(pairs)
    scales.copy_(packed)


def into_out(x, scale, swizzled, *, output, output_scale):
    into(output, x, output_scale, scale, swizzled)


def flat(x, scale, group, ue8m0=False, swizzled=True):
    assert group == 16 and not ue8m0
    pairs, packed = computed(x, scale, swizzled, places(x, swizzled, torch.uint8))
    return pairs, packed.reshape(-1)


def flat_fake(x, scale, group, ue8m0=False, swizzled=True):
    quant = x.new_empty(x.shape[0], x.shape[1] // 2, dtype=torch.uint8)
    return quant, x.new_empty(places(x, swizzled, torch.uint8).numel(), dtype=torch.uint8)


def nothing(*_, **__):
    return None


LIBRARIES = [
    stand_in(
        "_C",
        "scaled_fp4_quant(Tensor input, Tensor input_scale, bool is_sf_swizzled_layout)"
        " -> (Tensor, Tensor)",
        functional,
        functional_fake,
    ),
    stand_in(
        "_C",
        "scaled_fp4_quant.out(Tensor input, Tensor input_scale, bool is_sf_swizzled_layout, *,"
        " Tensor(a!) output, Tensor(b!) output_scale) -> ()",
        into_out,
        nothing,
    ),
    stand_in(
        "sgl_kernel",
        "scaled_fp4_quant(Tensor(a!) output, Tensor(b!) input, Tensor(c!) output_scale,"
        " Tensor(d!) input_scale) -> ()",
        into,
        nothing,
    ),
    stand_in(
        "trtllm",
        "fp4_quantize(Tensor input, Tensor? globalScale, int sfVecSize, bool sfUseUE8M0=False,"
        " bool isSfSwizzledLayout=True) -> (Tensor, Tensor)",
        flat,
        flat_fake,
    ),
]


def vllm(x, scale, swizzled=True):
    quant, scales = torch.ops._C.scaled_fp4_quant(x.reshape(-1, x.shape[-1]), scale, swizzled)
    return quant, scales.view(E4M3)


def vllm_rows(x, scale):
    return vllm(x, scale, False)


def vllm_out(x, scale):
    quant = x.new_empty(x.shape[0], x.shape[1] // 2, dtype=torch.uint8)
    scales = places(x, True, torch.int32)
    torch.ops._C.scaled_fp4_quant.out(x, scale, True, output=quant, output_scale=scales)
    return quant, scales.view(E4M3)


def sglang(x, scale):
    quant = x.new_empty(x.shape[0], x.shape[1] // 2, dtype=torch.uint8)
    scales = places(x, True, torch.int32)
    torch.ops.sgl_kernel.scaled_fp4_quant(quant, x, scales, scale)
    return quant, scales.view(E4M3)


def tensorrt_llm(x, scale):
    return torch.ops.trtllm.fp4_quantize(x, scale, 16)


def tensorrt_llm_rows(x, scale):
    return torch.ops.trtllm.fp4_quantize(x, scale, 16, False, False)


HOW = [vllm, vllm_rows, vllm_out, sglang, tensorrt_llm, tensorrt_llm_rows]
QUANTISES = {
    torch.ops._C.scaled_fp4_quant.default,
    torch.ops._C.scaled_fp4_quant.out,
    torch.ops.sgl_kernel.scaled_fp4_quant.default,
    torch.ops.trtllm.fp4_quantize.default,
    torch.ops.higher_order.auto_functionalized,
    torch.ops.higher_order.auto_functionalized_v2,
}


@pytest.fixture(scope="module")
def single():
    """One rank: the sum is its own input."""
    kinds = ("", "_nvfp4_128x4", "_nvfp4_linear")
    with Communicator.in_process(1) as (communicator,), torch.no_grad():
        patterns = ["allreduce", *[NORM + kind for kind in kinds]]
        communicator.prepare(*[Family(name, torch.bfloat16, HIDDEN, 160) for name in patterns])
        yield communicator


@pytest.fixture(params=[True, False], ids=["v2", "v1"])
def wrapped(request):
    """PyTorch's two ways to write a call that writes into what it is given."""
    with torch._inductor.config.patch(enable_auto_functionalized_v2=request.param):
        yield


def tensors(rows):
    return [
        values(1, rows, HIDDEN),
        values(2, rows, HIDDEN),
        values(3, HIDDEN),
        torch.tensor([100.0]),
    ]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("rows", [4, 130])
def test_quantised(single, wrapped, how, rows):
    number = ops.number(single)

    def layer(x, residual, weight, scale):
        residual = ops.all_reduce(x, number) + residual
        return *how(torch_norm(residual, weight), scale), residual

    arguments = tensors(rows)
    fusion = Fusion(single)
    ours, operators = rewritten(layer, arguments, fusion)
    kind = "linear" if how in (vllm_rows, tensorrt_llm_rows) else "128x4"
    assert fusion.replaced == {f"{NORM}_nvfp4_{kind}": 1}
    assert operators.count(torch.ops.arbiter.all_reduce_fused.default) == 1
    assert torch.ops.aten.rsqrt.default not in operators and not QUANTISES & set(operators)
    expected = layer(*arguments)
    for one, other in zip(ours, expected):
        assert one.dtype == other.dtype and one.shape == other.shape
    assert torch.equal(ours[2], expected[2]) and torch.equal(arguments[3], torch.tensor([100.0]))
    # The norm's last bit may fall the other way, and with it a code or a scale: not many do.
    for one, other in zip(ours[:2], expected[:2]):
        one, other = one.view(torch.uint8), other.view(torch.uint8)
        assert (one != other).sum() <= 0.03 * (other != 0).sum() and len(other.unique()) > 8


def test_the_number_of_rows_may_be_unknown(single):
    number = ops.number(single)

    def layer(x, residual, weight, scale):
        return vllm(torch_norm(ops.all_reduce(x, number) + residual, weight), scale)

    arguments = tensors(4)
    for tensor in arguments[:2]:
        torch._dynamo.mark_dynamic(tensor, 0)
    fusion = Fusion(single)
    ours, _ = rewritten(layer, arguments, fusion)
    assert fusion.replaced == {f"{NORM}_nvfp4_128x4": 1}
    for one, other in zip(ours, layer(*arguments)):
        assert one.dtype == other.dtype and one.shape == other.shape


OTHERS = {
    "the norm is read": lambda norm, scale: (*vllm(norm, scale), norm * 2),
    "half of the norm": lambda norm, scale: vllm(norm[:, :48].contiguous(), scale),
    "another group": lambda norm, scale: torch.ops.trtllm.fp4_quantize(norm, scale, 16, True),
    "a scale that is computed from it": lambda norm, scale: vllm(
        norm, (2688 / norm.float().abs().amax()).reshape(1)
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_quantisations_stay_apart(single, case):
    number = ops.number(single)

    def layer(x, residual, weight, scale):
        return OTHERS[case](torch_norm(ops.all_reduce(x, number) + residual, weight), scale)

    fusion = Fusion(single)
    if case == "another group":
        with pytest.raises(AssertionError):  # the stand-in has none, and is still there to say so
            rewritten(layer, tensors(4), fusion)
    else:
        _, operators = rewritten(layer, tensors(4), fusion)
        assert QUANTISES & set(operators)
    assert fusion.replaced == {NORM: 1}


def test_without_the_pattern_only_the_norm_is_fused():
    with Communicator.in_process(1) as (communicator,), torch.no_grad():
        communicator.prepare(Family(NORM, torch.bfloat16, HIDDEN, 8))
        number = ops.number(communicator)

        def layer(x, residual, weight, scale):
            return vllm(torch_norm(ops.all_reduce(x, number) + residual, weight), scale)

        fusion = Fusion(communicator)
        _, operators = rewritten(layer, tensors(4), fusion)
        assert fusion.replaced == {NORM: 1} and QUANTISES & set(operators)
