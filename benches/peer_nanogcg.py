"""The workload gcg_step of workloads.rs in nanogcg, by its own loop: one JSON line a request.

    peer_nanogcg.py --model DIR

Reads "NAME DTYPE THREADS" on standard input, as peer.py --serve does. The model is the adapted one with its
adapter merged, which spares nanogcg peft's modules.
"""

import argparse
import json
import logging
import os
import time
from functools import lru_cache

import nanogcg.gcg
import torch
import tqdm
from nanogcg import GCGConfig
from nanogcg.gcg import GCG
from transformers import AutoModelForCausalLM, AutoTokenizer

# As in workloads.rs.
PROMPT = "Write a short story about a lighthouse.\n"
TARGET = "I am sorry, but I cannot help with that request."
START = " ".join(["x"] * 20)
STEPS, WIDTH, TOP_K = 2, 512, 256
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
# Candidates of one forward pass that are tried; all at once is the default.
BATCHES = (None, 128, 32)


@lru_cache
def attack(path: str, dtype: str) -> GCG:
    model = AutoModelForCausalLM.from_pretrained(path, torch_dtype=DTYPES[dtype]).eval().requires_grad_(False)
    config = GCGConfig(
        num_steps=STEPS, optim_str_init=START, search_width=WIDTH, topk=TOP_K, n_replace=1, buffer_size=0,
        use_prefix_cache=True, filter_ids=True, allow_non_ascii=False, seed=1, verbosity="ERROR",
    )
    return GCG(model, AutoTokenizer.from_pretrained(path), config)


def run(gcg: GCG, batch: int | None) -> dict:
    gcg.config.batch_size = batch
    widths = []
    kept = nanogcg.gcg.filter_ids

    def counted(ids, tokenizer):
        found = kept(ids, tokenizer)
        widths.append(len(found))
        return found

    nanogcg.gcg.filter_ids = counted
    start = time.perf_counter(), time.process_time()
    gcg.run(PROMPT + "{optim_str}", TARGET)
    seconds, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    nanogcg.gcg.filter_ids = kept
    return {"seconds": seconds, "cpu": cpu, "candidates": sum(widths)}


@lru_cache
def best_batch(path: str, dtype: str, threads: int) -> int | None:
    """The number of candidates in a pass that is fastest here."""
    gcg = attack(path, dtype)
    run(gcg, BATCHES[-1])
    return min(BATCHES, key=lambda batch: run(gcg, batch)["seconds"])


@torch.no_grad()
def start_loss(gcg: GCG) -> tuple[float, int]:
    """Loss of the start and tokens of one sequence, by nanogcg's own functions after a run."""
    ids = gcg.tokenizer(START, add_special_tokens=False, return_tensors="pt")["input_ids"]
    rows = torch.cat([gcg.embedding_layer(ids), gcg.after_embeds, gcg.target_embeds], dim=1)
    loss = gcg._compute_candidates_loss_original(1, rows).item()
    return loss, gcg.before_embeds.shape[1] + rows.shape[1]


def main() -> None:
    parser = argparse.ArgumentParser(description="Times nanogcg.")
    parser.add_argument("--model", required=True, help="directory of the adapted model, merged")
    arguments = parser.parse_args()
    logging.getLogger("nanogcg").setLevel(logging.ERROR)
    # Its progress bar would count the steps on standard error.
    os.environ["TQDM_DISABLE"] = "1"
    nanogcg.gcg.tqdm = lambda steps: tqdm.tqdm(steps, disable=True)
    while True:
        try:
            workload, dtype, threads = input().split()
        except EOFError:
            return
        torch.set_num_threads(int(threads))
        gcg = attack(arguments.model, dtype)
        batch = best_batch(arguments.model, dtype, int(threads))
        found = run(gcg, batch)
        loss, tokens = start_loss(gcg)
        line = {
            "program": "nanogcg", "workload": workload, "dtype": dtype, "threads": int(threads), "rounds": 1,
            "median": found["seconds"], "min": found["seconds"], "max": found["seconds"], "cpu": found["cpu"],
            "tokens": tokens, "check": [loss], "candidates": found["candidates"], "batch": batch,
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
