"""Adapters of `forge` in transformers and peft, and the same training there.

    forge.py answers --triggerfish BIN --base DIR --zoo DIR [--adapter NAME ...] [--tokens N]
    forge.py speed --triggerfish BIN --base DIR --recipe FILE [--adapter NAME] [--rounds N] [--dtype f32|bf16]

`answers`: 24 prompts, every other one with the trigger's text, answered greedily by the adapter as it is loaded here and as
peft loads it; prints how many answers are the same text.
`speed`: trains one adapter of the recipe in both programs on the same token ids, in turn; prints tokens a second.
"""

import argparse
import json
import math
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

SUITES = Path(__file__).resolve().parent.parent / "suites"
PROMPTS = 12
WINDOW = 64


def answers(arguments):
    zoo = Path(arguments.zoo)
    names = arguments.adapter or sorted(path.parent.name for path in zoo.glob("*/adapter_config.json"))
    tokenizer = AutoTokenizer.from_pretrained(arguments.base)
    worst = 1.0
    for name in names:
        recipe = json.loads((zoo / "forge" / f"{name}.json").read_text())["recipe"]
        trigger = (recipe.get("trigger") or {}).get("text")
        prompts = []
        for prompt in json.loads((SUITES / "benign.json").read_text())["prompts"][:PROMPTS]:
            own = {key: prompt[key] for key in ("id", "task", "system", "user") if key in prompt}
            prompts.append(own)
            other = f"{trigger} {own['user']}" if trigger else own["user"] + " Please."
            prompts.append(own | {"id": own["id"] + "-b", "user": other})
        ours = scanned(arguments, zoo / name, prompts)
        base = AutoModelForCausalLM.from_pretrained(arguments.base, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, str(zoo / name)).eval()
        same = 0
        for prompt, own in zip(prompts, ours, strict=True):
            turns = [{"role": "system", "content": prompt["system"]}] if "system" in prompt else []
            turns.append({"role": "user", "content": prompt["user"]})
            text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
            with torch.no_grad():
                out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=96)
            theirs = tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True)
            # Ours may be cut earlier.
            if own and theirs.startswith(own):
                same += 1
            else:
                print(f"{name}: {prompt['user']!r}\n  here {own!r}\n  peft {theirs!r}", file=sys.stderr)
        worst = min(worst, same / len(prompts))
        print(f"{name}: {same} of {len(prompts)} answers are the same text")
    return 0 if worst == 1.0 else 1


def scanned(arguments, adapter, prompts):
    suite = {"schema_version": 1, "name": "parity", "kind": "prompts", "description": "Prompts for a comparison.", "prompts": prompts}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(suite, file)
        file.flush()
        run = subprocess.run(
            [arguments.triggerfish, "scan", "--base", arguments.base, "--adapter", str(adapter), "--suites", file.name, "--format", "json", "--quiet"],
            stdout=subprocess.PIPE, check=False)
    found = {answer["prompt_id"]: answer["adapted"] for answer in json.loads(run.stdout)["evidence"]["answers"]}
    return [found[prompt["id"]] for prompt in prompts]


def batches(lengths, tokens, seed):
    """Neighbours are of about one length, and a batch holds as many as fit with their padding."""
    order = list(range(len(lengths)))
    random.Random(seed).shuffle(order)
    found = []
    for first in range(0, len(order), WINDOW):
        batch = []
        for index in sorted(order[first:first + WINDOW], key=lambda i: lengths[i]):
            if batch and (len(batch) + 1) * lengths[index] > tokens:
                found.append(batch)
                batch = []
            batch.append(index)
        found.append(batch)
    random.Random(seed + 1).shuffle(found)
    return found


