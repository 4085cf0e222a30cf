"""PyTorch tensors and operators, on the CPU device."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import arbiter  # noqa: E402
import arbiter.torch as ops  # noqa: E402
from arbiter import Communicator, Family  # noqa: E402

HIDDEN, TOKENS, BF16 = 64, 4, torch.bfloat16
GROUP = "allreduce_residual_rmsnorm_fp8_group32_ue8m0"
FAMILIES = [
    Family(name, BF16, HIDDEN, 8) for name in ("allreduce", "allreduce_residual_rmsnorm", GROUP)
]


def values(rank, *shape):
    return torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(rank)).to(BF16)


def reference(x, residual, gamma, eps=1e-6):
    summed = (x.float() + residual.float()).to(BF16)
    norm = (
        summed.float()
        * torch.rsqrt(summed.float().pow(2).mean(-1, keepdim=True) + eps)
        * gamma.float()
    )
    return norm, summed


def close(ours, expected):
    torch.testing.assert_close(ours.float(), expected.float(), rtol=1e-2, atol=1e-2)


@pytest.fixture(scope="module")
def single():
    with Communicator.in_process(1) as (communicator,):
        communicator.prepare(*FAMILIES)
        yield communicator


def test_methods_and_operators_reduce():
    residual, gamma = values(9, TOKENS, HIDDEN), values(8, HIDDEN)
    summed = sum(values(rank, TOKENS, HIDDEN).float() for rank in range(2)).to(BF16)
    norm, total = reference(summed, residual, gamma)

    def work(communicator):
        number = ops.number(communicator)
        communicator.prepare(*FAMILIES)
        x = values(communicator.rank, TOKENS, HIDDEN)
        assert torch.equal(communicator.all_reduce(x), summed) and torch.equal(
            ops.all_reduce(x, number), summed
        )
        done = communicator.all_reduce_fused(x, residual=residual, gamma=gamma)
        assert torch.equal(done.residual_out, total)
        close(done.norm_out, norm)
        ours = ops.all_reduce_residual_rmsnorm(x, residual, gamma, 1e-6, 0.0, number)
        assert torch.equal(ours[0], done.norm_out) and torch.equal(ours[1], total)
        mine, into = residual.clone(), torch.empty_like(x)
        ops.all_reduce_residual_rmsnorm_out(x, mine, gamma, into, 1e-6, 0.0, number)
        assert torch.equal(mine, total) and torch.equal(into, done.norm_out)
        fused = ops.all_reduce_fused(GROUP, x, residual, gamma, None, 1e-6, 0.0, number)
        assert [tensor.dtype for tensor in fused] == [BF16, torch.float8_e4m3fn, torch.int32]
        ops.all_reduce_(x, number)
        assert torch.equal(x, summed)

    with Communicator.in_process(2) as ranks:
        for communicator in ranks:
            assert ops.number(communicator) == ops.number(communicator)
        ranks.run(work)


def test_operators_keep_pytorch_s_contract(single):
    number = ops.number(single)
    x, residual, gamma = values(1, TOKENS, HIDDEN), values(2, TOKENS, HIDDEN), values(3, HIDDEN)
    tail = (1e-6, 0.0, number)
    torch.library.opcheck(ops.all_reduce, (x, number))
    torch.library.opcheck(ops.all_reduce_, (x, number))
    torch.library.opcheck(ops.all_reduce_residual_rmsnorm, (x, residual, gamma, *tail))
    torch.library.opcheck(
        ops.all_reduce_residual_rmsnorm_out, (x, residual, gamma, torch.empty_like(x), *tail)
    )
    torch.library.opcheck(ops.all_reduce_fused, (GROUP, x, residual, gamma, None, *tail))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_as_one_graph(single, dynamic):
    number = ops.number(single)

    def layer(x, residual, gamma):
        x = ops.all_reduce(x * 2, number)
        norm, residual = ops.all_reduce_residual_rmsnorm(x, residual, gamma, 1e-6, 0.0, number)
        ops.all_reduce_(norm, number)
        return norm + 1, residual

    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for tokens in (4, 7, 2):
        arguments = values(1, tokens, HIDDEN), values(2, tokens, HIDDEN), values(3, HIDDEN)
        for ours, expected in zip(compiled(*arguments), layer(*arguments)):
            assert torch.equal(ours, expected)


def test_what_is_refused(single):
    class Wrapped(torch.Tensor):
        pass

    x = values(1, TOKENS, HIDDEN)
    cases = [
        ("a subclass of torch.Tensor", x.as_subclass(Wrapped)),
        ("not contiguous", values(1, HIDDEN, TOKENS).t()),
        ("requires a gradient", x.clone().requires_grad_()),
        ("device 'meta'", x.to("meta")),
        ("layout torch.sparse_coo", x.to_sparse()),
        ("x holds int64", x.long()),
    ]
    for message, tensor in cases:
        with pytest.raises(arbiter.InvalidArgument, match=message):
            single.all_reduce(tensor)
    with torch.no_grad():
        single.all_reduce(torch.nn.Parameter(x.clone()))
    assert single.all_reduce(x[:0]).shape == (0, HIDDEN)
    with pytest.raises(arbiter.InvalidArgument, match="does not exist"):
        ops.all_reduce(x, 10**6)


RANK = """
import os, sys, torch, torch.distributed as dist
from arbiter import Communicator, Family, _groups
rank, size, file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

def exchange():
    group = _groups.torch_group(None)
    for data in (b"", bytes([rank]), bytes(range(256)) * 40 + bytes([rank])):
        parts = group._functions[0](data)
        assert [part[-1:] for part in parts] == ([bytes([r]) for r in range(size)] if data else [b""] * size)
        assert group._functions[1](data, size - 1) == parts[size - 1]
    group._functions[2]()

def sub_group():  # counts its own ranks, and roots are its own
    sub = dist.new_group([1, 2])
    if rank == 0:
        return
    group = _groups.torch_group(sub)
    assert group.struct.rank == rank - 1 and group.struct.size == 2
    assert group._functions[1](bytes([rank]), 1) == bytes([2])

def reduce():
    with Communicator.from_torch() as communicator:
        communicator.prepare(Family("allreduce", torch.float32, 64, 4))
        assert (communicator.all_reduce(torch.ones(4, 64)) == 1).all()

dist.init_process_group("gloo", init_method="file://" + file, rank=rank, world_size=size)
exchange()
reduce() if size == 1 else sub_group()
dist.barrier()
dist.destroy_process_group()
# PyTorch 2.11's gloo sometimes ends a process in std::terminate() while it exits, also where Arbiter was not loaded.
os._exit(0)
"""


@pytest.mark.parametrize("size", [1, 3])
def test_from_torch(size, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(arbiter.__file__).parents[1])}
    (tmp_path / "rank.py").write_text(RANK)
    processes = [
        subprocess.Popen(
            [sys.executable, tmp_path / "rank.py", str(rank), str(size), str(tmp_path / "meet")],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


def test_from_torch_without_a_group():
    with pytest.raises(arbiter.InvalidArgument, match="init_process_group"):
        Communicator.from_torch()
