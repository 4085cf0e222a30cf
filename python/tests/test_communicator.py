"""The package on the CPU device, which runs the GPU's kernels on the host."""

import os
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from reference import e4m3, inputs, rmsnorm, total

import arbiter
from arbiter import Communicator, Family

HIDDEN, MAX_TOKENS = 64, 8
PLAIN = Family("allreduce", "fp32", HIDDEN, MAX_TOKENS)
FUSED = Family("allreduce_residual_rmsnorm", "fp32", HIDDEN, MAX_TOKENS)


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_all_reduce(size, dtype):
    def work(communicator):
        communicator.prepare(PLAIN._replace(dtype=dtype))
        for shape in [(HIDDEN,), (3, HIDDEN), (2, 4, HIDDEN), (131,), (0, HIDDEN)]:
            x = inputs(communicator.rank, shape).astype(dtype)
            before = x.copy()
            result = communicator.all_reduce(x)
            assert result.dtype == dtype and result.shape == shape
            assert np.array_equal(result, total(size, shape)) and np.array_equal(x, before)
            assert communicator.all_reduce(x, out=x) is x
            assert np.array_equal(x, total(size, shape))
        communicator.check()

    with Communicator.in_process(size) as ranks:
        assert [communicator.rank for communicator in ranks] == list(range(size))
        assert {communicator.size for communicator in ranks} == {size}
        ranks.run(work)


def test_residual_and_norm():
    shape, eps, bias = (MAX_TOKENS, HIDDEN), 1e-3, 1.0
    residual, gamma = inputs(50, shape), inputs(51, (HIDDEN,)) / 4
    expected = total(2, shape) + residual

    def work(communicator):
        communicator.prepare(FUSED)
        x, mine = inputs(communicator.rank, shape), residual.copy()
        done = communicator.all_reduce_fused(
            x, residual=mine, gamma=gamma, eps=eps, weight_bias=bias
        )
        assert np.array_equal(done.residual_out, expected) and np.array_equal(mine, residual)
        np.testing.assert_allclose(
            done.norm_out, rmsnorm(expected, gamma, eps, bias), rtol=1e-5, atol=1e-6
        )
        assert done.output is None and done.quant_out is None and done.scale_out is None
        # In place, into a given array, and without what is optional.
        norm = np.zeros_like(x)
        done = communicator.all_reduce_fused(
            x,
            residual=mine,
            gamma=gamma,
            eps=eps,
            weight_bias=bias,
            residual_out=mine,
            norm_out=norm,
        )
        assert (
            done.residual_out is mine and done.norm_out is norm and np.array_equal(mine, expected)
        )
        done = communicator.all_reduce_fused(x, residual=residual, gamma=gamma, residual_out=False)
        assert done.residual_out is None

    with Communicator.in_process(2) as ranks:
        ranks.run(work)


