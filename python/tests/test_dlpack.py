"""Arrays of which nothing is known but DLPack's protocol."""

import numpy as np
import pytest

import arbiter
from arbiter import Communicator, Family, _arrays


class Shown:
    """An array that another library could have made."""

    def __init__(self, array, kind=1):
        self.array, self.kind, self.shape = array, kind, array.shape

    def __dlpack__(self, stream=None):
        assert stream == (None if self.kind == 1 else -1)
        return self.array.__dlpack__()

    def __dlpack_device__(self):
        return self.kind, 3


@pytest.mark.parametrize(
    "dtype, name", [(np.float32, "fp32"), (np.float16, "fp16"), (np.int32, "int32")]
)
def test_what_is_seen(dtype, name):
    array = np.zeros((6, 4), dtype)
    seen = _arrays.view(Shown(array[2:4]), "x")
    assert seen.pointer == array.ctypes.data + 2 * 4 * array.itemsize
    assert (seen.shape, seen.dtype, seen.bytes) == ((2, 4), name, 8 * array.itemsize)
    assert (seen.device, seen.index) == ("cpu", -1)
    seen = _arrays.view(Shown(array, kind=2), "x")
    assert (seen.device, seen.index) == ("cuda", 3)


def test_what_is_refused():
    with pytest.raises(arbiter.InvalidArgument, match="x is not contiguous"):
        _arrays.view(Shown(np.zeros((4, 6), np.float32)[:, ::2]), "x")
    with pytest.raises(arbiter.InvalidArgument, match="kind 10"):
        _arrays.view(Shown(np.zeros(4, np.float32), kind=10), "x")
    with Communicator.in_process(1) as (communicator,):
        communicator.prepare(Family("allreduce", "fp32", 8, 4))
        with pytest.raises(arbiter.InvalidArgument, match="of 64 bits"):
            communicator.all_reduce(Shown(np.zeros(4)), out=Shown(np.zeros(4)))
        with pytest.raises(arbiter.InvalidArgument, match="pass the places"):
            communicator.all_reduce(Shown(np.zeros(4, np.float32)))


def test_all_reduce():
    def work(communicator):
        communicator.prepare(Family("allreduce", "fp32", 8, 4))
        array, out = np.full((4, 8), communicator.rank + 1, np.float32), np.zeros(
            (4, 8), np.float32
        )
        place = Shown(out)
        assert communicator.all_reduce(Shown(array), out=place) is place
        assert (out == 3).all() and (array == communicator.rank + 1).all()

    with Communicator.in_process(2) as ranks:
        ranks.run(work)
