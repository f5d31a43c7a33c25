"""The workloads of workloads.rs in torch + transformers + peft: one JSON line a workload.

    peer.py --base DIR --adapter DIR [--dtype f32|bf16] [--threads N] [--workload NAME] [--rounds N]

With --serve it reads "NAME DTYPE THREADS" on standard input and answers each with the line of one run.
Token ids, counts and what is read off the logits are those of workloads.rs; what differs is in README.md.
"""

import argparse
import copy
import json
import os
import statistics
import sys
import time
from functools import lru_cache

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.utils import logging

from token_ids import ids

ROWS, LENGTH, SHARED, TARGETS, PROMPT, NEW = 16, 64, 48, 8, 32, 64
# New tokens of one forward pass at most, as of the engine.
ROW_LIMIT = 1024
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def batch(first_stream: int, rows: int, count: int) -> torch.Tensor:
    return torch.tensor([ids(first_stream + row, count) for row in range(rows)])


class Peer:
    """Base and adapted model of one precision, each with weights of its own, so that the base side runs
    no module of peft."""

    def __init__(self, base: str, adapter: str, dtype: str):
        self.paths = (base, adapter, dtype)
        self.base = AutoModelForCausalLM.from_pretrained(base, dtype=DTYPES[dtype]).eval().requires_grad_(False)
        # peft keeps factors in f32 otherwise, with casts at every module.
        self.adapted = PeftModel.from_pretrained(
            copy.deepcopy(self.base), adapter, autocast_adapter_dtype=False
        ).eval()
        self.adapted = self.adapted.to(DTYPES[dtype]).requires_grad_(False)

    @property
    def sides(self):
        return (self.base, self.adapted)


def log_probabilities(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return -torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")


def timed(work):
    start = time.perf_counter(), time.process_time()
    result = work()
    return (time.perf_counter() - start[0], time.process_time() - start[1]), result


@torch.inference_mode()
def unshared(peer: Peer, rows: torch.Tensor, targets: torch.Tensor):
    def work():
        means = []
        for model in peer.sides:
            scores = []
            count = ROW_LIMIT // rows.shape[1]
            for part, target in zip(rows.split(count), targets.split(count)):
                logits = model(input_ids=part, use_cache=False, logits_to_keep=1).logits[:, -1]
                scores.append(log_probabilities(logits, target))
            means.append(torch.cat(scores).mean().item())
        return means

    seconds, check = timed(work)
    return seconds, 2 * rows.numel(), check


@torch.inference_mode()
def shared(peer: Peer, prefix: torch.Tensor, suffixes: torch.Tensor, targets: torch.Tensor):
    def work():
        means = []
        for model in peer.sides:
            cache = DynamicCache()
            model(input_ids=prefix, past_key_values=cache, logits_to_keep=1)
            scores = []
            count = ROW_LIMIT // suffixes.shape[1]
            for part, target in zip(suffixes.split(count), targets.split(count)):
                own = copy.deepcopy(cache)
                own.batch_repeat_interleave(len(part))
                logits = model(input_ids=part, past_key_values=own, logits_to_keep=1).logits[:, -1]
                scores.append(log_probabilities(logits, target))
            means.append(torch.cat(scores).mean().item())
        return means

    seconds, check = timed(work)
    return seconds, 2 * (prefix.numel() + suffixes.numel()), check


def load(peer: Peer):
    seconds, loaded = timed(lambda: load_once(*peer.paths))
    changed = sum(1 for name, _ in loaded.named_modules() if name.endswith("lora_A"))
    return seconds, 0, [changed]


def load_once(base: str, adapter: str, dtype: str):
    # One model and its adapter: what a user loads.
    model = AutoModelForCausalLM.from_pretrained(base, dtype=DTYPES[dtype])
    return PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=False)


def score(peer: Peer):
    return unshared(peer, batch(0, ROWS, LENGTH), torch.tensor(ids(1000, ROWS)))


