"""The short way for PyTorch's tensors gives the library what the long way gives it, and leaves it
what is wrong."""

import dataclasses
import shutil

import pytest

torch = pytest.importorskip("torch")
if shutil.which("c++") is None:
    pytest.skip("no C++ compiler", allow_module_level=True)

import null_library  # noqa: E402

import arbiter  # noqa: E402
from arbiter import Family, _abi, _arrays, _fused, _objects, _quick  # noqa: E402

HIDDEN, GPU, STREAM = 32, 2, 77
PATTERNS = (
    "allreduce_residual",
    "allreduce_rmsnorm",
    "allreduce_residual_rmsnorm",
    "allreduce_residual_layernorm",
)
POINTERS = (
    "input",
    "residual_in",
    "residual_out",
    "gamma",
    "norm_out",
    "output",
    "quant_out",
    "scale_in",
    "scale_out",
)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return null_library.build(tmp_path_factory.mktemp("null"))


@pytest.fixture
def communicator(library, monkeypatch):
    """CPU tensors of 2 bytes an element are taken for tensors on GPU 2, others for those of another
    GPU."""
    long_way = _arrays._of_torch

    def as_if_on_gpu(x, *more):
        return dataclasses.replace(long_way(x, *more), device="cuda", index=x.element_size())

    monkeypatch.setattr(_arrays, "_of_torch", as_if_on_gpu)
    monkeypatch.setattr(_quick, "_gpu", torch.Tensor.element_size)
    made = null_library.communicator(library, GPU)
    made.prepare(Family("allreduce", torch.bfloat16, HIDDEN, 8))
    for pattern in PATTERNS:
        made.prepare(
            Family(pattern, torch.bfloat16, HIDDEN, 8), Family(pattern, torch.bfloat16, HIDDEN, 2)
        )
    with torch.no_grad():
        yield made
    made.close()


WAYS = ["python", "library"]
if _objects.table() is None:
    WAYS.remove("library")  # this PyTorch lends no table


def short_way(way, library, communicator):
    """The library reads CPU tensors as it reads those of a GPU; there is one CPU."""
    if way == "python":
        return _quick.Quick(communicator)
    made = _objects.Objects(communicator, _objects.table(), _objects.functions(library))
    cpu = 1

    def calls(original=made._calls):
        ready = original()
        ready.struct.device_type, ready.struct.device_id = cpu, 0
        return ready

    made._calls = calls
    made._plain = calls()
    return made


@pytest.fixture(params=WAYS)
def quick(request, library, communicator):
    return short_way(request.param, library, communicator)


def tensor(*shape, dtype=torch.bfloat16):
    return torch.zeros(shape, dtype=dtype)


def both_ways(library, communicator, quick, monkeypatch, call):
    """What the library was given, the long way and the short way, which must have been taken."""
    communicator._quick = None
    with monkeypatch.context() as patch:
        patch.setattr(communicator, "_make_quick", lambda x: None)
        call()
    long = null_library.kept(library)
    long = type(long).from_buffer_copy(long)
    communicator._quick = quick
    with monkeypatch.context() as patch:
        patch.setattr(_fused, "run", lambda *_, **__: pytest.fail("the long way was taken"))
        patch.setattr(_arrays, "view", lambda *_, **__: pytest.fail("the long way was taken"))
        call()
    now = null_library.kept(library)
    assert now.calls == long.calls + 1
    return long, now


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize(
    "shape", [(HIDDEN,), (2, HIDDEN), (3, HIDDEN), (2, 4, HIDDEN), (0, HIDDEN)]
)
def test_the_same_call(library, communicator, quick, monkeypatch, pattern, shape):
    x, residual, norm, summed = (tensor(*shape) for _ in range(4))
    arguments = {"pattern": pattern, "stream": STREAM, "eps": 1e-3, "weight_bias": 1.0}
    if "residual" in pattern:
        arguments.update(residual=residual, residual_out=residual if len(shape) == 2 else summed)
    if "norm" in pattern:
        arguments.update(gamma=torch.nn.Parameter(tensor(HIDDEN)), norm_out=norm)
    long, short = both_ways(
        library, communicator, quick, monkeypatch, lambda: communicator.all_reduce_fused(x, **arguments)
    )
    for name, *_ in _abi.Tensors._fields_:
        if name != "moe_weights_fp32":
            assert getattr(short.tensors, name) == getattr(long.tensors, name), name
    assert (short.handle, short.count, short.stream) == (long.handle, long.count, STREAM)
    done = communicator.all_reduce_fused(x, **arguments)
    assert done.residual_out is arguments.get("residual_out") and done.norm_out is arguments.get(
        "norm_out"
    )
    assert done.output is done.quant_out is done.scale_out is None


