"""The base workloads of workloads.rs in llama.cpp: one JSON line a request.

    peer_llama.py --model FILE.gguf

Reads "NAME DTYPE THREADS" on standard input, as peer.py --serve does; the precision is the file's. Calls go
to llama.cpp's own functions: the classes of the Python package would add work of their own.
"""

import argparse
import ctypes
import json
import time

import numpy

from llama_cpp import llama_cpp as ll

from token_ids import ids

LENGTH, ROWS, LONG, PROMPT, NEW = 64, 16, 512, 32, 64
# New tokens of one call at most, as of the engine.
BATCH = 1024


class Peer:
    def __init__(self, path: str):
        ll.llama_log_set(_SILENT, ctypes.c_void_p(0))
        ll.llama_backend_init()
        self.model = ll.llama_model_load_from_file(path.encode(), ll.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        self.vocabulary = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(self.model))
        settings = ll.llama_context_default_params()
        settings.n_ctx = ROWS * (LONG + NEW)
        settings.n_batch, settings.n_seq_max = BATCH, ROWS
        # A cache for each sequence: in a common one every sequence would attend over the cells of all.
        settings.kv_unified = False
        settings.no_perf = True
        self.context = ll.llama_init_from_model(self.model, settings)
        if not self.context:
            raise SystemExit("llama.cpp cannot make a context")
        self.batch = ll.llama_batch_init(BATCH, 0, 1)

    def clear(self) -> None:
        ll.llama_memory_clear(ll.llama_get_memory(self.context), True)

    def decode(self, rows: list[list[int]], first: int) -> numpy.ndarray:
        """Feeds tokens of each sequence from position `first`; logits of the last, `[rows, vocabulary]`."""
        batch, n, last = self.batch, 0, []
        for sequence, tokens in enumerate(rows):
            for position, token in enumerate(tokens):
                batch.token[n], batch.pos[n] = token, first + position
                batch.n_seq_id[n], batch.seq_id[n][0] = 1, sequence
                batch.logits[n] = position + 1 == len(tokens)
                n += 1
            last.append(n - 1)
        batch.n_tokens = n
        if ll.llama_decode(self.context, batch) != 0:
            raise SystemExit("llama.cpp refused a batch")
        views = [numpy.ctypeslib.as_array(ll.llama_get_logits_ith(self.context, i), (self.vocabulary,)) for i in last]
        return numpy.stack(views)


@ll.llama_log_callback
def _SILENT(level, text, data):
    pass


def log_probability(logits: numpy.ndarray, targets: list[int]) -> float:
    wide = logits.astype(numpy.float64)
    top = wide.max(axis=1)
    total = top + numpy.log(numpy.exp(wide - top[:, None]).sum(axis=1))
    return float(numpy.mean([row[target] for row, target in zip(wide, targets)] - total))


def prefill(peer: Peer, rows: int, length: int):
    prompts = [ids(row, length) for row in range(rows)]
    peer.clear()
    start = time.perf_counter(), time.process_time()
    logits = peer.decode(prompts, 0)
    took = time.perf_counter() - start[0], time.process_time() - start[1]
    return took, rows * length, [log_probability(logits, ids(1000, rows))]


def decode(peer: Peer, rows: int):
    tokens = [ids(5000 + row, PROMPT) for row in range(rows)]
    peer.clear()
    found, position = [], 0
    start = time.perf_counter(), time.process_time()
    for _ in range(NEW):
        logits = peer.decode(tokens, position)
        position += len(tokens[0])
        tokens = [[int(token)] for token in logits.argmax(axis=1)]
        found.append([token for [token] in tokens])
    took = time.perf_counter() - start[0], time.process_time() - start[1]
    return took, rows * NEW, [float(token) for token in found[0]]


WORKLOADS = {
    "prefill_512": lambda peer: prefill(peer, 1, LONG),
    "prefill_16x64": lambda peer: prefill(peer, ROWS, LENGTH),
    "decode_1_base": lambda peer: decode(peer, 1),
    "decode_16_base": lambda peer: decode(peer, ROWS),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Times llama.cpp.")
    parser.add_argument("--model", required=True, help="GGUF file")
    arguments = parser.parse_args()
    peer = Peer(arguments.model)
    while True:
        try:
            workload, dtype, threads = input().split()
        except EOFError:
            return
        ll.llama_set_n_threads(peer.context, int(threads), int(threads))
        (seconds, cpu), tokens, check = WORKLOADS[workload](peer)
        line = {
            "program": "llama.cpp", "workload": workload, "dtype": dtype, "threads": int(threads), "rounds": 1,
            "median": seconds, "min": seconds, "max": seconds, "cpu": cpu, "tokens": tokens, "check": check,
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
