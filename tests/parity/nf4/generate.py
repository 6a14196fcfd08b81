#!/usr/bin/env python3
"""Write parity cases of kind `nf4_model`: tiny models that transformers and bitsandbytes quantised on the CPU.

    python generate.py --seed 0 --out ../cases
    pip install torch==2.11.0 transformers==5.17.0 bitsandbytes==0.50.2 accelerate==1.15.0 safetensors==0.8.0

A case holds the float model (`model`), what was saved of it in NF4 (`quantized`), and in tensors.safetensors the logits
of the quantised model for unpadded rows of ids, computed in float32.

No row of weights is a multiple of 16 without being one of 64: from those, bitsandbytes 0.50.2 does not read what it packed
where the CPU has AVX-512.
"""
import argparse, json, random
from pathlib import Path

import bitsandbytes, torch, transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GPT2Config, LlamaConfig

VOCAB = 48
LLAMA = LlamaConfig(vocab_size=VOCAB, hidden_size=40, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
                    num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=False)
GPT2 = GPT2Config(vocab_size=VOCAB, n_positions=64, n_embd=20, n_inner=72, n_layer=2, n_head=2, resid_pdrop=0,
                  embd_pdrop=0, attn_pdrop=0, bos_token_id=1, eos_token_id=2)


def write(out, name, config, double_quant, dtype, rng):
    folder = out / name
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0.0, 0.2)
    model.save_pretrained(folder / "model")
    options = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double_quant,
                                 bnb_4bit_compute_dtype=torch.float32)
    model = AutoModelForCausalLM.from_pretrained(folder / "model", quantization_config=options, dtype=dtype,
                                                 device_map="cpu").train()
    model.save_pretrained(folder / "quantized")
    # The reference answers from what it saved, in float32.
    model = AutoModelForCausalLM.from_pretrained(folder / "quantized", dtype=torch.float32, device_map="cpu").train()
    rows = [[rng.randrange(VOCAB) for _ in range(length)] for length in (12, 5, 9)]
    logits = [model(torch.tensor([row])).logits[0].detach() for row in rows]
    tensors = {"ids": torch.tensor(sum(rows, [])), "logits": torch.cat(logits).contiguous()}
    save_file(tensors, folder / "tensors.safetensors")
    versions = {package.__name__: package.__version__ for package in (torch, transformers, bitsandbytes)}
    case = {"kind": "nf4_model", "versions": versions, "lens": [len(row) for row in rows],
            "double_quant": double_quant, "dtype": str(dtype).removeprefix("torch.")}
    (folder / "case.json").write_text(json.dumps(case, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    rng = random.Random(arguments.seed)
    write(arguments.out, "nf4_model_llama", LLAMA, True, torch.float32, rng)
    write(arguments.out, "nf4_model_llama_bf16", LLAMA, False, torch.bfloat16, rng)
    write(arguments.out, "nf4_model_gpt2", GPT2, True, torch.float32, rng)


main()
