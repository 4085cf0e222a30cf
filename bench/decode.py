"""One decode step of a transformer with random weights, tensor-parallel, in a CUDA graph: whose
allreduce is fastest.

    torchrun --nproc-per-node 4 bench/decode.py --json decode.json         # all, TP 2 and 4
    torchrun --nproc-per-node 4 bench/decode.py --quick --rows auto_fusion,flashinfer
    torchrun --nproc-per-node 2 bench/decode.py --models qwen3-32b --decisions h200.db

Needs PyTorch and libarbiter.so (ARBITER_LIBRARY), nothing else. The models have the layers, widths,
heads, experts and vocabulary of the real ones; they leave out what every row would share anyway
(rotary embedding, norms of q and k). To fit in memory, `--distinct-layers` of them have weights of
their own, and the others use these again in turns (0: every layer has its own); together they are
far larger than the L2 cache. Attention reads a full ring of `--context` positions, where each step
replaces one. With fewer ranks in a group than there are GPUs, the groups share the cases and run at
once.

Experts of MoE models are chosen by token and layer: a router of random weights is all near ties,
and the last bit of a sum would choose another model.

Rows: how a layer's two allreduces, residual additions and RMSNorms are done, and the allreduce
after the embedding.
  nccl                       NCCL, torch add, torch rms_norm
  <who> <backend>_fusion     fused kernels; the stand-alone allreduce is NCCL's
  ..._allreduce              stand-alone allreduces in NCCL's place; nothing is fused
  ..._fusion+allreduce       both
of Arbiter's trtllm, mnnvl and auto, and of FlashInfer's trtllm where it is installed.

Time: rows take turns, `--rounds` times; a round is `--steps` replays; the slowest rank counts; the
median of rounds. Check: greedy tokens and logits of `--check-steps` steps from the same start,
beside the same model with sums in fp32 over NCCL. The gap is the largest difference of any logit
while the tokens are still equal; where they part, the margin is how much the reference preferred
its own token. A row is wrong (exit status 1) if its gap at the first step is more than 3 times
NCCL's and more than 2% of the largest logit."""

import argparse
import datetime
import gc
import json
import math
import os
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

# NVLink multicast is opt-in, for NCCL and PyTorch too; both read this when they are loaded.
os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
os.environ["TORCH_SYMM_MEM_DISABLE_MULTICAST"] = "1"

import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.append(
    str(Path(__file__).resolve().parents[1] / "python")
)  # an installed package comes first

from transformer.context import Context
from transformer.model import MODELS, Model
from transformer.rows import FlashInfer, Row, make_communicators, make_rows, reference

Step = Callable[[], None]


def captured(context: Context, model: Model, row: Row) -> Step:
    """A function that does one step with this row. Collective."""
    if not context.cuda:
        return lambda: model.step(row)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        model.step(row)
    torch.cuda.synchronize()
    context.barrier()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        model.step(row)
    return graph.replay


# ---- Checking ------------------------------------------------------------------------------------


class Trace(NamedTuple):
    """tokens [steps, batch]; this rank's logits [steps, batch, rows], or their largest difference
    from those of the reference, [steps]; the logits [batch, rows] of an early step, to see whether
    a second run gives the same."""

    tokens: torch.Tensor
    logits: torch.Tensor
    early: torch.Tensor


def trace(model: Model, step: Step, steps: int, beside: Optional[Trace] = None) -> Trace:
    """From the start. Without `beside`, logits are kept; with it, their difference."""
    model.reset()
    tokens = torch.empty(
        steps, *model.tokens.shape, dtype=model.tokens.dtype, device=model.tokens.device
    )
    extent = (steps,) if beside else (steps, *model.logits.shape)
    logits = torch.empty(extent, dtype=torch.float32, device=model.logits.device)
    early = model.logits
    for index in range(steps):
        step()
        tokens[index] = model.tokens
        logits[index] = (
            (model.logits - beside.logits[index]).abs().amax() if beside else model.logits
        )
        if index == min(steps, 8) - 1:
            early = model.logits.clone()
    return Trace(tokens, logits, early)


