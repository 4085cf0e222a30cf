"""The engines' own call signatures, from small stand-ins of their calling sites."""

import sys
import types

import pytest

torch = pytest.importorskip("torch")

from processes import run  # noqa: E402

import arbiter  # noqa: E402
from arbiter import Communicator, Family  # noqa: E402
from arbiter.integrations import flashinfer, sglang, tensorrt_llm, vllm  # noqa: E402

HIDDEN, TOKENS, BF16 = 128, 6, torch.bfloat16
Pattern = flashinfer.AllReduceFusionPattern


def values(seed, *shape):
    return torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(seed)).to(BF16)


def expected(size, tokens=TOKENS, eps=1e-6, bias=0.0):
    residual, gamma = values(90, tokens, HIDDEN), values(91, HIDDEN)
    summed = sum(values(rank, tokens, HIDDEN).float() for rank in range(size)).to(BF16)
    total = (summed.float() + residual.float()).to(BF16)
    norm = (
        total.float()
        * torch.rsqrt(total.float().pow(2).mean(-1, keepdim=True) + eps)
        * (gamma.float() + bias)
    )
    return residual, gamma, summed, total, norm


def close(ours, theirs, rtol=1e-2):
    torch.testing.assert_close(ours.float(), theirs.float(), rtol=rtol, atol=2e-2)


def on_two_ranks(work):
    with Communicator.in_process(2) as ranks:
        ranks.run(work)


def workspace_of(communicator, **more):
    return flashinfer.create_allreduce_fusion_workspace(
        backend="auto",
        world_size=2,
        rank=communicator.rank,
        max_token_num=8,
        hidden_dim=HIDDEN,
        dtype=BF16,
        communicator=communicator,
        **more,
    )


