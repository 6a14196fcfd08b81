#!/usr/bin/env python3
"""Write parity cases of kind `modules_to_save`: LoRAs with full copies of embeddings and head, as PEFT saves them.

    python generate_modules_to_save.py --seed 0 --out cases

Packages as in generate.py, which this takes its helpers from. A case with `vocabulary` has a base that was resized
after it was saved: embeddings then lie in the adapter too. `tensors` hold the logits of the resized base alone and with
the adapter; new rows of a resized base differ from run to run by some 1e-5, so `base_logits` are compared to 1e-2 there.
"""
import argparse, random
from importlib.metadata import version
from pathlib import Path

import torch
import generate
from generate import Case, batch, gpt2, llama, position_ids

generate.VOCAB = 64
OLD, NEW = 64, 67

CASES = [  # name, base, targets, options of LoraConfig, vocabulary after resizing
    ("gpt2_untied", lambda: gpt2(n_layer=1), ["c_attn"], dict(modules_to_save=["wte", "lm_head"], fan_in_fan_out=True), None),
    ("gpt2_embedding", lambda: gpt2(n_layer=1), ["c_attn"], dict(modules_to_save=["wte"], fan_in_fan_out=True), None),
    ("gpt2_resized", lambda: gpt2(n_layer=1), ["c_attn"], dict(fan_in_fan_out=True), NEW),
    ("llama_head", lambda: llama(num_hidden_layers=1), ["q_proj"], dict(modules_to_save=["lm_head"]), None),
    ("llama_tied", lambda: llama(num_hidden_layers=1, tie_word_embeddings=True), ["q_proj"],
     dict(modules_to_save=["embed_tokens"], ensure_weight_tying=True), None),
    ("llama_resized", lambda: llama(num_hidden_layers=1), ["q_proj"], dict(modules_to_save=["embed_tokens", "lm_head"]), NEW),
    ("llama_tied_resized", lambda: llama(num_hidden_layers=1, tie_word_embeddings=True), ["q_proj"],
     dict(modules_to_save=["embed_tokens"]), NEW),
]


def main():
    from peft import LoraConfig, get_peft_model
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--seed", type=int, default=0)
    ap.add_argument("--out", default="cases")
    args = ap.parse_args()
    rng = random.Random(args.seed)
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    versions = {p: version(p) for p in ["torch", "transformers", "peft", "safetensors"]}
    versions["seed"] = args.seed
    for name, make, targets, options, vocabulary in CASES:
        case = Case(Path(args.out), f"modules_to_save_{name}", "modules_to_save", model="model", adapter="adapter",
                    vocabulary=vocabulary)
        base = make()
        base.save_pretrained(case.dir / "model")
        if vocabulary:
            base.resize_token_embeddings(vocabulary)
        ids, mask = batch(rng, "right", rows=3, low=3, high=9)
        if vocabulary:
            ids[:, 1] = torch.arange(OLD, OLD + len(ids))
        inputs = dict(input_ids=ids, attention_mask=mask, position_ids=position_ids(mask))
        case.put(input_ids=ids, attention_mask=mask, base_logits=base(**inputs).logits)
        model = get_peft_model(base, LoraConfig(r=2, lora_alpha=3, target_modules=targets, task_type="CAUSAL_LM", **options))
        with torch.no_grad():
            for p in model.parameters():
                if p.requires_grad:
                    p.add_(torch.randn_like(p) * 0.2)
        model.eval()
        model.save_pretrained(case.dir / "adapter", save_embedding_layers=bool(vocabulary))
        (case.dir / "adapter" / "README.md").unlink()
        case.put(adapter_logits=model(**inputs).logits)
        case.close(versions)
        print(case.dir.name)


if __name__ == "__main__":
    main()
