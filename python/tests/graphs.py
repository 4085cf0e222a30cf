"""Graphs of compiled functions, rewritten by a pass."""

import torch
import torch.nn.functional as F
from torch._dynamo.backends.common import aot_autograd
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.fx_passes.joint_graph import joint_graph_passes


def values(seed, *shape, dtype=torch.bfloat16):
    return torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def torch_norm(x, weight, eps=1e-6):
    return F.rms_norm(x, (x.shape[-1],), weight, eps)


def rewritten(function, arguments, fusion, as_written=False):
    """What the function gives after the pass, and the program's operators. As Inductor calls it,
    without its compiler: behind its own passes on the whole graph, and (`as_written`) without."""
    operators = []

    def compile_graph(module, _):
        if not as_written:
            joint_graph_passes(module)
        fusion(module.graph)
        module.recompile()
        operators.extend(node.target for node in module.graph.nodes if node.op == "call_function")
        return module

    torch._dynamo.reset()
    backend = aot_autograd(fw_compiler=compile_graph, decompositions=select_decomp_table())
    return torch.compile(function, backend=backend, fullgraph=True)(*arguments), operators
