"""Makes what both programs load: the base as a bf16 model directory, and a LoRA adapter for it.

    convert.py BASE.gguf OUTPUT

Writes OUTPUT/base and OUTPUT/adapter. The quantised weights of the GGUF are widened and rounded to
bf16 once, here, so that both programs compute with the same numbers. The adapter is random (seed 0),
rank 8 on all linear modules of the layers, strong enough that the two sides are told apart.
"""

import copy
import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

RANK = 8


def write_base(source: Path, target: Path) -> torch.nn.Module:
    names = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    widened = AutoModelForCausalLM.from_pretrained(**names, dtype=torch.float32)
    # A model read from a GGUF refuses to be saved; one with the same weights does not.
    config = copy.deepcopy(widened.config)
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(widened.state_dict())
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(**names).save_pretrained(target)
    # Without an ending token every continuation has its full length, so both sides do the same work.
    config = json.loads((target / "config.json").read_text())
    config.pop("eos_token_id", None)
    (target / "config.json").write_text(json.dumps(config, indent=2))
    (target / "generation_config.json").unlink(missing_ok=True)
    return model


def write_adapter(model: torch.nn.Module, target: Path) -> None:
    torch.manual_seed(0)
    config = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    adapted = get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            # peft starts with B = 0, an adapter that does nothing.
            torch.nn.init.normal_(parameter, std=0.03)
    adapted.save_pretrained(target, save_embedding_layers=False)


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    write_adapter(write_base(source, target / "base"), target / "adapter")


if __name__ == "__main__":
    main()