def compare(context: Context, model: Model, ours: Trace, theirs: Trace) -> Dict[str, Any]:
    """How far tokens are equal, and how far logits are apart until then."""
    steps = len(ours.tokens)
    equal = int((ours.tokens == theirs.tokens).all(-1).long().cumprod(0).sum())
    gaps = ours.logits.tolist()  # nan where a logit is: nan is the answer then
    until = min(equal, steps - 1)  # the logits of the step that parts still come from equal tokens
    result: Dict[str, Any] = {
        "first_gap": context.slowest(gaps[0] if math.isfinite(gaps[0]) else math.inf),
        "gap": context.slowest(
            max(gap if math.isfinite(gap) else math.inf for gap in gaps[: until + 1])
        ),
        "equal_steps": equal,
        "steps": steps,
    }
    if equal < steps:
        sequence = int((ours.tokens[equal] != theirs.tokens[equal]).nonzero()[0])
        chosen = [
            _logit(context, model, theirs.logits[equal, sequence], int(run.tokens[equal, sequence]))
            for run in (theirs, ours)
        ]
        result["parted"] = {"step": equal, "sequence": sequence, "margin": chosen[0] - chosen[1]}
    return result


def _logit(context: Context, model: Model, logits: torch.Tensor, token: int) -> float:
    """One logit, from the rank that has it."""
    local = token - context.rank * model.rows
    return context.slowest(logits[local].item() if 0 <= local < model.rows else -math.inf)


# ---- Measuring -----------------------------------------------------------------------------------


def timed(context: Context, model: Model, step: Step, steps: int) -> float:
    """Microseconds of a step, of the slowest rank."""
    model.reset()
    return context.microseconds(step, steps)


def try_row(
    context: Context, model: Model, row: Row, beside: Trace, steps: int
) -> Tuple[Optional[Step], Dict[str, Any]]:
    """Captures and checks a row; a row that fails on any rank is said to be unavailable, with the
    reason."""
    step, reason = None, row.unavailable
    if reason is None:
        try:
            step = captured(context, model, row)
        except Exception as error:  # of somebody else's kernel; the other rows go on
            reason = f"{type(error).__name__}: {error}"
        reason = context.failure(reason)
    if reason is not None or step is None:
        return None, {**row.describe(), "unavailable": reason}
    ours = trace(model, step, steps, beside)
    again = trace(model, step, min(steps, 8), beside)
    result = {**row.describe(), **compare(context, model, ours, beside)}
    result["repeats"] = (
        context.failure(None if torch.equal(ours.early, again.early) else "differs") is None
    )
    return step, result


