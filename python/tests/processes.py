"""Runs a Python program as the ranks of one group, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import arbiter


def run(program, size, folder, *arguments, timeout=120):
    """`program`: text that gets its rank, the number of ranks and the name of a file to meet in,
    then `arguments`. What rank 0 printed. Fails, with what it wrote, if a rank does."""
    path = folder / "rank.py"
    path.write_text(program)
    meet = folder / f"meet{len(list(folder.iterdir()))}"
    environment = {**os.environ, "PYTHONPATH": str(Path(arbiter.__file__).parents[1])}
    ranks = [
        subprocess.Popen(
            [sys.executable, path, str(rank), str(size), str(meet), *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    done = [process.communicate(timeout=timeout) for process in ranks]
    for rank, (process, (_, errors)) in enumerate(zip(ranks, done)):
        assert process.returncode == 0, f"rank {rank}: {errors}"
    return done[0][0]


def two_ranks(command, port):
    """Runs a command as a launcher would start two ranks. The exit status of rank 0, and what each
    rank printed. `port` tells programs apart that run at the same time."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(arbiter.__file__).parents[1]),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(20000 + (os.getpid() + port) % 20000),
    }
    ranks = [
        subprocess.Popen(
            command,
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    texts = [process.communicate(timeout=300)[0] for process in ranks]
    return ranks[0].returncode, texts
