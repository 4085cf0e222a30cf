"""Starts a program without and with libarbiter-nccl.so, for the scripts beside this file."""

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

SERVED = re.compile(r"\[arbiter-nccl\] info: communicator of (\d+) ranks")


def parser(description: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--library", help="libarbiter-nccl.so")
    made.add_argument("--ranks", type=int, default=4)
    made.add_argument("--timeout", type=int, default=40, help="seconds of one run, until it counts as hung")
    made.add_argument("--json", help="write the outcome here")
    made.add_argument("--worker", help=argparse.SUPPRESS)  # the file to write to: this is the program that is started
    return made


def parse(made: argparse.ArgumentParser) -> argparse.Namespace:
    options = made.parse_args()
    if not options.worker and not (options.library and os.path.isfile(options.library)):
        made.error("--library: expected the path of libarbiter-nccl.so")
    return options


def environment(library: str) -> dict:
    """ARBITER_LOG=info, so that the log says whether Arbiter served anything."""
    variables = {**os.environ, "ARBITER_LOG": "info"}
    variables.pop("LD_PRELOAD", None)
    if library:
        variables["LD_PRELOAD"] = os.path.abspath(library)
    return variables


def torchrun(ranks: int, script: str, *arguments: str) -> list:
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), script,
            *arguments]


def start(command: list, variables: dict, timeout: float) -> dict:
    """Runs the command, and ends it with all its children when the time is over: `status` is then "hung"."""
    began = time.monotonic()
    with subprocess.Popen(command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          start_new_session=True) as process:
        try:
            out, err = process.communicate(timeout=timeout)
            status = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            status = "hung"
    return {"status": status, "seconds": time.monotonic() - began, "stdout": out, "stderr": err,
            "served": len(SERVED.findall(out + err))}


def run(command: list, library: str, timeout: float) -> dict:
    """`served`: communicators that Arbiter set itself up behind. What fails, or hangs, is shown."""
    done = start(command, environment(library), timeout)
    if done["status"] != 0:
        who = "preloaded" if library else "plain"
        print(f"{who}: {shlex.join(command)}: {done['status']} after {done['seconds']:.1f} s", done["stdout"][-2000:],
              done["stderr"][-5000:], sep="\n", file=sys.stderr, flush=True)
    return done


def finish(options, outcome: dict, failures: list) -> None:
    """Prints the outcome as JSON; exits with 1 if there were failures."""
    outcome = {"schema": 1, "command": shlex.join(["python3", *sys.argv]), **outcome, "failures": failures}
    text = json.dumps(outcome, indent=1)
    print(text)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            file.write(text + "\n")
    raise SystemExit(1 if failures else 0)