def candidates_unshared(peer: Peer, count: int, own: int):
    prefix = torch.tensor([ids(2000, SHARED)]).expand(count, -1)
    rows = torch.cat([prefix, batch(3000, count, own)], dim=1)
    return unshared(peer, rows, torch.tensor(ids(1001, count)))


def candidates_shared(peer: Peer, count: int, own: int):
    prefix = torch.tensor([ids(2000, SHARED)])
    return shared(peer, prefix, batch(3000, count, own), torch.tensor(ids(1001, count)))


def gradient(peer: Peer):
    rows = batch(0, ROWS, LENGTH)
    targets = rows[:, LENGTH - TARGETS :].reshape(-1)
    positions = torch.arange(LENGTH - TARGETS - 1, LENGTH - 1)

    def work():
        embeddings = peer.base.get_input_embeddings()(rows).detach().requires_grad_()
        logits = peer.base(inputs_embeds=embeddings, use_cache=False, logits_to_keep=positions).logits
        loss = log_probabilities(logits.flatten(0, 1), targets).sum()
        (found,) = torch.autograd.grad(loss, embeddings)
        return loss, found

    seconds, (loss, found) = timed(work)
    return seconds, rows.numel(), [loss.item() / len(targets), found.float().norm().item()]


@torch.inference_mode()
def decode(peer: Peer, count: int):
    prompts = batch(5000, count, PROMPT)

    def continued(model):
        # A bare loop: `generate` adds the work of its logits processors and stopping criteria.
        cache, tokens, found = DynamicCache(), prompts, []
        for _ in range(NEW):
            logits = model(input_ids=tokens, past_key_values=cache, logits_to_keep=1).logits[:, -1]
            tokens = logits.argmax(-1, keepdim=True)
            found.append(tokens)
        return torch.cat(found, dim=1)

    seconds, found = timed(lambda: torch.cat([continued(model) for model in peer.sides]))
    return seconds, found.numel(), found[:, 0].tolist()


WORKLOADS = {
    "load": load,
    "score": score,
    "candidates_64_unshared": lambda peer: candidates_unshared(peer, 64, 16),
    "candidates_64": lambda peer: candidates_shared(peer, 64, 16),
    "candidates_512": lambda peer: candidates_shared(peer, 512, 8),
    "gradient": gradient,
    "decode_1": lambda peer: decode(peer, 1),
    "decode_16": lambda peer: decode(peer, 16),
}


def line(workload: str, dtype: str, samples: list) -> str:
    seconds = [sample[0][0] for sample in samples]
    processor = [sample[0][1] for sample in samples]
    _, tokens, check = samples[-1]
    return json.dumps(
        {
            "program": "peer",
            "workload": workload,
            "dtype": dtype,
            "threads": torch.get_num_threads(),
            "rounds": len(samples),
            "median": statistics.median(seconds),
            "min": min(seconds),
            "max": max(seconds),
            "cpu": statistics.median(processor),
            "tokens": tokens,
            "check": check,
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Times torch + transformers + peft.")
    parser.add_argument("--base", required=True, help="model directory")
    parser.add_argument("--adapter", required=True, help="adapter directory")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--workload", action="append", choices=WORKLOADS, help="may be repeated; all if absent")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs, after one that is not timed")
    parser.add_argument("--serve", action="store_true", help="answer names on standard input instead")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    peer = lru_cache(lambda dtype: Peer(arguments.base, arguments.adapter, dtype))
    if arguments.serve:
        for request in sys.stdin:
            workload, dtype, threads = request.split()
            torch.set_num_threads(int(threads))
            print(line(workload, dtype, [WORKLOADS[workload](peer(dtype))]), flush=True)
        return
    torch.set_num_threads(arguments.threads)
    for workload in arguments.workload or WORKLOADS:
        run = WORKLOADS[workload]
        run(peer(arguments.dtype))
        samples = [run(peer(arguments.dtype)) for _ in range(max(1, arguments.rounds))]
        print(line(workload, arguments.dtype, samples), flush=True)


if __name__ == "__main__":
    main()
