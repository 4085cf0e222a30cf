"""One decode step of a transformer with random weights, tensor-parallel, in a CUDA graph: whose allreduce is fastest.

    torchrun --nproc-per-node 4 bench/decode.py --json decode.json
    torchrun --nproc-per-node 2 bench/decode.py --models qwen3-32b --batches 1 --decisions table.jsonl

Needs PyTorch and libarbiter.so (ARBITER_LIBRARY), nothing else. The models have the layers, widths, heads, experts and
vocabulary of the real ones; they leave out what every row would share anyway (rotary embedding, norms of q and k). To fit
in memory, `--distinct-layers` of them have weights of their own, and the others use these again in turns; each layer is
far larger than the L2 cache. Attention reads a full ring of `--context` positions, where each step replaces one.

Rows: how a layer's two allreduces, residual additions and RMSNorms are done, and the one after the embedding.
  nccl                NCCL, torch add, torch rms_norm
  arbiter-plain       Arbiter's allreduce in NCCL's place, the rest as above
  arbiter-trtllm, arbiter-mnnvl, arbiter-auto    Arbiter's fused kernels, of one backend or of any
  flashinfer-trtllm   FlashInfer's fused kernel, where it is installed

Time: rows take turns, `--rounds` times; a round is `--steps` replays; the slowest rank counts; the median of rounds.
Check: greedy tokens and logits of `--check-steps` steps from the same start, beside the same model with sums in fp32 over
NCCL. The gap is the largest difference of any logit while the tokens are still equal. A row is wrong (exit status 1) if
its gap at the first step is more than 3 times NCCL's and more than 2% of the largest logit.
"""

import argparse
import gc
import json
import os
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F

sys.path.append(str(Path(__file__).resolve().parents[1] / "python"))  # an installed package comes first


@dataclass(frozen=True)
class Shape:
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    experts: int = 0
    top_k: int = 0


MODELS = {
    "qwen3-30b-a3b": Shape(2048, 48, 32, 4, 128, 768, 151936, 128, 8),
    "qwen3-32b": Shape(5120, 64, 64, 8, 128, 25600, 151936),
    "llama-70b": Shape(8192, 80, 64, 8, 128, 28672, 128256),
    "tiny": Shape(128, 3, 4, 4, 32, 256, 512),
    "tiny-moe": Shape(128, 3, 4, 4, 32, 64, 512, 8, 2),
}
EPS = 1e-6


class Context:
    """Where this rank is, and what all ranks know."""

    def __init__(self, device: str):
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.cuda = device == "cuda"
        self.device = torch.device("cuda", torch.cuda.current_device()) if self.cuda else torch.device("cpu")
        self.dtype = torch.bfloat16

    def slowest(self, value: float) -> float:
        tensor = torch.tensor([value], device=self.device, dtype=torch.float64)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return tensor.item()

    def everywhere(self, good: bool) -> bool:
        return self.slowest(0.0 if good else 1.0) == 0.0

    def synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def say(self, text: str) -> None:
        if self.rank == 0:
            print(text, flush=True)


# ---- Rows ---------------------------------------------------------------------------------------------------------------


class Unfused:
    """Any allreduce, then PyTorch's kernels. A row has: plain(x), the sum, perhaps in x; and
    fused(x, residual, gamma), which gives the norm of the new residual, and changes residual."""

    def __init__(self, plain):
        self.plain = plain

    def fused(self, x, residual, gamma):
        residual.add_(self.plain(x))
        return F.rms_norm(residual, (residual.shape[-1],), gamma, EPS)


def nccl(x):
    dist.all_reduce(x)
    return x


def exact(x):
    wide = x.float()
    dist.all_reduce(wide)
    return wide.to(x.dtype)


class Arbiter:
    def __init__(self, communicator):
        self.communicator = communicator

    def plain(self, x):
        return self.communicator.all_reduce(x, out=x)

    def fused(self, x, residual, gamma):
        return self.communicator.all_reduce_fused(
            x, residual=residual, gamma=gamma, eps=EPS, residual_out=residual
        ).norm_out