def test_quantised():
    shape = (5, HIDDEN)
    residual, gamma = inputs(50, shape), np.ones(HIDDEN, np.float32)
    expected = rmsnorm(total(2, shape) + residual, gamma)
    base = "allreduce_residual_rmsnorm_fp8_"

    def work(communicator):
        communicator.prepare(
            *[FUSED._replace(pattern=base + kind) for kind in ("token", "static", "group32_fp32")]
        )
        x = inputs(communicator.rank, shape)

        def call(kind, **more):
            return communicator.all_reduce_fused(
                x, pattern=base + kind, residual=residual, gamma=gamma, **more
            )

        token = call("token", norm_out=True)
        np.testing.assert_allclose(token.norm_out, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            e4m3(token.quant_out) * token.scale_out[:, None], expected, rtol=0.07, atol=1e-2
        )
        assert call("token").norm_out is None
        static = call("static", scale_in=np.array([0.25], np.float32))
        assert static.scale_out is None
        np.testing.assert_allclose(e4m3(static.quant_out) * 0.25, expected, rtol=0.07, atol=1e-2)
        group = call("group32_fp32")
        assert group.scale_out.shape == (5, HIDDEN // 32)
        np.testing.assert_allclose(
            e4m3(group.quant_out) * np.repeat(group.scale_out, 32, 1),
            expected,
            rtol=0.07,
            atol=1e-2,
        )
        with pytest.raises(arbiter.InvalidArgument, match="needs scale_in"):
            call("static")

    with Communicator.in_process(2) as ranks:
        ranks.run(work)


def test_mixture_of_experts():
    tokens, experts, top_k, rows = 3, 2, 2, 5
    shape = (tokens, HIDDEN)
    residual, gamma = inputs(50, shape), np.ones(HIDDEN, np.float32)
    row_map = np.array([[0, 4], [1, -1], [3, 2]], np.int32)
    weights = {
        "moe_reduce": inputs(60, (experts, tokens)),
        "moe_finalize": inputs(61, (tokens, top_k)),
    }

    def local(kind, rank):
        if kind == "moe_reduce":
            return (inputs(rank, (experts, *shape)) * weights[kind][:, :, None]).sum(0)
        x = np.vstack([inputs(rank, (rows, HIDDEN)), np.zeros((1, HIDDEN))])
        return (x[row_map] * weights[kind][:, :, None]).sum(1)

    def work(communicator):
        for kind, extent in (("moe_reduce", (experts, *shape)), ("moe_finalize", (rows, HIDDEN))):
            pattern = f"{kind}_allreduce_residual_rmsnorm"
            communicator.prepare(FUSED._replace(pattern=pattern))
            more = {"moe_row_map": row_map} if kind == "moe_finalize" else {}
            done = communicator.all_reduce_fused(
                inputs(communicator.rank, extent),
                pattern=pattern,
                residual=residual,
                gamma=gamma,
                moe_weights=weights[kind],
                **more,
            )
            expected = sum(local(kind, rank) for rank in range(2)) + residual
            np.testing.assert_allclose(done.residual_out, expected, rtol=1e-6)
            np.testing.assert_allclose(
                done.norm_out, rmsnorm(expected, gamma), rtol=1e-5, atol=1e-6
            )

    with Communicator.in_process(2) as ranks:
        ranks.run(work)


def test_what_was_not_prepared_is_named():
    x = np.zeros((4, HIDDEN), np.float32)

    def work(communicator):
        with pytest.raises(arbiter.Unsupported, match="prepare"):
            communicator.all_reduce(x)
        with pytest.raises(
            arbiter.Unsupported, match=r"prepare\(Family\('allreduce_residual_rmsnorm', 'fp32', 64"
        ):
            communicator.all_reduce_fused(x, residual=x.copy(), gamma=x[0].copy())
        communicator.prepare(FUSED._replace(max_tokens=2))
        assert communicator.prepared("allreduce_residual_rmsnorm", "fp32", HIDDEN, 2)
        assert not communicator.prepared("allreduce_residual_rmsnorm", "fp32", HIDDEN, 3)
        with pytest.raises(arbiter.Unsupported, match="only up to 2 rows"):
            communicator.all_reduce_fused(x, residual=x.copy(), gamma=x[0].copy())
        communicator.prepare(FUSED)  # more, later
        communicator.all_reduce_fused(x, residual=x.copy(), gamma=x[0].copy())

    with Communicator.in_process(2, nccl=False) as ranks:
        ranks.run(work)


def test_wrong_tensors_are_named_and_nothing_is_written():
    with Communicator.in_process(1) as (communicator,):
        communicator.prepare(PLAIN, FUSED)
        x, residual, gamma = (
            np.ones((4, HIDDEN), np.float32),
            np.ones((4, HIDDEN), np.float32),
            np.ones(HIDDEN, np.float32),
        )
        fused = communicator.all_reduce_fused
        cases = [
            (
                "x is not contiguous",
                lambda: communicator.all_reduce(np.ones((HIDDEN, 4), np.float32).T),
            ),
            ("x holds float64", lambda: communicator.all_reduce(np.ones(4))),
            ("x is a builtins.list", lambda: communicator.all_reduce([1.0], out=x)),
            ("out is fp16", lambda: communicator.all_reduce(x, out=x.astype(np.float16))),
            ("out overlaps x", lambda: communicator.all_reduce(x[:2], out=x[1:3])),
            ("needs residual", lambda: fused(x, gamma=gamma)),
            ("residual is fp32", lambda: fused(x, residual=residual[:2], gamma=gamma)),
            ("gamma is fp16", lambda: fused(x, residual=residual, gamma=gamma.astype(np.float16))),
            (
                "no use for scale_in",
                lambda: fused(x, residual=residual, gamma=gamma, scale_in=gamma),
            ),
            ("does not write output", lambda: fused(x, residual=residual, gamma=gamma, output=x)),
            (
                "cannot do without norm_out",
                lambda: fused(x, residual=residual, gamma=gamma, norm_out=False),
            ),
            ("norm_out overlaps x", lambda: fused(x, residual=residual, gamma=gamma, norm_out=x)),
            ("is not a pattern", lambda: fused(x, pattern="sum", residual=residual, gamma=gamma)),
        ]
        for message, call in cases:
            with pytest.raises(arbiter.InvalidArgument, match=message):
                call()
        assert (x == 1).all() and (residual == 1).all()
        assert all(entry["count"] == 0 for entry in communicator.stats()["calls"])


def test_options_are_refused_with_the_library_s_words():
    with pytest.raises(arbiter.InvalidArgument, match="backend"):
        Communicator.in_process(1, backend="fastest")
    with pytest.raises(arbiter.DatabaseError):
        Communicator.in_process(1, decisions="/nowhere/table.jsonl")
    with pytest.raises(arbiter.DatabaseError):
        Communicator.in_process(1, decisions=b"not a database")
    with pytest.raises(arbiter.InvalidArgument, match="device"):
        Communicator.in_process(1, device="tpu")
    with pytest.raises(arbiter.InvalidArgument, match="timeout"):
        Communicator.in_process(1, timeout=-1)
    with pytest.raises(TypeError):
        Communicator.in_process(1, colour="red")
    with pytest.raises(arbiter.InvalidArgument, match="a group of 0"):
        Communicator.in_process(0)


def test_asking():
    def work(communicator):
        communicator.prepare(PLAIN)
        assert communicator.can_use("allreduce", "fp32", HIDDEN, MAX_TOKENS)
        assert not communicator.can_use("allreduce", "fp32", HIDDEN, MAX_TOKENS + 1)
        why = communicator.explain("allreduce", np.float32, HIDDEN, 4)
        assert why["backend"] == "trtllm" and why["candidate"].startswith("trtllm/")
        with pytest.raises(arbiter.Unsupported):
            communicator.explain("allreduce", "bf16", HIDDEN, 4)
        for _ in range(3):
            communicator.all_reduce(np.ones((4, HIDDEN), np.float32))
        (entry,) = communicator.stats()["calls"]
        assert (entry["pattern"], entry["dtype"], entry["count"]) == ("allreduce", "fp32", 3)
        assert communicator.workspace_bytes > 0

    with Communicator.in_process(2, backend="trtllm") as ranks:
        ranks.run(work)


def test_log_goes_to_the_program():
    lines = []
    with Communicator.in_process(
        1, log_level="info", log=lambda level, text: lines.append((level, text))
    ):
        pass
    assert lines and all(level in ("info", "warn") and text for level, text in lines)


class Meeting:
    """A process group of threads, in plain Python."""

    def __init__(self, size):
        self.size, self.slots = size, [b""] * size
        self.barrier = threading.Barrier(size, timeout=30)

    def allgather(self, rank, data):
        self.slots[rank] = data
        self.barrier.wait()
        parts = list(self.slots)
        self.barrier.wait()
        return parts

    def create(self, rank, **options):
        return Communicator.from_callbacks(
            rank,
            self.size,
            lambda data: self.allgather(rank, data),
            lambda data, root: self.allgather(rank, data)[root],
            lambda: self.barrier.wait(),
            device="cpu",
            **options,
        )


def in_threads(size, function):
    results, threads = [None] * size, []

    def run(rank):
        try:
            results[rank] = function(rank)
        except BaseException as error:
            results[rank] = error

    for rank in range(size):
        threads.append(threading.Thread(target=run, args=(rank,)))
        threads[-1].start()
    for thread in threads:
        thread.join(60)
    return results


def test_a_program_s_own_group():
    meeting = Meeting(3)

    def work(rank):
        with meeting.create(rank) as communicator:
            communicator.prepare(PLAIN)
            return communicator.all_reduce(inputs(rank, (4, HIDDEN)))

    for result in in_threads(3, work):
        assert np.array_equal(result, total(3, (4, HIDDEN)))


def test_ranks_that_ask_for_different_things_are_told():
    meeting = Meeting(2)

    def work(rank):
        with meeting.create(rank) as communicator:
            communicator.prepare(PLAIN._replace(hidden=HIDDEN * (rank + 1)))

    assert all(isinstance(result, arbiter.Disagreement) for result in in_threads(2, work))


def test_what_a_callback_raises_is_the_cause():
    class Lost(Exception):
        pass

    def lost(*_):
        raise Lost("the network is gone")

    with pytest.raises(arbiter.DeviceError, match="callback failed") as caught:
        Communicator.from_callbacks(0, 2, lost, lost, lost, device="cpu")
    assert isinstance(caught.value.__cause__, Lost)
    with pytest.raises(arbiter.DeviceError) as caught:
        Communicator.from_callbacks(0, 2, lambda data: [data], lost, lambda: None, device="cpu")
    assert "allgather returned parts" in str(caught.value.__cause__)


def test_a_rank_that_does_not_come_poisons_the_others():
    def work(communicator):
        communicator.prepare(PLAIN)
        if communicator.rank == 1:
            return None
        started = time.monotonic()
        for call in (
            lambda: communicator.all_reduce(np.ones((4, HIDDEN), np.float32)),
            communicator.check,
        ):
            with pytest.raises(arbiter.Poisoned, match="rank 0 waited .* for rank 1"):
                call()
        assert time.monotonic() - started < 20
        return True

    with Communicator.in_process(2, timeout=0.5, first_timeout=0.5, nccl=False) as ranks:
        assert ranks.run(work)[0]


def test_the_failure_of_one_rank_is_raised_and_frees_the_others():
    def work(communicator):
        communicator.prepare(PLAIN)
        if communicator.rank == 1:
            raise KeyError("mine")
        communicator.all_reduce(np.ones((4, HIDDEN), np.float32))
        communicator.check()

    started = time.monotonic()
    with Communicator.in_process(2, timeout=60) as ranks:
        with pytest.raises(KeyError, match="mine"):
            ranks.run(work)
    assert time.monotonic() - started < 30


def test_leaving_with_an_exception_frees_the_others():
    meeting = Meeting(2)

    def work(rank):
        with meeting.create(rank, timeout=60) as communicator:
            communicator.prepare(PLAIN)
            if rank == 1:
                raise KeyError("mine")
            communicator.all_reduce(np.ones((4, HIDDEN), np.float32))

    started = time.monotonic()
    results = in_threads(2, work)
    assert isinstance(results[0], arbiter.Poisoned) and isinstance(results[1], KeyError), results
    assert time.monotonic() - started < 30


def test_a_closed_communicator_refuses():
    ranks = Communicator.in_process(1)
    communicator = ranks[0]
    ranks.close()
    communicator.close()
    assert "closed" in repr(communicator)
    for call in (
        communicator.stats,
        communicator.check,
        lambda: communicator.prepare(PLAIN),
        lambda: communicator.all_reduce(np.ones(4, np.float32)),
    ):
        with pytest.raises(arbiter.InvalidArgument, match="closed"):
            call()


def test_one_that_is_forgotten_is_warned_about():
    ranks = Communicator.in_process(1)
    pointer = ranks[0]._pointer
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        library = ranks[0]._library
        del ranks[0]
    assert any(issubclass(warning.category, ResourceWarning) for warning in caught)
    library.arbiter_destroy(pointer)


def test_from_env_of_a_single_rank(monkeypatch):
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29555",
    }.items():
        monkeypatch.setenv(name, value)
    with Communicator.from_env() as communicator:
        assert (communicator.rank, communicator.size, communicator.device) == (0, 1, "cpu")
        communicator.prepare(PLAIN)
        assert (communicator.all_reduce(np.ones(HIDDEN, np.float32)) == 1).all()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(arbiter.Unavailable, match="NCCL"):
        Communicator.from_env()