def test_flashinfer_plain_and_norm():
    residual, gamma, summed, total, norm = expected(2, bias=1.0)

    def work(communicator):
        workspace = workspace_of(communicator)
        x = values(communicator.rank, TOKENS, HIDDEN)
        into = torch.empty_like(x)
        assert flashinfer.allreduce_fusion(x, workspace, Pattern.kAllReduce, output=into) is into
        assert torch.equal(into, summed)
        residual_out, norm_out = torch.empty_like(x), torch.empty_like(x)
        ours = flashinfer.allreduce_fusion(
            input=x,
            workspace=workspace,
            pattern=Pattern.kARResidualRMSNorm,
            launch_with_pdl=True,
            use_oneshot=True,
            residual_out=residual_out,
            norm_out=norm_out,
            residual_in=residual,
            rms_gamma=gamma,
            weight_bias=1.0,
        )
        assert ours is norm_out and torch.equal(residual_out, total)
        close(norm_out, norm)
        assert workspace.is_buffer_size_sufficient(2, 16, HIDDEN // 2, BF16)
        assert not workspace.is_buffer_size_sufficient(2, 9, HIDDEN, BF16)
        assert not workspace.is_buffer_size_sufficient(2, 8, HIDDEN, torch.float32)
        assert not workspace.is_buffer_size_sufficient(4, 1, HIDDEN, BF16)
        with pytest.raises(arbiter.InvalidArgument, match="do not fit"):
            flashinfer.allreduce_fusion(values(0, 9, HIDDEN), workspace, 0)
        with pytest.raises(arbiter.InvalidArgument, match="beside a residual"):
            flashinfer.allreduce_fusion(
                x, workspace, 1, output=into, residual_in=residual, rms_gamma=gamma
            )
        workspace.destroy()
        workspace.destroy()
        assert not workspace.is_buffer_size_sufficient(2, 1, HIDDEN, BF16)
        with pytest.raises(arbiter.InvalidArgument, match="destroyed"):
            flashinfer.allreduce_fusion(x, workspace, 0)
        communicator.check()  # still open: it was lent

    on_two_ranks(work)


@pytest.mark.parametrize("code", [2, 4, 8, 9, 10, 11])
def test_flashinfer_fp8(code):
    residual, gamma, _, total, norm = expected(2)

    def work(communicator):
        workspace = workspace_of(communicator)
        x = values(communicator.rank, TOKENS, HIDDEN)
        quant, residual_out, norm_out = (
            torch.empty(x.shape, dtype=torch.float8_e4m3fn),
            torch.empty_like(x),
            torch.empty_like(x),
        )
        more = {}
        if code in (2, 4):
            more["scale_factor"] = 0.5
        elif code in (8, 9):
            more["block_quant_group_size"] = 32
            rows = -(-TOKENS // 4) * 4
            more["scale_out"] = torch.as_strided(
                torch.full((rows,), 0x7F7F7F7F, dtype=torch.int32), (TOKENS, 1), (1, rows)
            )
        else:
            more["scale_out"] = torch.empty(TOKENS, 1)
        ours = flashinfer.allreduce_fusion(
            x,
            workspace,
            code,
            residual_in=residual,
            residual_out=residual_out,
            rms_gamma=gamma,
            quant_out=quant,
            norm_out=norm_out if code in (4, 9, 11) else None,
            **more,
        )
        assert ours is quant and torch.equal(residual_out, total)
        if code in (2, 4):
            scale = torch.tensor(0.5)
        elif code in (10, 11):
            scale = more["scale_out"]
        else:
            words = torch.as_strided(more["scale_out"], (TOKENS,), (1,))
            scale = torch.exp2(
                words.view(torch.uint8).view(TOKENS, 4).float() - 127
            ).repeat_interleave(32, 1)
        close(quant.float() * scale, norm, rtol=0.08)
        if code in (4, 9, 11):
            close(norm_out, norm)

    on_two_ranks(work)


@pytest.mark.parametrize("code", [3, 5])
@pytest.mark.parametrize("layout", [0, 1, 2])
def test_flashinfer_nvfp4_names_and_scale(code, layout):
    name = flashinfer.pattern_name(code, layout)
    assert (
        name == "allreduce_residual_rmsnorm_" + ("nvfp4_128x4", "nvfp4_8x4", "nvfp4_linear")[layout]
    )
    residual, gamma, _, total, norm = expected(2)

    def work(communicator):
        workspace = workspace_of(communicator)
        x = values(communicator.rank, TOKENS, HIDDEN)
        rows = {0: 128, 1: 8, 2: TOKENS}[layout]
        quant = torch.empty(TOKENS, HIDDEN // 2, dtype=torch.uint8)
        scales = torch.empty(rows, HIDDEN // 16, dtype=torch.uint8)
        residual_out = torch.empty_like(x)
        call = lambda **more: flashinfer.allreduce_fusion(  # noqa: E731
            x,
            workspace,
            code,
            residual_in=residual,
            residual_out=residual_out,
            rms_gamma=gamma,
            quant_out=quant,
            scale_out=scales,
            layout_code=layout,
            **more,
        )
        with pytest.raises(arbiter.InvalidArgument, match="needs scale_factor"):
            call()
        assert call(scale_factor=torch.ones(1)) is quant
        assert torch.equal(residual_out, total)
        if layout == 2:  # the others place the same scales in tiles
            table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6])
            nibbles = torch.stack([quant & 15, quant >> 4], -1).reshape(TOKENS, HIDDEN).long()
            number = table[nibbles & 7] * torch.where(nibbles & 8 > 0, -1.0, 1.0)
            scale = scales.view(torch.float8_e4m3fn).float().repeat_interleave(16, 1)
            torch.testing.assert_close(
                number * scale, norm, rtol=0.3, atol=0.6 * scale.max().item()
            )

    on_two_ranks(work)


def test_flashinfer_mixture_of_experts():
    residual, gamma, *_ = expected(2)
    experts, top_k, rows = 3, 2, 10
    weights = torch.randint(
        -2, 3, (experts * TOKENS,), generator=torch.Generator().manual_seed(5)
    ).float()  # exact sums
    row_map = torch.randint(
        -1, rows, (TOKENS, top_k), generator=torch.Generator().manual_seed(6), dtype=torch.int32
    )
    router = torch.randint(
        -2, 3, (TOKENS, top_k), generator=torch.Generator().manual_seed(7)
    ).float()

    def reduced(rank):
        x = values(rank, experts, TOKENS, HIDDEN).float()
        return (x * weights.view(experts, TOKENS, 1)).sum(0) + values(
            70 + rank, TOKENS, HIDDEN
        ).float()

    def finalized(rank):
        x = torch.cat([values(rank, rows, HIDDEN).float(), torch.zeros(1, HIDDEN)])
        return (x[row_map.long()] * router[:, :, None]).sum(1)

    def work(communicator):
        workspace = workspace_of(communicator)
        ours, rank = torch.empty(TOKENS, HIDDEN, dtype=BF16), communicator.rank
        flashinfer.allreduce_fusion(
            torch.empty(0),
            workspace,
            6,
            residual_in=residual,
            residual_out=ours,
            rms_gamma=gamma,
            moe_reduction_device_num_experts=experts,
            moe_reduction_scale_input=weights,
            moe_reduction_active_experts_token_input=values(rank, experts, TOKENS, HIDDEN).view(
                -1, HIDDEN
            ),
            moe_reduction_token_input=values(70 + rank, TOKENS, HIDDEN),
        )
        assert torch.equal(ours.float(), reduced(0) + reduced(1) + residual.float())
        flashinfer.allreduce_fusion(
            values(rank, rows, HIDDEN),
            workspace,
            7,
            residual_in=residual,
            residual_out=ours,
            rms_gamma=gamma,
            expanded_idx_to_permuted_idx=row_map,
            expert_scale_factor=router,
        )
        assert torch.equal(ours.float(), finalized(0) + finalized(1) + residual.float())
        with pytest.raises(arbiter.InvalidArgument, match="expert by expert"):
            flashinfer.allreduce_fusion(
                torch.empty(0),
                workspace,
                6,
                residual_in=residual,
                rms_gamma=gamma,
                moe_reduction_device_num_experts=2,
                moe_reduction_scale_input=weights,
                moe_reduction_active_experts_token_input=values(rank, 1, HIDDEN),
                moe_reduction_token_input=residual,
            )

    on_two_ranks(work)


@pytest.mark.parametrize("code", [-1, 12, "auto"])
def test_flashinfer_codes_without_meaning(code):
    with pytest.raises(arbiter.InvalidArgument, match="from 0 to 11"):
        flashinfer.pattern_name(code)


def test_flashinfer_workspace_contradicts_its_group():
    def work(communicator):
        with pytest.raises(arbiter.InvalidArgument, match="world_size is 4"):
            flashinfer.create_allreduce_fusion_workspace(
                world_size=4,
                max_token_num=8,
                hidden_dim=HIDDEN,
                dtype=BF16,
                communicator=communicator,
            )

    on_two_ranks(work)


def test_sglang():
    residual, gamma, summed, total, norm = expected(2)
    module = types.SimpleNamespace(flashinfer_allreduce_residual_rmsnorm=None)
    sglang.patch(module)
    assert (
        module.flashinfer_allreduce_residual_rmsnorm is sglang.flashinfer_allreduce_residual_rmsnorm
    )
    with pytest.raises(arbiter.InvalidArgument, match="not the version"):
        sglang.patch(types.SimpleNamespace(__name__="other"))
    with pytest.raises(arbiter.InvalidArgument, match="backend is 'fast'"):
        sglang.AllReduce(hidden_dim=HIDDEN, backend="fast")

    def work(communicator):
        reducer = sglang.AllReduce(communicator=communicator, hidden_dim=HIDDEN, max_token_num=8)
        x = values(communicator.rank, TOKENS, HIDDEN)
        norm_out, residual_out = reducer.residual_rmsnorm(x, residual, gamma, 1e-6)
        assert torch.equal(residual_out, total) and torch.equal(
            x, values(communicator.rank, TOKENS, HIDDEN)
        )
        close(norm_out, norm)
        assert torch.equal(reducer.all_reduce(x), summed)
        # Declined, on all ranks, before anything is launched: too large, another hidden size, dtype
        # or layout.
        for other in (
            values(0, 9, HIDDEN),
            values(0, 4, HIDDEN // 2),
            x.half(),
            x.long(),
            values(0, HIDDEN, 4).t(),
        ):
            assert reducer.residual_rmsnorm(other, other, gamma, 1e-6) == (None, None)
        assert (
            reducer.all_reduce(values(0, 9, HIDDEN)) is None
            and reducer.all_reduce(x.float()) is None
        )
        assert reducer.all_reduce(x, inplace=True) is x and torch.equal(x, summed)
        reducer.close()

    on_two_ranks(work)


def test_sglang_before_and_after_it_is_configured():
    residual, gamma, summed, total, norm = expected(1)
    x = values(0, TOKENS, HIDDEN)
    assert sglang.flashinfer_allreduce_residual_rmsnorm(x, residual, gamma) == (None, None)
    assert sglang.all_reduce(x) is None
    with Communicator.in_process(1) as (communicator,):
        sglang.configure(communicator=communicator, hidden_dim=HIDDEN, max_token_num=8)
        norm_out, residual_out = sglang.flashinfer_allreduce_residual_rmsnorm(
            input_tensor=x,
            residual=residual,
            weight=gamma,
            eps=1e-6,
            max_token_num=2048,
            use_oneshot=True,
            trigger_completion_at_end=False,
            fp32_acc=True,
            use_attn_tp_group=True,
        )
        close(norm_out, norm)
        assert torch.equal(residual_out, total)
        assert sglang.flashinfer_allreduce_residual_rmsnorm(
            x, residual, gamma, max_token_num=2
        ) == (None, None)
        sglang.shutdown()
    assert sglang.all_reduce(x) is None


PROCESSES = """
import os, sys, torch, torch.distributed as dist
from arbiter.integrations import flashinfer, sglang
rank, size, file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
dist.init_process_group("gloo", init_method="file://" + file, rank=rank, world_size=size)
H, T, bf16 = 128, 6, torch.bfloat16
x = torch.full((T, H), float(rank + 1)).to(bf16)
residual, gamma = torch.ones(T, H).to(bf16), torch.ones(H).to(bf16)
NORM = "allreduce_residual_rmsnorm"

def kind(communicator):
    return communicator.explain(NORM, bf16, H, T)["algorithm"].split("_")[0]

def count(communicator):
    return sum(call["count"] for call in communicator.stats()["calls"])
"""
END = """
dist.barrier()
print("done", flush=True)
os._exit(0)  # some versions of gloo end a process in std::terminate() while it exits
"""

FLASHINFER = """
workspace = flashinfer.create_allreduce_fusion_workspace(
    world_size=size, rank=rank, max_token_num=8, hidden_dim=H, dtype=bf16, force_oneshot_support=True)
for use_oneshot, expected in ((True, "oneshot"), (False, "twoshot")):
    into = torch.empty_like(x)
    flashinfer.allreduce_fusion(x, workspace, 1, residual_in=residual, residual_out=into, rms_gamma=gamma,
                                use_oneshot=use_oneshot)
    assert (into == 4).all() and kind(workspace.of(use_oneshot)) == expected
    assert (flashinfer.allreduce_fusion(x, workspace, 0, use_oneshot=use_oneshot) == 3).all()
    assert count(workspace.of(use_oneshot)) == 2
assert count(workspace.communicator) == 0
flashinfer.allreduce_fusion(x, workspace, 1, residual_in=residual, rms_gamma=gamma, moe_finalize_backend="trtllm")
assert count(workspace.communicator) == 1
try:
    flashinfer.allreduce_fusion(x, workspace, 0, use_two_shot=True)
except TypeError as error:
    assert "use_two_shot" in str(error)
else:
    raise AssertionError("an unknown argument was taken")
workspace.destroy()
"""

SGLANG = """
made = sglang.configure(hidden_dim=H, max_token_num=8, dtype=bf16, backend="trtllm", fused_backend="mnnvl")
assert made.plain is not made.fused and made.plain.explain("allreduce", bf16, H, T)["backend"] == "trtllm"
assert made.fused.explain(NORM, bf16, H, T)["backend"] == "mnnvl"
call = lambda tensor, **more: sglang.flashinfer_allreduce_residual_rmsnorm(tensor, residual, gamma, **more)
assert (call(x)[1] == 4).all() and (sglang.all_reduce(x) == 3).all() and count(made.fused) == 1

# What was made is used again; what is missing is prepared outside capture, and declined inside it.
assert made.is_buffer_size_sufficient(8, H, bf16) and not made.is_buffer_size_sufficient(9, H, bf16)
assert sglang.ensure_workspace_initialized(8, H, dtype=bf16) and made is sglang._groups[True]
sglang.capturing = flashinfer.capturing = lambda: True
assert not sglang.ensure_workspace_initialized(64, H, dtype=bf16)
assert call(x, use_oneshot=True) == (None, None)
sglang.capturing = flashinfer.capturing = lambda: False
assert sglang.ensure_workspace_initialized(64, H, dtype=bf16) and made.is_buffer_size_sufficient(64, H, bf16)
assert not sglang.is_flashinfer_allreduce_unavailable()

for use_oneshot, expected in ((False, "twoshot"), (True, "oneshot")):
    assert (call(x, use_oneshot=use_oneshot)[1] == 4).all()
    assert kind(made.workspace.of(use_oneshot)) == expected
sglang.pre_initialize_workspaces(64, H, bf16, use_oneshot=True)
assert sglang._groups[False] is made
sglang.cleanup_flashinfer_workspace()
assert call(x) == (None, None) and not sglang.ensure_workspace_initialized(8, H)

# A group of its own for the MoE layers; a stand-alone path that is not wanted.
pair = dist.new_group([0, 1])
sglang.configure(moe_group=pair, hidden_dim=H, max_token_num=8, dtype=bf16, backend=None)
assert sglang._groups[False] is not sglang._groups[True] and sglang.all_reduce(x) is None
assert (call(x, use_attn_tp_group=False)[1] == 4).all() and count(sglang._groups[False].fused) == 1
sglang.shutdown()
"""


@pytest.mark.parametrize("program", [FLASHINFER, SGLANG], ids=["flashinfer", "sglang"])
def test_kinds_and_backends_of_two_ranks(tmp_path, program):
    assert run(PROCESSES + program + END, 2, tmp_path) == "done\n"


def test_sglang_is_patched_wherever_it_was_imported_by_name(monkeypatch):
    theirs = [lambda: name for name in sglang._NAMES]
    layers, user, stranger = (
        types.ModuleType(name) for name in ("engine.fusion", "engine.communicator", "other")
    )
    for name, function in zip(sglang._NAMES, theirs):
        setattr(layers, name, function)
    user.flashinfer_allreduce_residual_rmsnorm = stranger.flashinfer_allreduce_residual_rmsnorm = (
        theirs[0]
    )
    for module in (layers, user, stranger):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    replaced = sglang.patch(layers)
    ours = sglang.flashinfer_allreduce_residual_rmsnorm
    assert "engine.communicator.flashinfer_allreduce_residual_rmsnorm" in replaced
    assert (
        layers.flashinfer_allreduce_residual_rmsnorm
        is user.flashinfer_allreduce_residual_rmsnorm
        is ours
    )
    assert stranger.flashinfer_allreduce_residual_rmsnorm is theirs[0]
    assert all(getattr(layers, name) is getattr(sglang, name) for name in sglang._NAMES)
    assert sglang.patch(layers) == []


def test_vllm_custom_allreduce():
    module = types.SimpleNamespace(CustomAllreduce=None)
    vllm.patch(module)
    assert module.CustomAllreduce is vllm.ArbiterAllreduce
    with pytest.raises(arbiter.InvalidArgument, match="no CustomAllreduce"):
        vllm.patch(types.SimpleNamespace())
    _, _, summed, _, _ = expected(2)

    def work(communicator):
        reducer = vllm.ArbiterAllreduce(
            None, max_size=TOKENS * HIDDEN * 2, communicator=communicator
        )
        x = values(communicator.rank, TOKENS, HIDDEN)
        with reducer.capture():
            assert reducer.should_custom_ar(x) and torch.equal(reducer.custom_all_reduce(x), summed)
        reducer.finalize_p2p()
        reducer.register_graph_buffers()
        assert not reducer.disabled and reducer.world_size == 2
        for other in (values(0, TOKENS + 1, HIDDEN), x.float(), values(0, HIDDEN, TOKENS).t()):
            assert not reducer.should_custom_ar(other) and reducer.custom_all_reduce(other) is None
        reducer.close()
        assert reducer.disabled and reducer.custom_all_reduce(x) is None

    on_two_ranks(work)


def test_vllm_fused_op_writes_to_its_arguments():
    residual, gamma, _, total, norm = expected(2)

    def work(communicator):
        fused = vllm.FusedAllreduce(workspace_of(communicator))
        x, mine = values(communicator.rank, TOKENS, HIDDEN), residual.clone()
        tail = {"world_size": 2, "launch_with_pdl": True, "fp32_acc": True, "max_token_num": 8}
        assert fused(x, mine, gamma, 1e-6, **tail) is None
        close(x, norm)
        assert torch.equal(mine, total)
        x, mine, into = (
            values(communicator.rank, TOKENS, HIDDEN),
            residual.clone(),
            torch.empty_like(residual),
        )
        fused(x, mine, gamma, 1e-6, norm_out=into, **tail)
        close(into, norm)
        assert torch.equal(x, total) and torch.equal(mine, residual)
        x, quant = values(communicator.rank, TOKENS, HIDDEN), torch.empty(
            TOKENS, HIDDEN, dtype=torch.float8_e4m3fn
        )
        fused(
            x,
            mine,
            gamma,
            1e-6,
            pattern_code=2,
            quant_out=quant,
            scale_factor=torch.ones(1),
            **tail,
        )
        close(quant, norm, rtol=0.08)
        assert torch.equal(mine, total) and torch.equal(
            x, values(communicator.rank, TOKENS, HIDDEN)
        )

    on_two_ranks(work)


def test_families_are_prepared_once():
    def work(communicator):
        workspace = workspace_of(communicator, patterns=(0, 1, 10))
        before = communicator.prepare
        communicator.prepare = lambda *_: pytest.fail("prepared again")
        workspace.prepare(flashinfer.pattern_name(10), BF16, HIDDEN, 8)
        communicator.prepare = before
        assert communicator.prepared(flashinfer.pattern_name(10), BF16, HIDDEN, 8)
        assert isinstance(Family("allreduce", BF16, HIDDEN, 1), tuple)

    on_two_ranks(work)


def test_tensorrt_llm():
    residual, gamma, summed, total, norm = expected(2)
    Op, Strategy = tensorrt_llm.AllReduceFusionOp, tensorrt_llm.AllReduceStrategy

    def work(communicator):
        workspace = workspace_of(communicator)
        x = values(communicator.rank, TOKENS, HIDDEN)
        (ours,) = tensorrt_llm.allreduce(x, workspace=workspace, strategy=Strategy.ONESHOT)
        assert torch.equal(ours, summed)
        arguments = dict(
            residual=residual, norm_weight=gamma, workspace=workspace, strategy=Strategy.AUTO
        )
        ours = tensorrt_llm.allreduce(x, op=Op.RESIDUAL_RMS_NORM, **arguments)
        close(ours[0], norm)
        assert len(ours) == 2 and torch.equal(ours[1], total)
        scale = torch.tensor([0.5])
        for op, kinds in (
            (Op.RESIDUAL_RMS_NORM_QUANT_FP8, [torch.float8_e4m3fn, BF16]),
            (Op.RESIDUAL_RMS_NORM_OUT_QUANT_FP8, [BF16, torch.float8_e4m3fn, BF16]),
            (Op.RESIDUAL_RMS_NORM_QUANT_NVFP4, [torch.uint8, torch.float8_e4m3fn, BF16]),
            (Op.RESIDUAL_RMS_NORM_OUT_QUANT_NVFP4, [BF16, torch.uint8, torch.float8_e4m3fn, BF16]),
        ):
            ours = tensorrt_llm.allreduce(x, op=op, scale=scale, **arguments)
            assert [tensor.dtype for tensor in ours] == kinds and torch.equal(ours[-1], total)
            if kinds[0] is BF16:
                close(ours[0], norm)
            if torch.uint8 not in kinds:
                close(ours[kinds.index(torch.float8_e4m3fn)].float() * 0.5, norm, 0.08)
        with pytest.raises(arbiter.Unsupported, match="op 3 has no kernel"):
            tensorrt_llm.allreduce(x, op=Op.RESIDUAL_RMS_PREPOST_NORM, **arguments)
        with pytest.raises(arbiter.Unsupported, match="a bias"):
            tensorrt_llm.allreduce(x, bias=gamma, **arguments)
        with pytest.raises(arbiter.InvalidArgument, match="workspace is None"):
            tensorrt_llm.allreduce(x)
        with pytest.raises(arbiter.InvalidArgument, match="needs residual"):
            tensorrt_llm.allreduce(x, op=Op.RESIDUAL_RMS_NORM, workspace=workspace)

    on_two_ranks(work)