class FlashInfer:
    def __init__(self, context, hidden, tokens):
        import flashinfer.comm as comm

        self.comm = comm
        self.workspace = comm.create_allreduce_fusion_workspace(
            backend="trtllm",
            world_size=context.world,
            rank=context.rank,
            max_token_num=max(tokens, 16),
            hidden_dim=hidden,
            dtype=context.dtype,
        )

    def plain(self, x):
        return self.comm.allreduce_fusion(
            x, self.workspace, self.comm.AllReduceFusionPattern.kAllReduce, launch_with_pdl=True, fp32_acc=True
        )

    def fused(self, x, residual, gamma):
        norm = torch.empty_like(x)
        self.comm.allreduce_fusion(
            x,
            self.workspace,
            self.comm.AllReduceFusionPattern.kARResidualRMSNorm,
            launch_with_pdl=True,
            fp32_acc=True,
            residual_in=residual,
            residual_out=residual,
            norm_out=norm,
            rms_gamma=gamma,
            rms_eps=EPS,
        )
        return norm


def make_communicators(context, hiddens, tokens, options):
    """{backend: communicator or the reason why there is none}; collective."""
    import arbiter

    made = {}
    for backend in ("auto", "trtllm", "mnnvl"):
        communicator = None
        try:
            communicator = arbiter.Communicator.from_torch(backend=backend, decisions=options.decisions or None)
            communicator.prepare(
                *[
                    arbiter.Family(pattern, context.dtype, hidden, tokens)
                    for hidden in hiddens
                    for pattern in ("allreduce", "allreduce_residual_rmsnorm")
                ]
            )
            reason = ""
        except arbiter.ArbiterError as error:
            reason = f"{type(error).__name__}: {error}"
        if context.everywhere(not reason):
            made[backend] = communicator
            continue
        made[backend] = reason or "another rank failed"
        context.say(f"arbiter, {backend}: {made[backend]}")
        if communicator is not None:
            communicator.abort()
            communicator.close()
    return made


def make_rows(context, communicators, shape, batch):
    rows = {"nccl": Unfused(nccl)}
    for backend, communicator in communicators.items():
        if isinstance(communicator, str):
            rows[f"arbiter-{backend}"] = communicator
            continue
        row = Arbiter(communicator)
        if backend == "auto":
            rows["arbiter-plain"] = Unfused(row.plain)
        rows[f"arbiter-{backend}"] = row
    if context.cuda:
        reason = ""
        try:
            rows["flashinfer-trtllm"] = FlashInfer(context, shape.hidden, batch)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
        if not context.everywhere(not reason):
            rows["flashinfer-trtllm"] = reason or "another rank failed"
    return rows


# ---- The model ----------------------------------------------------------------------------------------------------------


