"""Loads with transformers and PEFT what persona-model has saved, and compares logits.

    PERSONA_SAVE_DIR=saved cargo test --release -p persona-model saved
    python tests/parity/load_back.py saved

Needs torch, transformers, peft and safetensors in the versions of generate.py. Stops at a key that is missing or unexpected, and
where logits differ by more than 1e-4.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification


def model_of(folder):
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    kinds = {"ForConditionalGeneration": AutoModelForSeq2SeqLM, "ForSequenceClassification": AutoModelForSequenceClassification}
    kind = next((kind for name, kind in kinds.items() if architecture.endswith(name)), AutoModelForCausalLM)
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    problems = {key: names for key, names in info.items() if names}
    assert not problems, f"{folder}: {problems}"
    return model.eval()


def main():
    root = Path(sys.argv[1])
    for expected in sorted(root.glob("*/expected.safetensors")):
        folder = expected.parent
        if (folder / "adapter_config.json").exists():
            from peft import PeftModel

            model = PeftModel.from_pretrained(model_of(root / folder.name.rsplit("-", 1)[0]), folder).eval()
        else:
            model = model_of(folder)
        tensors = load_file(expected)
        ids = tensors["input_ids"]
        inputs = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False, **inputs).logits if "Classification" not in type(model).__name__ else model(ids).logits
        logits = logits[:, -ids.shape[1]:] if logits.dim() == 3 else logits
        difference = (logits - tensors["logits"]).abs().max().item()
        print(f"{folder.name}: logits differ by at most {difference:.1e}")
        assert difference < 1e-4, folder


if __name__ == "__main__":
    main()
