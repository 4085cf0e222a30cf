"""torch.distributed's backend `arbiter`, on the CPU device, with gloo in NCCL's place."""

import pytest

torch = pytest.importorskip("torch")

from processes import run  # noqa: E402

import arbiter  # noqa: E402
from arbiter import distributed  # noqa: E402

START = """
import os, sys, warnings, torch, torch.distributed as dist
import arbiter, arbiter.distributed as ours
rank, size, file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

def start(**options):
    dist.init_process_group("cpu:arbiter", init_method="file://" + file, rank=rank, world_size=size,
                            pg_options=ours.Options(device="cpu", **options))

def served():
    made = ours.communicator()
    return 0 if made is None else sum(call["count"] for call in made.stats()["calls"])

def total(tensor, **more):
    tensor = tensor * (rank + 1)
    work = dist.all_reduce(tensor, **more)
    if work is not None:
        work.wait()
    return tensor

factor = sum(range(1, size + 1))
"""
END = """
dist.barrier()
dist.destroy_process_group()
print("done", flush=True)
os._exit(0)  # some versions of gloo end a process in std::terminate() while it exits
"""

COLLECTIVES = """
import torch.distributed._functional_collectives as functional
start()
assert isinstance(dist.group.WORLD, ours.ArbiterGroup) and ours.communicator() is None
x = torch.arange(12.0).view(3, 4)
for dtype in (torch.float32, torch.bfloat16, torch.float16):
    assert torch.equal(total(x.to(dtype)), (factor * x).to(dtype))
assert torch.equal(total(x, async_op=True), factor * x)
assert served() == 4
assert torch.equal(functional.all_reduce(x, "sum", dist.group.WORLD), size * x)
compiled = torch.compile(lambda t: functional.all_reduce(t * 2, "sum", dist.group.WORLD) + 1, backend="aot_eager",
                         fullgraph=True)
assert torch.equal(compiled(x), 2 * size * x + 1)
assert served() == 6
future = dist.all_reduce(x.clone(), async_op=True).get_future()
assert torch.equal(future.wait()[0], size * x) and served() == 7

# What Arbiter does not do goes to the other backend.
assert torch.equal(total(x.long()), factor * x.long()) and torch.equal(total(x.double()), factor * x.double())
assert torch.equal(total(x, op=dist.ReduceOp.MAX), size * x)
assert total(x[:0]).shape == (0, 4)
gathered = [torch.empty(2) for _ in range(size)]
dist.all_gather(gathered, torch.full((2,), float(rank)))
assert [part[0].item() for part in gathered] == list(range(size))
root = torch.tensor([rank + 5])
dist.broadcast(root, 1)
assert root.item() == 6
objects = [None] * size
dist.all_gather_object(objects, {"rank": rank})
assert objects == [{"rank": rank} for rank in range(size)]
assert served() == 7

leaf = torch.ones(4, requires_grad=True)
with torch.no_grad():
    dist.all_reduce(leaf)
assert served() == 8 and leaf[0].item() == size

groups = [dist.new_group([0], backend="cpu:arbiter", pg_options=ours.Options(device="cpu")),
          dist.new_group(list(range(size)), backend="gloo")]
if rank == 0:
    y = torch.ones(3)
    dist.all_reduce(y, group=groups[0])
    assert torch.equal(y, torch.ones(3)) and ours.communicator(groups[0]).size == 1
assert ours.communicator(groups[1]) is None
"""

LARGE = """
start(max_bytes=4096)
assert torch.equal(total(torch.ones(1024)), torch.full((1024,), float(factor))) and served() == 1
assert torch.equal(total(torch.ones(1025)), torch.full((1025,), float(factor))) and served() == 1
"""

# One rank alone cannot make its communicator: all are served by gloo, and told why.
GIVEN_UP = """
start(communicator={"backend": "nonsense"} if rank == 1 else {})
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    assert torch.equal(total(torch.ones(4)), torch.full((4,), float(factor)))
    assert torch.equal(total(torch.ones(4)), torch.full((4,), float(factor)))
texts = [str(warning.message) for warning in said if warning.category is RuntimeWarning]
assert len(texts) == 1 and "left to the other backend: rank" in texts[0], texts
assert "nonsense" in texts[0] and "another rank failed" in texts[0], texts
assert served() == 0
"""


@pytest.mark.parametrize(
    "program", [COLLECTIVES, LARGE, GIVEN_UP], ids=["collectives", "large", "given up"]
)
def test_two_ranks(tmp_path, program):
    assert run(START + program + END, 2, tmp_path) == "done\n"


def test_options_are_looked_at():
    with pytest.raises(TypeError, match=r"expected arbiter\.distributed\.Options"):
        distributed._create(None, {"max_bytes": 3})
    assert distributed.communicator is not arbiter.Communicator