class Model:
    """This rank's shard, and the state of a decode: tokens, the ring of keys and values, the number of steps done."""

    def __init__(self, context, shape, batch, options):
        self.context, self.shape, self.batch = context, shape, batch
        world = context.world
        if shape.heads % world or shape.kv_heads % world or shape.vocabulary % world or shape.intermediate % world:
            raise SystemExit(f"{shape} cannot be split over {world} ranks")
        self.heads, self.kv_heads = shape.heads // world, shape.kv_heads // world
        self.rows = shape.vocabulary // world
        shard, replicated = torch.Generator(context.device), torch.Generator(context.device)
        shard.manual_seed(1 + context.rank)
        replicated.manual_seed(0)

        def weight(*extent, fan_in, generator=shard):
            made = torch.empty(extent, device=context.device, dtype=context.dtype)
            return made.normal_(0, fan_in**-0.5, generator=generator)

        hidden, wide = shape.hidden, shape.intermediate // world
        self.layers = []
        for _ in range(min(options.distinct_layers, shape.layers)):
            layer = {
                "qkv": weight((self.heads + 2 * self.kv_heads) * shape.head_dim, hidden, fan_in=hidden),
                "out": weight(hidden, self.heads * shape.head_dim, fan_in=shape.heads * shape.head_dim),
            }
            if shape.experts:
                layer["router"] = weight(shape.experts, hidden, fan_in=hidden, generator=replicated)
                layer["up"] = weight(shape.experts, hidden, 2 * wide, fan_in=hidden)
                layer["down"] = weight(shape.experts, wide, hidden, fan_in=shape.intermediate)
            else:
                layer["up"] = weight(2 * wide, hidden, fan_in=hidden)
                layer["down"] = weight(hidden, wide, fan_in=shape.intermediate)
            for name in ("norm1", "norm2"):
                layer[name] = 1 + weight(hidden, fan_in=100, generator=replicated)
            self.layers.append(layer)
        self.embedding = weight(self.rows, hidden, fan_in=1)
        self.head = weight(self.rows, hidden, fan_in=hidden)
        extent = (min(options.distinct_layers, shape.layers), 2, batch, self.kv_heads, options.context, shape.head_dim)
        self.ring_start = weight(*extent, fan_in=1)
        self.ring = self.ring_start.clone()
        self.start = torch.randint(0, shape.vocabulary, (batch,), generator=torch.Generator().manual_seed(7)).to(
            context.device
        )
        self.tokens = self.start.clone()
        self.position = torch.zeros(1, dtype=torch.long, device=context.device)
        self.logits = torch.zeros(batch, self.rows, device=context.device, dtype=torch.float32)
        self.grouped = self._grouped_works() if shape.experts else False

    def reset(self):
        self.ring.copy_(self.ring_start)
        self.tokens.copy_(self.start)
        self.position.zero_()

    def step(self, row):
        """Decodes one token for every sequence: tokens, ring, position and logits change in place."""
        shape = self.shape
        local = self.tokens - self.context.rank * self.rows
        mine = (local >= 0) & (local < self.rows)
        x = self.embedding[local.clamp(0, self.rows - 1)] * mine[:, None]
        residual = row.plain(x)
        if residual is x:
            residual = x.clone()
        x = F.rms_norm(residual, (shape.hidden,), self.layers[0]["norm1"], EPS)
        for index in range(shape.layers):
            layer = self.layers[index % len(self.layers)]
            after = self.layers[(index + 1) % len(self.layers)]
            x = row.fused(self._attention(x, layer, self.ring[index % len(self.layers)]), residual, layer["norm2"])
            x = row.fused(self._experts(x, layer) if shape.experts else self._dense(x, layer), residual, after["norm1"])
        self.logits.copy_(F.linear(x, self.head))
        best, which = self.logits.max(-1)
        mine = torch.stack([best, (which + self.context.rank * self.rows).float()], -1)
        everyone = mine.new_empty(self.context.world, self.batch, 2)
        dist.all_gather_into_tensor(everyone.view(-1), mine.view(-1))
        winner = everyone[:, :, 0].argmax(0)
        self.tokens.copy_(everyone[winner, torch.arange(self.batch, device=winner.device), 1])
        self.position.add_(1)

    def _attention(self, x, layer, ring):
        batch, dim = self.batch, self.shape.head_dim
        q, k, v = F.linear(x, layer["qkv"]).view(batch, -1, dim).split([self.heads, self.kv_heads, self.kv_heads], 1)
        place = self.position % ring.shape[3]
        ring[0].index_copy_(2, place, k.unsqueeze(2))
        ring[1].index_copy_(2, place, v.unsqueeze(2))
        out = F.scaled_dot_product_attention(q.unsqueeze(2), ring[0], ring[1], enable_gqa=self.heads != self.kv_heads)
        return F.linear(out.reshape(batch, -1), layer["out"])

    @staticmethod
    def _gated(x):
        gate, up = x.chunk(2, -1)
        return F.silu(gate) * up

    def _dense(self, x, layer):
        return F.linear(self._gated(F.linear(x, layer["up"])), layer["down"])

    def _experts(self, x, layer):
        shape = self.shape
        weights, chosen = F.linear(x, layer["router"]).float().softmax(-1).topk(shape.top_k, -1)
        weights = (weights / weights.sum(-1, keepdim=True)).to(x.dtype)
        if not self.grouped:
            rows = x[:, None, None, :]
            hidden = self._gated(torch.matmul(rows, layer["up"][chosen]))
            return (torch.matmul(hidden, layer["down"][chosen]).squeeze(2) * weights[:, :, None]).sum(1)
        order = chosen.view(-1).argsort(stable=True)
        counts = (chosen.view(-1, 1) == torch.arange(shape.experts, device=x.device)).sum(0)
        ends = counts.cumsum(0).to(torch.int32)
        rows = x[order // shape.top_k]
        rows = torch._grouped_mm(self._gated(torch._grouped_mm(rows, layer["up"], offs=ends)), layer["down"], offs=ends)
        out = torch.empty_like(rows)
        out[order] = rows
        return (out.view(-1, shape.top_k, shape.hidden) * weights[:, :, None]).sum(1)

    def _grouped_works(self):
        """Does this PyTorch multiply rows by experts without copying their weights, and get it right?"""
        good = False
        if hasattr(torch, "_grouped_mm"):
            x = self.embedding[: self.batch] / 4
            try:
                self.grouped = False
                expected = self._experts(x, self.layers[0])
                self.grouped = True
                good = torch.allclose(self._experts(x, self.layers[0]).float(), expected.float(), rtol=0.1, atol=0.1)
            except (RuntimeError, NotImplementedError):
                good = False
        return self.context.everywhere(good)


# ---- Measuring ----------------------------------------------------------------------------------------------------------


def captured(context, model, row):
    """A function that does one step with this row."""
    if not context.cuda:
        return lambda: model.step(row)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            model.step(row)
    torch.cuda.synchronize()
    dist.barrier()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        model.step(row)
    return graph.replay


def trace(context, model, step, steps):
    """Tokens [steps, batch] and this rank's logits [steps, batch, rows], from the start."""
    model.reset()
    tokens, logits = [], []
    for _ in range(steps):
        step()
        tokens.append(model.tokens.clone())
        logits.append(model.logits.clone())
    context.synchronize()
    return torch.stack(tokens), torch.stack(logits)


def compare(context, ours, reference):
    """How far tokens are equal, and how far logits are apart until then."""
    same = (ours[0] == reference[0]).all(-1)
    equal = int(same.long().cumprod(0).sum())
    gaps = (ours[1] - reference[1]).abs().flatten(1).max(1).values
    until = min(equal, len(gaps) - 1)  # the logits of the step that parts still come from equal tokens
    result = {
        "first_gap": context.slowest(gaps[0].item()),
        "gap": context.slowest(gaps[: until + 1].max().item()),
        "equal_steps": equal,
        "steps": len(same),
    }
    if equal < len(same):
        result["parted_at"] = equal
    if not all(torch.isfinite(logits).all() for logits in (ours[1], reference[1])):
        result["first_gap"] = result["gap"] = float("inf")
    return result


def timed(context, model, step, steps):
    model.reset()
    dist.barrier()
    context.synchronize()
    if context.cuda:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(steps):
            step()
        end.record()
        end.synchronize()
        elapsed = begin.elapsed_time(end) * 1000
    else:
        began = time.perf_counter()
        for _ in range(steps):
            step()
        elapsed = (time.perf_counter() - began) * 1e6
    return context.slowest(elapsed / steps)


def run_case(context, name, shape, batch, communicators, options):
    model = Model(context, shape, batch, options)
    rows = make_rows(context, communicators, shape, batch)
    reference = trace(context, model, captured(context, model, Unfused(exact)), options.check_steps)
    results, steps = {}, {}
    for label, row in rows.items():
        if isinstance(row, str):
            results[label] = {"row": label, "unavailable": row}
            continue
        steps[label] = captured(context, model, row)
        ours = trace(context, model, steps[label], options.check_steps)
        again = trace(context, model, steps[label], options.check_steps)
        results[label] = {
            "row": label,
            **compare(context, ours, reference),
            "repeats": context.everywhere(torch.equal(ours[1], again[1])),
        }
        del ours, again
    largest = context.slowest(reference[1][0].abs().max().item())
    samples = {label: [] for label in steps}
    for _ in range(options.rounds):
        for label, step in steps.items():
            samples[label].append(timed(context, model, step, options.steps))
    for label, row in rows.items():
        if isinstance(row, Arbiter) or label == "arbiter-plain":
            communicators["auto" if label == "arbiter-plain" else label.split("-")[1]].check()
    base = statistics.median(samples["nccl"])
    ok = True
    for label, times in samples.items():
        result = results[label]
        median = statistics.median(times)
        result.update(
            us_per_token=median,
            tokens_per_s=batch * 1e6 / median,
            speedup=base / median,
            spread=(max(times) - min(times)) / median,
            wrong=not (result["first_gap"] <= max(3 * results["nccl"]["first_gap"], 0.02 * largest)),
        )
        ok = ok and not result["wrong"]
    context.say(
        f"\n{name}, TP {context.world}, batch {batch}"
        + ("" if model.grouped or not shape.experts else ", expert weights copied (no grouped_mm)")
    )
    context.say(f"  {'row':<20}{'us/token':>10}{'tokens/s':>11}{'speedup':>9}  {'gap':>8}  equal tokens")
    for result in results.values():
        if "unavailable" in result:
            context.say(f"  {result['row']:<20}  unavailable: {result['unavailable'].splitlines()[0][:90]}")
            continue
        context.say(
            f"  {result['row']:<20}{result['us_per_token']:>10.1f}{result['tokens_per_s']:>11.1f}"
            f"{result['speedup']:>8.3f}x  {result['gap']:>8.4f}  {result['equal_steps']} of {result['steps']}"
            + ("  WRONG" if result["wrong"] else "")
        )
    kinds = {}
    for backend, communicator in communicators.items():
        if not isinstance(communicator, str):
            kinds[backend] = {
                pattern: communicator.explain(pattern, context.dtype, shape.hidden, batch)["candidate"]
                for pattern in ("allreduce", "allreduce_residual_rmsnorm")
            }
    case = {
        "model": name,
        "shape": asdict(shape),
        "batch": batch,
        "largest_logit": largest,
        "grouped_mm": model.grouped,
        "candidates": kinds,
        "rows": list(results.values()),
    }
    for row in rows.values():
        if isinstance(row, FlashInfer):
            row.workspace.destroy()
    return case, ok


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="qwen3-30b-a3b,qwen3-32b,llama-70b", help=f"of {', '.join(MODELS)}")
    parser.add_argument("--batches", default="1,16")
    parser.add_argument("--context", type=int, default=1024, help="positions that attention reads")
    parser.add_argument("--distinct-layers", type=int, default=8)
    parser.add_argument("--steps", type=int, default=50, help="replays of a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--check-steps", type=int, default=32)
    parser.add_argument("--decisions", default="", help="what `arbiter tune` wrote; default: ARBITER_DB")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu: one rank, to try the program")
    parser.add_argument("--json", help="write the results here (rank 0)")
    options = parser.parse_args()
    for model in options.models.split(","):
        if model not in MODELS:
            parser.error(f"no model '{model}'; expected of {', '.join(MODELS)}")
    cuda = options.device == "cuda"
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if cuda else "gloo")
    context = Context(options.device)
    started = time.monotonic()
    batches = [int(batch) for batch in options.batches.split(",")]
    cases, good = [], True
    with torch.inference_mode():
        hiddens = sorted({MODELS[model].hidden for model in options.models.split(",")})
        communicators = make_communicators(context, hiddens, max(batches), options)
        for name in options.models.split(","):
            for batch in batches:
                case, ok = run_case(context, name, MODELS[name], batch, communicators, options)
                cases.append(case)
                good = good and ok
                gc.collect()
                if cuda:
                    torch.cuda.empty_cache()
                if context.rank == 0 and options.json:  # after every case: what is measured is kept
                    import arbiter

                    Path(options.json).write_text(
                        json.dumps(
                            {
                                "schema": 1,
                                "command": " ".join(sys.argv),
                                "world": context.world,
                                "gpu": torch.cuda.get_device_name() if cuda else "cpu",
                                "torch": torch.__version__,
                                "nccl": ".".join(map(str, torch.cuda.nccl.version())) if cuda else "",
                                "arbiter": arbiter.library_version(),
                                "context": options.context,
                                "distinct_layers": options.distinct_layers,
                                "steps": options.steps,
                                "rounds": options.rounds,
                                "seconds": round(time.monotonic() - started, 1),
                                "cases": cases,
                            },
                            indent=2,
                        )
                        + "\n"
                    )
        for communicator in communicators.values():
            if not isinstance(communicator, str):
                communicator.close()
    dist.destroy_process_group()
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()