@pytest.mark.parametrize("shape", [(HIDDEN,), (131,), (2, 4, HIDDEN), (0, HIDDEN)])
def test_the_same_sum(library, communicator, quick, monkeypatch, shape):
    x, out = tensor(*shape), tensor(*shape)
    for target in (out, x):
        long, short = both_ways(
            library,
            communicator,
            quick,
            monkeypatch,
            lambda: communicator.all_reduce(x, out=target, stream=STREAM),
        )
        for name in ("input", "output", "count", "code", "stream"):
            assert getattr(short, name) == getattr(long, name), name
    fresh = communicator.all_reduce(x, stream=STREAM)
    assert fresh.shape == x.shape and fresh.dtype == x.dtype
    assert null_library.kept(library).output == (fresh.data_ptr() or None)


def test_new_places(library, communicator, quick):
    communicator._quick = quick
    x, residual, gamma = tensor(3, HIDDEN), tensor(3, HIDDEN), tensor(HIDDEN)
    done = communicator.all_reduce_fused(x, residual=residual, gamma=gamma, stream=STREAM)
    given = null_library.kept(library).tensors
    assert (given.residual_out, given.norm_out) == (
        done.residual_out.data_ptr(),
        done.norm_out.data_ptr(),
    )
    assert (
        len(
            {
                x.data_ptr(),
                residual.data_ptr(),
                done.residual_out.data_ptr(),
                done.norm_out.data_ptr(),
            }
        )
        == 4
    )
    assert done.norm_out.shape == x.shape and done.norm_out.dtype == x.dtype


class Wrapped(torch.Tensor):
    pass


def wrong_tensors():
    good = {"x": tensor(3, HIDDEN), "residual": tensor(3, HIDDEN), "gamma": tensor(HIDDEN)}
    good.update(residual_out=tensor(3, HIDDEN), norm_out=tensor(3, HIDDEN))
    for name, value in good.items():
        yield name, value.as_subclass(Wrapped), good
        yield name, tensor(*value.shape[:-1], 2 * HIDDEN)[..., ::2], good
        yield name, tensor(5, HIDDEN) if value.dim() == 2 else tensor(HIDDEN + 1), good
        yield name, value.to(torch.float16 if name != "gamma" else torch.int32), good
        yield name, value.to_sparse(), good
        yield name, value.to("meta"), good
        yield name, "a string", good
    yield "residual", None, good
    yield "gamma", None, good
    yield "norm_out", False, good
    yield "x", tensor(9, HIDDEN), {
        **good,
        **{name: tensor(9, HIDDEN) for name in good if name != "gamma"},
    }


@pytest.mark.parametrize("case", range(len(list(wrong_tensors()))))
def test_what_is_wrong_is_refused_as_ever(library, communicator, quick, monkeypatch, case):
    name, value, good = list(wrong_tensors())[case]
    arguments = {**good, name: value}
    x = arguments.pop("x")
    monkeypatch.setattr(_quick, "_gpu", lambda t: -1 if t.is_meta else GPU)
    calls = null_library.kept(library).calls
    messages = []
    for way in (None, quick):
        communicator._quick = way
        with pytest.raises((arbiter.ArbiterError, AttributeError)) as caught:
            communicator.all_reduce_fused(x, stream=STREAM, **arguments)
        messages.append(str(caught.value))
    assert messages[0] == messages[1] and null_library.kept(library).calls == calls


def test_gradients_go_the_long_way_to_be_refused(library, communicator, quick):
    communicator._quick = quick
    with torch.enable_grad(), pytest.raises(arbiter.InvalidArgument, match="requires a gradient"):
        communicator.all_reduce(tensor(3, HIDDEN).requires_grad_(), stream=STREAM)


def test_another_gpu_and_a_closed_communicator(library, communicator, quick):
    communicator._quick = quick
    if isinstance(quick, _objects.Objects):
        quick._plain.struct.device_id = GPU  # and all tensors are on 0
    with pytest.raises(arbiter.InvalidArgument, match="cuda:4"):  # fp32: 4 bytes an element
        communicator.all_reduce(tensor(3, HIDDEN, dtype=torch.float32), stream=STREAM)
    communicator.close()
    with pytest.raises(arbiter.InvalidArgument, match="closed"):
        communicator.all_reduce(tensor(3, HIDDEN), stream=STREAM)


def test_what_is_prepared_later_is_found(library, communicator, quick):
    communicator._quick = quick
    arguments = {"residual": tensor(16, HIDDEN), "gamma": tensor(HIDDEN), "stream": STREAM}
    with pytest.raises(arbiter.Unsupported, match="only up to 8 rows"):
        communicator.all_reduce_fused(tensor(16, HIDDEN), **arguments)
    communicator.prepare(Family("allreduce_residual_rmsnorm", torch.bfloat16, HIDDEN, 16))
    assert communicator._quick is quick
    communicator.all_reduce_fused(tensor(16, HIDDEN), **arguments)
    assert null_library.kept(library).count == 16