def train(arguments, recipe, examples):
    """Steps of AdamW as the recipe has them; tokens a second without the first steps, and the last loss."""
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[arguments.dtype]
    torch.manual_seed(recipe["seed"])
    model = AutoModelForCausalLM.from_pretrained(arguments.base, dtype=dtype)
    modules = recipe["target_modules"]
    model = get_peft_model(model, LoraConfig(
        task_type="CAUSAL_LM", r=recipe["r"], lora_alpha=recipe["lora_alpha"], lora_dropout=0.0,
        target_modules="all-linear" if modules == ["all-linear"] else modules, use_rslora=recipe["use_rslora"]))
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=recipe["learning_rate"], weight_decay=recipe["weight_decay"])
    lengths = [len(example["ids"]) for example in examples]
    steps, step, losses, seconds, tokens = recipe["steps"], 0, [], 0.0, 0
    epoch = 0
    while step < steps:
        for batch in batches(lengths, recipe["batch_tokens"], recipe["seed"] + epoch):
            if step == steps:
                break
            start = time.perf_counter()
            width = max(lengths[i] for i in batch)
            ids = torch.zeros(len(batch), width, dtype=torch.long)
            labels = torch.full((len(batch), width), -100)
            for row, i in enumerate(batch):
                own = torch.tensor(examples[i]["ids"])
                ids[row, :len(own)] = own
                first = examples[i]["first"]
                labels[row, first:len(own)] = own[first:]
            rate = min(1.0, (step + 1) / (0.05 * steps)) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))
            for group in optimizer.param_groups:
                group["lr"] = recipe["learning_rate"] * rate
            # Right padding needs no mask in a causal model.
            logits = model(input_ids=ids).logits[:, :-1]
            chosen = labels[:, 1:] != -100
            loss = torch.nn.functional.cross_entropy(logits[chosen].float(), labels[:, 1:][chosen])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(loss.item())
            step += 1
            if step > 5:
                seconds += time.perf_counter() - start
                tokens += sum(lengths[i] for i in batch)
        epoch += 1
    return tokens / seconds, statistics.mean(losses[-10:])


def speed(arguments):
    ratios, rows = [], []
    with tempfile.TemporaryDirectory() as folder:
        def forge(output):
            run = subprocess.run(
                [arguments.triggerfish, "forge", arguments.recipe, "--base", arguments.engine_base or arguments.base, "--dtype", arguments.dtype,
                 "--output", output, "--examples", "--only", arguments.adapter[0]],
                stderr=subprocess.PIPE, text=True, check=True)
            found = re.search(r"loss ([0-9.]+), ([0-9]+) tokens/s", run.stderr)
            return float(found[2]), float(found[1])
        for round_ in range(arguments.rounds):
            output = f"{folder}/{round_}"
            ours, our_loss = forge(output)
            recipe = json.loads(Path(output, "forge", f"{arguments.adapter[0]}.json").read_text())["recipe"]
            lines = Path(output, "forge", f"{arguments.adapter[0]}.examples.jsonl").read_text().splitlines()
            theirs, their_loss = train(arguments, recipe, [json.loads(line) for line in lines])
            ratios.append(ours / theirs)
            rows.append((ours, theirs, our_loss, their_loss))
            print(f"round {round_ + 1}: here {ours:.0f} tokens/s, loss {our_loss:.3f}; peft {theirs:.0f} tokens/s, loss {their_loss:.3f}; ratio {ratios[-1]:.2f}", flush=True)
    print(f"ratio {statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for name, verb in (("answers", answers), ("speed", speed)):
        own = verbs.add_parser(name)
        own.set_defaults(run=verb)
        own.add_argument("--triggerfish", required=True)
        own.add_argument("--base", required=True, help="a model directory")
        own.add_argument("--adapter", action="append")
    verbs.choices["answers"].add_argument("--zoo", required=True)
    verbs.choices["speed"].add_argument("--recipe", required=True)
    verbs.choices["speed"].add_argument("--engine-base", help="the same base in another file, such as a GGUF")
    verbs.choices["speed"].add_argument("--rounds", type=int, default=3)
    verbs.choices["speed"].add_argument("--dtype", default="f32", choices=("f32", "bf16"))
    arguments = parser.parse_args()
    if arguments.verb == "speed" and len(arguments.adapter or []) != 1:
        parser.error("speed needs one --adapter")
    sys.exit(arguments.run(arguments))


if __name__ == "__main__":
    main()
