"""Makes what the programs load: the base as a bf16 model directory, and a LoRA adapter for it.

    convert.py BASE.gguf OUTPUT

Writes OUTPUT/base, OUTPUT/adapter, OUTPUT/merged (the adapted model without an adapter, f32, in the layout
of transformers 4) and OUTPUT/base-bf16.gguf. The quantised weights of the GGUF are widened and rounded to
bf16 once, here, so that all programs compute with the same numbers. The adapter is random (seed 0), rank 8
on all linear modules of the layers, strong enough that the two sides are told apart.
"""

import copy
import json
import sys
from pathlib import Path

import gguf
import numpy
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


def write_adapter(model: torch.nn.Module, target: Path) -> torch.nn.Module:
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
    return adapted


def write_merged(adapted: torch.nn.Module, base: Path, target: Path) -> None:
    # In f32, since merging in bf16 would round the sum a second time.
    adapted.float().merge_and_unload().save_pretrained(target)
    AutoTokenizer.from_pretrained(base).save_pretrained(target)
    config = json.loads((target / "config.json").read_text())
    # transformers 4 reads neither the nested rope parameters nor `dtype`, and says nothing of it.
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    config["torch_dtype"] = config.pop("dtype", "float32")
    (target / "config.json").write_text(json.dumps(config, indent=2))
    tokenizer = json.loads((target / "tokenizer_config.json").read_text())
    tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    # nanogcg takes the text of this token out of the whole rendered prompt, and here it opens every turn.
    tokenizer.pop("bos_token", None)
    template = target / "chat_template.jinja"
    if template.exists():
        tokenizer["chat_template"] = template.read_text()
    (target / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=2))


def write_gguf(source: Path, target: Path) -> None:
    """The source with every matrix in bf16; widened and rounded as in write_base."""
    reader = gguf.GGUFReader(source)
    architecture = reader.fields[gguf.Keys.General.ARCHITECTURE].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for field in reader.fields.values():
        own = (gguf.Keys.General.ARCHITECTURE, gguf.Keys.General.FILE_TYPE, "general.quantization_version")
        if field.name.startswith("GGUF.") or field.name in own:
            continue
        kind = field.types[0]
        of = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, of)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    for tensor in reader.tensors:
        widened = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        rounded = torch.from_numpy(widened.copy()).bfloat16().float().numpy()
        if rounded.ndim > 1:
            kind = gguf.GGMLQuantizationType.BF16
            writer.add_tensor(tensor.name, gguf.quants.quantize(rounded, kind), raw_dtype=kind)
        else:
            writer.add_tensor(tensor.name, rounded)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    adapted = write_adapter(write_base(source, target / "base"), target / "adapter")
    write_merged(adapted, target / "base", target / "merged")
    write_gguf(source, target / "base-bf16.gguf")


if __name__ == "__main__":
    main()
