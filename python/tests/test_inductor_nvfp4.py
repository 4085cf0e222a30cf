"""NVFP4 quantisation behind an allreduce in a compiled module: the engines' operators, here as
stand-ins that compute what theirs do, and what is left of them."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torch._inductor.custom_graph_pass")

from graphs import rewritten, torch_norm, values  # noqa: E402
from nvfp4_operators import (  # noqa: E402
    sglang,
    tensorrt_llm,
    tensorrt_llm_rows,
    vllm,
    vllm_out,
    vllm_rows,
)

import arbiter.torch as ops  # noqa: E402
from arbiter import Communicator, Family  # noqa: E402
from arbiter.inductor import Fusion  # noqa: E402

HIDDEN, NORM = 96, "allreduce_residual_rmsnorm"  # 6 columns of scales, padded to 8
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