def test_nccl_that_is_not_there():
    def work(communicator):
        with pytest.raises(arbiter.Unsupported, match="the CPU device has no NCCL"):
            communicator.prepare_nccl("fp32", 1 << 20)
        with pytest.raises(arbiter.InvalidArgument, match="max_count is 0"):
            communicator.prepare_nccl(np.float32, 0)

    with Communicator.in_process(2) as ranks:
        ranks.run(work)


WHERE_FILES_MAY_NOT_GROW = """
import resource, signal
import numpy as np
import arbiter

signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # as in a program that embeds Python
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
family = arbiter.Family("allreduce", "fp32", 64, 1 << 16)

def prepare(communicator):
    communicator.prepare(family)

def work(communicator):
    communicator.prepare(family)
    assert communicator.all_reduce(np.ones(64, np.float32))[0] == 2

with arbiter.Communicator.in_process(2) as ranks:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        ranks.run(prepare)
    except arbiter.ArbiterError as error:
        print(type(error).__name__, error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_DFL
with arbiter.Communicator.in_process(2) as ranks:
    ranks.run(work)
print("lives")
"""


def test_a_limit_on_files_is_an_exception():
    done = subprocess.run(
        [sys.executable, "-c", WHERE_FILES_MAY_NOT_GROW],
        env={**os.environ, "PYTHONPATH": str(Path(arbiter.__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert "File too large" in done.stdout and done.stdout.endswith("lives\n"), done.stdout