def run_case(
    context: Context,
    name: str,
    batch: int,
    communicators: Dict[str, Any],
    options: argparse.Namespace,
) -> Dict[str, Any]:
    began = time.monotonic()
    shape = MODELS[name]
    model = Model(context, shape, batch, options.context, options.distinct_layers)
    rows = [
        row
        for row in make_rows(context, communicators, shape.hidden, batch)
        if options.rows is None or row.name == "nccl" or set(options.rows.split(",")) & row.names()
    ]
    beside = trace(model, captured(context, model, reference(context)), options.check_steps)
    largest = context.slowest(beside.logits[0].abs().max().item())
    steps, results = {}, []
    for row in rows:
        step, result = try_row(context, model, row, beside, options.check_steps)
        results.append(result)
        if step is not None:
            steps[row.name] = step
    samples: Dict[str, List[float]] = {label: [] for label in steps}
    for _ in range(options.rounds):
        for label, step in steps.items():
            samples[label].append(timed(context, model, step, options.steps))
    for communicator in communicators.values():
        if not isinstance(communicator, str):
            communicator.check()
    base = statistics.median(samples["nccl"])
    by_name = {result["row"]: result for result in results}
    for label, times in samples.items():
        median = statistics.median(times)
        by_name[label].update(
            tpot_us=median,
            tokens_per_s=batch * 1e6 / median,
            speedup=base / median,
            spread=(max(times) - min(times)) / median,
            wrong=not (
                by_name[label]["first_gap"] <= max(3 * by_name["nccl"]["first_gap"], 0.02 * largest)
            ),
        )
    for made in {
        id(made): made for made in (getattr(row.plain, "__self__", None) for row in rows)
    }.values():
        if isinstance(made, FlashInfer):
            made.workspace.destroy()
    return {
        "model": name,
        "shape": asdict(shape),
        "tp": context.size,
        "batch": batch,
        "largest_logit": largest,
        "expert_kernels": model.kernels_why_not or model.kernels,
        "candidates": {
            backend: {
                pattern: communicator.explain(pattern, context.dtype, shape.hidden, batch)[
                    "candidate"
                ]
                for pattern in ("allreduce", "allreduce_residual_rmsnorm")
            }
            for backend, communicator in communicators.items()
            if not isinstance(communicator, str)
        },
        "seconds": round(time.monotonic() - began, 1),
        "rows": results,
    }


def table(case: Dict[str, Any]) -> str:
    lines = [
        f"\n{case['model']}, TP {case['tp']}, batch {case['batch']}"
        + (
            f", expert weights are copied: {case['expert_kernels']}"
            if isinstance(case["expert_kernels"], str)
            else ""
        ),
        f"  {'row':<36}{'TPOT us':>10}{'tokens/s':>11}{'speedup':>9}{'gap':>9}  equal tokens",
    ]
    for result in case["rows"]:
        if "unavailable" in result:
            lines.append(
                f"  {result['row']:<36}  unavailable: {result['unavailable'].splitlines()[0][:70]}"
            )
            continue
        parted = result.get("parted")
        lines.append(
            f"  {result['row']:<36}{result['tpot_us']:>10.1f}{result['tokens_per_s']:>11.1f}{result['speedup']:>8.3f}x"
            f"{result['gap']:>9.4f}"
            f"  {result['equal_steps']} of {result['steps']}"
            + (f", margin {parted['margin']:.4f}" if parted else "")
            + ("" if result["repeats"] else "  DIFFERS FROM RUN TO RUN")
            + ("  WRONG" if result["wrong"] else "")
        )
    return "\n".join(lines)


# ---- The matrix ----------------------------------------------------------------------------------


