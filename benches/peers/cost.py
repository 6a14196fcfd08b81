"""What transformers' models cost, under the names of persona-benches' program `cost`; and both in turn as a table.

    python benches/peers/cost.py make --preset gpt2|llama1b --out DIR [--dtype fp32|bf16]
    python benches/peers/cost.py load|forward|backward --model DIR [--dtype fp32|bf16] [--rows 8] [--tokens 128]
    python benches/peers/cost.py compare --model DIR --program target/release/cost [--dtype ...] [--rounds 2] [--mapped]

`make` writes a checkpoint with random weights. One process a measurement, so that peak memory is its own.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

PRESETS = {
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    # The shape of Llama 3.2 1B.
    "llama1b": {
        "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 131072,
        "tie_word_embeddings": True,
    },
}


def kind_of(dtype):
    import torch

    return torch.bfloat16 if dtype == "bf16" else torch.float32


def make(args):
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_default_dtype(kind_of(args.dtype))
    preset = PRESETS[args.preset]
    model = GPT2LMHeadModel(GPT2Config(**preset)) if args.preset == "gpt2" else LlamaForCausalLM(LlamaConfig(**preset))
    model.save_pretrained(args.out)


def measure(args):
    import torch
    from transformers import AutoModelForCausalLM

    began = time.perf_counter()
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=kind_of(args.dtype))
    seconds, value = [time.perf_counter() - began], model.num_parameters()
    vocabulary = model.config.vocab_size
    ids = [[(7919 * row + 104729 * token) % vocabulary for token in range(args.tokens)] for row in range(args.rows)]
    ids = torch.tensor(ids)

    def forward():
        with torch.no_grad():
            return model(ids, labels=ids, use_cache=False).loss.item()

    def backward():
        model.zero_grad()
        loss = model(ids, labels=ids, use_cache=False).loss
        loss.backward()
        return loss.item()

    if args.what != "load":
        run = {"forward": forward, "backward": backward}[args.what]
        model.train(args.what == "backward")
        run()
        seconds = []
        for _ in range(args.repeat):
            began = time.perf_counter()
            value = run()
            seconds.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    line = {"what": args.what, "seconds": statistics.median(seconds), "seconds_best": min(seconds), "value": value}
    print(json.dumps({**line, "peak_mib": peak}))


def compare(args):
    shape = ["--model", args.model, "--dtype", args.dtype, "--rows", str(args.rows), "--tokens", str(args.tokens)]
    shape += ["--repeat", str(args.repeat)]

    def run(command):
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(command)}: ended with {done.returncode}")
        return json.loads(done.stdout.splitlines()[-1])

    print(f"{args.rows} rows of {args.tokens} tokens, {args.dtype}, load {os.getloadavg()[0]:.2f} before\n")
    print("| | transformers | here | times | MiB there | MiB here | value there | value here |")
    print("|---|---|---|---|---|---|---|---|")
    for what in args.only or ["load", "forward", "backward"]:
        here, there = [], []
        for _ in range(args.rounds):
            here.append(run([args.program, what, *shape, *(["--mapped"] if args.mapped else [])]))
            there.append(run([sys.executable, __file__, what, *shape]))
        ours, theirs = (min(line["seconds"] for line in lines) for lines in (here, there))
        peaks = (min(line["peak_mib"] for line in lines) for lines in (there, here))
        values = (lines[0]["value"] for lines in (there, here))
        cells = [what, f"{theirs:.3g} s", f"{ours:.3g} s", f"{theirs / ours:.2f}", *map(str, peaks)]
        print(f"| {' | '.join(cells + [f'{value:.6g}' for value in values])} |", flush=True)
    print(f"\nload {os.getloadavg()[0]:.2f} after")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["make", "load", "forward", "backward", "compare"])
    parser.add_argument("--preset", choices=PRESETS, default="gpt2")
    parser.add_argument("--out")
    parser.add_argument("--model")
    parser.add_argument("--program", default="target/release/cost")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--mapped", action="store_true", help="weights stay in their file here, as they do there")
    parser.add_argument("--only", nargs="+", choices=["load", "forward", "backward"])
    args = parser.parse_args()
    {"make": make, "compare": compare}.get(args.what, measure)(args)


if __name__ == "__main__":
    main()
