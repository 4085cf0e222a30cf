"""jax.lax.psum over all GPUs of one process, without and with libarbiter-nccl.so: the same results, and how fast.

    python3 bench/nccl_jax.py --library build/lib/libarbiter-nccl.so --ranks 4 --json jax.json

Sums of small integers must be equal to the last bit. Exits with 1 if they are not, or if Arbiter served nothing.
"""

import json
import os
import sys
import tempfile
import time

import shim_runs

COUNTS = (1, 1000, 4096, 65536, 1 << 20, 1 << 22)


def worker(path: str, ranks: int) -> None:
    import jax
    import jax.numpy as jnp
    import numpy as np
    devices = jax.devices()[:ranks]
    if len(devices) < ranks:
        raise SystemExit(f"{ranks} GPUs are needed; JAX sees {len(devices)}")
    rows = []
    shard_map = getattr(jax, "shard_map", None)
    if shard_map is None:  # before 0.6
        from jax.experimental.shard_map import shard_map
    mesh = jax.sharding.Mesh(np.array(devices), ("i",))
    split, whole = jax.sharding.PartitionSpec("i"), jax.sharding.PartitionSpec()
    psum = jax.jit(shard_map(lambda x: jax.lax.psum(x, "i"), mesh=mesh, in_specs=split, out_specs=whole))
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
        for count in COUNTS:
            index = np.arange(count)
            data = np.stack([(index * 7 + rank * 3) % 11 - 5 for rank in range(ranks)])
            wanted = data.sum(axis=0)
            sharded = jax.device_put(data.astype(dtype), jax.sharding.NamedSharding(mesh, split))
            result = psum(sharded)
            wrong = int((np.asarray(result.astype(jnp.float32))[0] != wanted).sum())
            calls = 50
            result.block_until_ready()
            started = time.perf_counter()
            for _ in range(calls):
                result = psum(sharded)
            result.block_until_ready()
            rows.append({"dtype": jnp.dtype(dtype).name, "count": count, "wrong": wrong,
                         "us": (time.perf_counter() - started) / calls * 1e6})
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"jax": jax.__version__, "rows": rows}, file)


def main() -> None:
    options = shim_runs.parse(shim_runs.parser(__doc__))
    if options.worker:
        worker(options.worker, options.ranks)
        return
    outcome, failures = {"ranks": options.ranks}, []
    for who, library in (("nccl", ""), ("arbiter", options.library)):
        path = os.path.join(tempfile.mkdtemp(), "rows.json")
        done = shim_runs.run([sys.executable, __file__, "--ranks", str(options.ranks), "--worker", path], library,
                             options.timeout)
        outcome[who] = {key: done[key] for key in ("status", "seconds", "served")}
        if done["status"] != 0:
            failures.append(f"{who}: the program ended with {done['status']}")
            continue
        with open(path, encoding="utf-8") as file:
            outcome[who].update(json.load(file))
        failures += [f"{who}: {row['wrong']} wrong elements of {row['count']} {row['dtype']}"
                     for row in outcome[who]["rows"] if row["wrong"]]
    if not outcome["arbiter"]["served"]:
        failures.append("Arbiter served no communicator")
    shim_runs.finish(options, outcome, failures)


if __name__ == "__main__":
    main()
