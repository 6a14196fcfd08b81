"""Writes optimizer.json beside itself: what transformers and PEFT make of schedules and parameter groups.

    python generate.py        needs torch, transformers and peft
"""

import json
import pathlib

import peft
import torch
import transformers
from peft.optimizers import create_loraplus_optimizer
from transformers.trainer import Trainer

LEARNING_RATE = 3e-4


def rates(name, steps, warmup):
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=LEARNING_RATE)
    schedules = {
        "constant": lambda: transformers.get_constant_schedule_with_warmup(optimizer, warmup),
        "linear": lambda: transformers.get_linear_schedule_with_warmup(optimizer, warmup, steps),
        "cosine": lambda: transformers.get_cosine_schedule_with_warmup(optimizer, warmup, steps),
    }
    if name == "constant" and warmup == 0:
        schedule = transformers.get_constant_schedule(optimizer)
    else:
        schedule = schedules[name]()
    values = []
    for _ in range(steps):
        values.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return values


def models():
    gpt2 = transformers.GPT2Config(vocab_size=30, n_positions=24, n_embd=16, n_layer=1, n_head=2)
    llama = transformers.LlamaConfig(
        vocab_size=30, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    bert = transformers.BertConfig(
        vocab_size=30, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )
    t5 = transformers.T5Config(vocab_size=30, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    return {
        "gpt2": transformers.GPT2LMHeadModel(gpt2),
        "llama": transformers.LlamaForCausalLM(llama),
        "bert": transformers.BertForSequenceClassification(bert),
        "t5": transformers.T5ForConditionalGeneration(t5),
    }


def decay(model):
    decays = set(Trainer.get_decay_parameter_names(None, model))
    return [
        {"name": name, "shape": list(parameter.shape), "decays": name in decays}
        for name, parameter in model.named_parameters()
    ]


def lora_plus(model):
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["c_attn"], fan_in_fan_out=True)
    model = peft.get_peft_model(model, config)
    optimizer = create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=LEARNING_RATE, loraplus_lr_ratio=16, loraplus_weight_decay=0.1
    )
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [
        {
            "name": names[parameter].removeprefix("base_model.model.").replace(".default.", "."),
            "shape": list(parameter.shape),
            "learning_rate": group["lr"],
            "weight_decay": group["weight_decay"],
        }
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]


def main():
    schedules = [
        {"schedule": name, "steps": steps, "warmup_steps": warmup, "rates": rates(name, steps, warmup)}
        for name in ["constant", "linear", "cosine"]
        for steps, warmup in [(9, 0), (13, 5), (40, 1)]
    ]
    found = models()
    golden = {
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__},
        "learning_rate": LEARNING_RATE,
        "schedules": schedules,
        "decay": {name: decay(model) for name, model in found.items()},
        "lora_plus": lora_plus(found["gpt2"]),
    }
    path = pathlib.Path(__file__).with_name("optimizer.json")
    path.write_text(json.dumps(golden, indent=1) + "\n")


main()
