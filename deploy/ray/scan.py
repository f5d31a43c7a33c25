#!/usr/bin/env python3
"""Runs the shards of a plan as tasks of Ray, and merges. The plan and the store lie on a file system that all nodes share.

usage: scan.py [--address auto] [--cpus 8] [--gpus 0] [--program triggerfish] [--plan plan.jsonl] [--store store]
               [--output merged]

A task is one process of `triggerfish run`. Ray starts it again elsewhere when its node dies, and this driver when it
ends with 75 or by a signal; verdicts never make it fail.
"""

import argparse
import json
import os
import subprocess
import sys

import ray

TRIES = 5
RETRY = 75


class Again(Exception):
    """The shard did not come to its end; another try goes on where it was."""


@ray.remote(max_retries=TRIES, retry_exceptions=[Again])
def scan(command, folder):
    code = subprocess.run(command, cwd=folder).returncode
    if code == RETRY or code < 0:
        raise Again(f"{command}: {code}")
    return code


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--address", default="auto")
    parser.add_argument("--cpus", type=float, default=8)
    parser.add_argument("--gpus", type=float, default=0)
    parser.add_argument("--program", default="triggerfish")
    parser.add_argument("--plan", default="plan.jsonl")
    parser.add_argument("--store", default="store")
    parser.add_argument("--output", default="merged")
    given = parser.parse_args()

    with open(given.plan, encoding="utf-8") as plan:
        shards = json.loads(plan.readline())["shards"]
    where = ["--plan", given.plan, "--store", given.store]
    threads = ["--threads", str(max(1, int(given.cpus)))]
    ray.init(address=given.address)
    task = scan.options(num_cpus=given.cpus, num_gpus=given.gpus)
    waiting = {
        task.remote([given.program, "run", *where, "--shard", f"{shard}/{shards}", *threads], os.getcwd()): shard
        for shard in range(shards)
    }
    failed = 0
    while waiting:
        (done,), _ = ray.wait(list(waiting), num_returns=1)
        shard = waiting.pop(done)
        try:
            code = ray.get(done)
        except (Again, ray.exceptions.RayError) as error:
            code = str(error).strip().splitlines()[-1]
        print(f"shard {shard} of {shards}: {code}", flush=True)
        failed += code != 0
    merged = subprocess.run([given.program, "merge", *where, "--output", given.output]).returncode
    return 1 if failed else merged


if __name__ == "__main__":
    sys.exit(main())
