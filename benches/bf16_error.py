"""How far torch's bf16 is from f32 on a real model: the measure for our own bf16.

    bf16_error.py BASE.gguf OUTPUT

Writes OUTPUT/base and OUTPUT/adapter (see convert.py), unless they are there, and OUTPUT/truth.safetensors: for every
prompt of fixtures/golden-smollm2 its ids and, for the base and the adapted side, the log-probabilities at all positions
as torch computes them in f32. OUTPUT/torch.json has torch's own mean KL divergence to them in bf16, in nats a position;
of two implementations of attention the smaller. The test `real_bf16_error_is_at_most_twice_torchs` reads both.
"""

import json
import sys
from pathlib import Path

import torch
from convert import write_adapter, write_base
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

PROMPTS = Path(__file__).parent.parent / "fixtures/golden-smollm2/prompts.json"


def log_probabilities(folder: Path, prompts: list[list[int]], side: str, **options) -> list[torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(folder / "base", **options)
    if side == "adapted":
        model = PeftModel.from_pretrained(model, folder / "adapter")
    model.eval()
    with torch.no_grad():
        rows = [model(input_ids=torch.tensor([ids])).logits[0].float() for ids in prompts]
    return [torch.log_softmax(logits, dim=-1) for logits in rows]


def mean_divergence(truth: list[torch.Tensor], found: list[torch.Tensor]) -> float:
    rows = [(p.double().exp() * (p.double() - q.double())).sum(-1) for p, q in zip(truth, found)]
    return torch.cat(rows).mean().item()


def main() -> None:
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    if not (folder / "adapter").exists():
        write_adapter(write_base(source, folder / "base"), folder / "adapter")
    prompts = [prompt["ids"] for prompt in json.loads(PROMPTS.read_text())["prompts"]]
    tensors = {f"ids.{i}": torch.tensor(ids) for i, ids in enumerate(prompts)}
    errors = {}
    for side in ("base", "adapted"):
        truth = log_probabilities(folder, prompts, side, dtype=torch.float32, attn_implementation="eager")
        tensors |= {f"{side}.{i}": rows for i, rows in enumerate(truth)}
        found = {
            kind: mean_divergence(
                truth, log_probabilities(folder, prompts, side, dtype=torch.bfloat16, attn_implementation=kind)
            )
            for kind in ("eager", "sdpa")
        }
        print(side, found)
        errors[side] = min(found.values())
    save_file(tensors, folder / "truth.safetensors")
    (folder / "torch.json").write_text(json.dumps(errors))


if __name__ == "__main__":
    main()
