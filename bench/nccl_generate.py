"""A transformers model with tp_plan="auto" that generates, without and with libarbiter-nccl.so: the same tokens, and how
fast a decode step is.

    python3 bench/nccl_generate.py --library build/lib/libarbiter-nccl.so --ranks 4 --shape llama-70b --layers 8

Random weights at the shapes of the named model; --layers cuts its depth. Each library is run once a round, in turns; a
step's time is the median over rounds and repeats. A decode step of a small model is the host's work: where that is
noisy, the least times say more (ratio_of_least). Sums are added up in another order than NCCL's with three ranks and
more, so bf16 logits may tie-break differently: the tokens that count are those of --dtype float32, the times those of
bfloat16. Exits with 1 if tokens differ (unless --different-tokens says that they may), or if Arbiter served nothing.
"""

import json
import os
import statistics
import sys
import tempfile
import time

import shim_runs

SHAPES = {
    "tiny": ("LlamaConfig", dict(hidden_size=1024, intermediate_size=2816, num_hidden_layers=4, num_attention_heads=16,
                                 num_key_value_heads=8, vocab_size=4096)),
    "llama-70b": ("LlamaConfig", dict(hidden_size=8192, intermediate_size=28672, num_hidden_layers=80,
                                      num_attention_heads=64, num_key_value_heads=8, vocab_size=32000)),
    "qwen3-30b-a3b": ("Qwen3MoeConfig", dict(hidden_size=2048, intermediate_size=6144, moe_intermediate_size=768,
                                             num_hidden_layers=48, num_attention_heads=32, num_key_value_heads=4,
                                             head_dim=128, num_experts=128, num_experts_per_tok=8, vocab_size=32000)),
}


def numbers(text: str) -> list:
    return [int(number) for number in text.split(",")]


def save_model(folder: str, shape: str, layers: int, dtype: str) -> None:
    import torch
    import transformers
    name, values = SHAPES[shape]
    config = getattr(transformers, name)(**{**values, **({"num_hidden_layers": layers} if layers else {})},
                                         max_position_embeddings=4096)
    torch.manual_seed(7)
    torch.set_default_dtype(getattr(torch, dtype))
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)


def worker(path: str, options) -> None:
    import torch
    import torch.distributed as dist
    import transformers
    local = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(local)
    model = transformers.AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.dtype),
                                                              tp_plan="auto")
    model.eval()
    batches = []
    for batch in options.batch:
        generator = torch.Generator().manual_seed(3)
        prompt = torch.randint(0, model.config.vocab_size, (batch, options.prompt), generator=generator).cuda()
        arguments = dict(attention_mask=torch.ones_like(prompt), do_sample=False, min_new_tokens=options.tokens,
                         max_new_tokens=options.tokens, pad_token_id=0)
        tokens, seconds = None, []
        with torch.inference_mode():
            for _ in range(options.repeats + 1):
                torch.cuda.synchronize()
                started = time.perf_counter()
                tokens = model.generate(prompt, **arguments)
                torch.cuda.synchronize()
                seconds.append(time.perf_counter() - started)
        batches.append({"batch": batch, "tokens": tokens[:, options.prompt:].tolist(),
                        "ms_per_token": [one * 1000 / options.tokens for one in seconds[1:]]})
    if local == 0:
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"batches": batches, "torch": torch.__version__, "transformers": transformers.__version__}, file)
    if dist.is_initialized():
        dist.destroy_process_group()


def main() -> None:
    parser = shim_runs.parser(__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="tiny")
    parser.add_argument("--layers", type=int, default=0, help="fewer layers than the shape has")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--batch", type=numbers, default=[1], help="sequences; several with commas between them")
    parser.add_argument("--prompt", type=int, default=32, help="tokens")
    parser.add_argument("--tokens", type=int, default=32, help="to generate")
    parser.add_argument("--repeats", type=int, default=3, help="of a generation, in each round")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each library, in turns")
    parser.add_argument("--model", help="a saved model, instead of one with random weights")
    parser.add_argument("--different-tokens", action="store_true", help="report different tokens, without failing")
    options = shim_runs.parse(parser)
    if options.worker:
        worker(options.worker, options)
        return
    if not options.model:
        options.model = tempfile.mkdtemp()
        save_model(options.model, options.shape, options.layers, options.dtype)
        import torch
        torch.cuda.empty_cache()
    libraries = {"nccl": "", "arbiter": options.library}
    outcome, failures = {"ranks": options.ranks, **{who: {"status": [], "served": []} for who in libraries}}, []
    found = {who: [] for who in libraries}
    for _ in range(options.rounds):
        for who, library in libraries.items():
            path = os.path.join(tempfile.mkdtemp(), "tokens.json")
            command = shim_runs.torchrun(options.ranks, __file__, "--worker", path, "--model", options.model, "--batch",
                                         ",".join(map(str, options.batch)),
                                         *(f"--{name}={getattr(options, name)}"
                                           for name in ("dtype", "prompt", "tokens", "repeats")))
            done = shim_runs.run(command, library, options.timeout)
            for key in ("status", "served"):
                outcome[who][key].append(done[key])
            if done["status"] != 0:
                failures.append(f"{who}: the program ended with {done['status']}")
                continue
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
            found[who].append(content.pop("batches"))
            outcome.update(content)  # versions
    if not all(outcome["arbiter"]["served"]):
        failures.append("Arbiter served no communicator")
    if all(found.values()):
        outcome["batches"] = [compared(options, batches, failures)
                              for batches in zip(*(zip(*rounds) for rounds in found.values()))]
    shim_runs.finish(options, outcome, failures)


def compared(options, rounds: tuple, failures: list) -> dict:
    """One size of batch: what NCCL's rounds found, and what Arbiter's did."""
    nccl, arbiter = rounds
    times = [[one for each in side for one in each["ms_per_token"]] for side in rounds]
    medians = [statistics.median(side) for side in times]
    row = {"batch": nccl[0]["batch"], "nccl_ms_per_token": medians[0], "arbiter_ms_per_token": medians[1],
           "ratio": medians[0] / medians[1], "ratio_of_least": min(times[0]) / min(times[1]),
           "samples": {"nccl": times[0], "arbiter": times[1]},
           "equal_tokens": [sum(1 for _ in iter_equal(a, b)) for a, b in zip(nccl[0]["tokens"], arbiter[0]["tokens"])],
           "tokens": options.tokens}
    if min(row["equal_tokens"]) < options.tokens and not options.different_tokens:
        failures.append(f"batch {row['batch']}: tokens differ from token {min(row['equal_tokens'])} on")
    return row


def iter_equal(left: list, right: list):
    """The tokens before the first that differs."""
    for a, b in zip(left, right):
        if a != b:
            return
        yield a


if __name__ == "__main__":
    sys.exit(main())
