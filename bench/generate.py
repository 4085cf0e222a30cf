"""A model class of `transformers`, unchanged, generates with its allreduces through PyTorch's backend
`arbiter`; and with the usual one, to compare: the same tokens, and how fast.

    torchrun --nproc-per-node 4 bench/generate.py --backend usual --json usual.json
    torchrun --nproc-per-node 4 bench/generate.py --against usual.json --json arbiter.json

Random weights, tensor-parallel by `tp_plan="auto"`, greedy. Exit status 1 if Arbiter served no
allreduce, or if tokens differ in float32, where sums in another order hardly ever matter; in bfloat16
the first token that differs is reported.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List

os.environ.setdefault("NCCL_NVLS_ENABLE", "0")  # NVLink multicast is opt-in, for NCCL too

import torch
import torch.distributed as dist

sys.path.append(
    str(Path(__file__).resolve().parents[1] / "python")
)  # an installed package comes first

from arbiter import distributed


def start(backend: str, device: str) -> None:
    if backend == "arbiter":
        options = distributed.Options(device=device)
        dist.init_process_group(f"{device}:arbiter", pg_options=options)
    else:
        dist.init_process_group("nccl" if device == "cuda" else "gloo")


def save(folder: str, given: argparse.Namespace) -> None:
    """Random weights at the asked shape."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(7)
    config = Qwen3Config(
        hidden_size=given.hidden,
        intermediate_size=3 * given.hidden,
        num_hidden_layers=given.layers,
        num_attention_heads=given.hidden // 128,
        num_key_value_heads=max(4, given.hidden // 1024),
        head_dim=128,
        vocab_size=32000,
        tie_word_embeddings=False,
    )
    Qwen3ForCausalLM(config).to(getattr(torch, given.dtype)).save_pretrained(folder)


def generate(folder: str, given: argparse.Namespace) -> Dict[str, Any]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, tp_plan="auto", dtype=getattr(torch, given.dtype)
    ).eval()
    prompt = torch.arange(1, 9, device=model.device)[None, :]
    arguments = {"do_sample": False, "max_new_tokens": given.tokens, "min_new_tokens": given.tokens}
    with torch.inference_mode():
        model.generate(prompt, **arguments)
        began = time.perf_counter()
        tokens = model.generate(prompt, **arguments)[0, prompt.shape[1] :].tolist()
        took = time.perf_counter() - began
    made = distributed.communicator()
    served = 0 if made is None else sum(call["count"] for call in made.stats()["calls"])
    if made is not None:
        made.check()
    return {"tokens": tokens, "ms_per_token": took * 1e3 / given.tokens, "served": served}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", default="arbiter", choices=["arbiter", "usual"])
    parser.add_argument("--hidden", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--against", help="what another run wrote with --json")
    parser.add_argument("--json", help="write the results here (rank 0)")
    given = parser.parse_args()
    if given.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    start(given.backend, given.device)
    names: List[Any] = [None]
    with tempfile.TemporaryDirectory() as folder:
        if dist.get_rank() == 0:
            save(folder, given)
            names = [folder]
        dist.broadcast_object_list(names, 0)
        result = generate(names[0], given)
        dist.barrier()  # the model is not read any more
    good = given.backend == "usual" or result["served"] > 0
    if dist.get_rank() == 0:
        print(
            f"{given.backend}: {result['ms_per_token']:.2f} ms a token, {result['served']} served"
        )
        shape = {name: getattr(given, name) for name in ("hidden", "layers", "tokens", "dtype")}
        if given.against:
            other = json.loads(Path(given.against).read_text())
            if {name: other[name] for name in shape} != shape:
                raise SystemExit(f"{given.against} is of another shape")
            pairs = enumerate(zip(result["tokens"], other["result"]["tokens"]))
            same = next((at for at, (one, two) in pairs if one != two), given.tokens)
            result["equal_tokens"] = same
            good = good and (same == given.tokens or given.dtype != "float32")
            print(
                f"equal tokens: {same} of {given.tokens}; {other['backend']} took "
                f"{other['result']['ms_per_token']:.2f} ms"
            )
        if given.json:
            head = {"schema": 1, "command": " ".join(sys.argv), "torch": torch.__version__}
            head.update(backend=given.backend, ranks=dist.get_world_size(), **shape)
            Path(given.json).write_text(json.dumps({**head, "result": result}, indent=2) + "\n")
    sys.stdout.flush()
    os._exit(0 if good else 1)  # some versions of gloo do not end well


if __name__ == "__main__":
    main()