def run_tp(
    tp: int,
    options: argparse.Namespace,
    deadline: float,
    save: Callable[[List[Dict[str, Any]]], None],
) -> Any:
    """The cases of one size of group, shared by the groups of that size. (cases of this rank's
    group, cases left out)."""
    groups = [
        dist.new_group(list(range(first, first + tp)))
        for first in range(0, dist.get_world_size(), tp)
    ]
    mine = dist.get_rank() // tp
    context = Context(options.device, groups[mine])
    context.barrier()  # connects the group before anything is captured
    names, batches = options.models.split(","), [int(batch) for batch in options.batches.split(",")]
    wanted = [(name, batch) for name in names for batch in batches][mine :: len(groups)]
    done: List[Dict[str, Any]] = []
    left_out: List[Dict[str, Any]] = []
    if not wanted:
        return done, left_out
    hiddens = sorted({MODELS[name].hidden for name, _ in wanted})
    communicators = make_communicators(context, hiddens, max(batches), options.decisions)
    for name, batch in wanted:
        if context.slowest(time.monotonic() - deadline) > 0:
            left_out.append({"model": name, "tp": tp, "batch": batch})
            continue
        case = run_case(context, name, batch, communicators, options)
        done.append(case)
        context.say(table(case))
        save(done)
        gc.collect()
        if context.cuda:
            torch.cuda.empty_cache()
    for communicator in communicators.values():
        if not isinstance(communicator, str):
            communicator.close()
    return done, left_out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", default="qwen3-30b-a3b,qwen3-32b,llama-70b", help=f"of {', '.join(MODELS)}"
    )
    parser.add_argument(
        "--tp", default="2,4", help="sizes of groups; what does not divide the ranks is left out"
    )
    parser.add_argument("--batches", default="1,16")
    parser.add_argument(
        "--rows",
        help="nccl and these: auto_fusion, flashinfer, 'arbiter mnnvl_allreduce', trtllm, ...",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="64 steps checked, 3 rounds of 20: the matrix in 4 minutes",
    )
    parser.add_argument("--context", type=int, default=1024, help="positions that attention reads")
    parser.add_argument(
        "--distinct-layers", type=int, default=8, help="layers with weights of their own; 0: all"
    )
    parser.add_argument("--steps", type=int, help="replays of a round (30)")
    parser.add_argument("--rounds", type=int, help="rounds (5)")
    parser.add_argument("--check-steps", type=int, help="greedy steps that are compared (256)")
    parser.add_argument(
        "--minutes", type=float, default=8, help="no case begins later; what is left out is listed"
    )
    parser.add_argument(
        "--decisions", default="", help="what `arbiter tune` wrote; default: ARBITER_DB"
    )
    parser.add_argument(
        "--device",
        default="cuda",
        choices=["cuda", "cpu"],
        help="cpu: one rank, to try the program",
    )
    parser.add_argument("--json", help="write the results here (rank 0)")
    options = parser.parse_args()
    for name, usual, quick in (("steps", 30, 20), ("rounds", 5, 3), ("check_steps", 256, 64)):
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else usual)
    for model in options.models.split(","):
        if model not in MODELS:
            parser.error(f"no model '{model}'; expected of {', '.join(MODELS)}")
    cuda = options.device == "cuda"
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if cuda else "gloo", timeout=datetime.timedelta(minutes=30))
    world = dist.get_world_size()
    sizes = [int(size) for size in options.tp.split(",") if world % int(size) == 0]
    if not sizes:
        parser.error(f"--tp {options.tp}: none of them divides {world} ranks")
    started = time.monotonic()
    kept: List[Dict[str, Any]] = []
    left_out: List[Dict[str, Any]] = []

    def save(cases: List[Dict[str, Any]]) -> None:
        """After every case: what is measured is kept. The other groups' cases come when all of a
        size are done."""
        if dist.get_rank() != 0 or not options.json:
            return
        import arbiter

        head = {
            "schema": 1,
            "command": " ".join(sys.argv),
            "ranks": world,
            "gpu": torch.cuda.get_device_name() if cuda else "cpu",
            "torch": torch.__version__,
            "nccl": ".".join(map(str, torch.cuda.nccl.version())) if cuda else "",
            "nccl_nvls_enable": os.environ["NCCL_NVLS_ENABLE"],
            "arbiter": arbiter.library_version(),
            "seconds": round(time.monotonic() - started, 1),
        }
        arguments = {
            name: getattr(options, name)
            for name in ("context", "distinct_layers", "steps", "rounds", "check_steps")
        }
        text = json.dumps(
            {**head, **arguments, "cases": [*kept, *cases], "left_out": left_out}, indent=2
        )
        Path(options.json).write_text(text + "\n")

    with torch.inference_mode():
        for tp in sizes:
            gathered: List[Any] = [None] * world
            dist.all_gather_object(
                gathered, run_tp(tp, options, started + options.minutes * 60, save)
            )
            for cases, missing in gathered[::tp]:
                kept += cases
                left_out += missing
            save([])
    if dist.get_rank() == 0:
        for case in left_out:
            print(f"left out, because of --minutes {options.minutes:g}: {case}")
    dist.destroy_process_group()
    raise SystemExit(1 if any(row.get("wrong") for case in kept for row in case["rows"]) else 0)


if __name__ == "__main__":
    main()
