"""A persona judge as a transformers loop: seconds and confusion matrix, beside `judge evaluate`.

    python benches/peers/judge.py JUDGE_FOLDER valid_persona_nli_scores.tsv persona-data/src/persona_chat_valid.json

Reads Valid#2, in the order of the file, 32 pairs a batch, each padded to its longest. Needs torch and transformers.
"""

import json
import re
import sys
import time

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

CLASSES = ["contradiction", "neutral", "entailment"]


def main(folder, scores, split):
    parts = json.load(open(split))["parts"]
    held_out = {int(re.search(r"\d+$", name)[0]) - 1 for name in parts[1]["dialogues"]}
    rows = [line.rstrip("\n").split("\t") for line in open(scores)][1:]
    rows = [row for row in rows if int(row[0]) in held_out]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    names = [model.config.id2label[at].lower() for at in range(3)]
    confusion = [[0] * 3 for _ in range(3)]
    began = time.perf_counter()
    with torch.inference_mode():
        for start in range(0, len(rows), 32):
            batch = rows[start : start + 32]
            texts = tokenizer(
                [row[7] for row in batch],
                [row[8] for row in batch],
                padding=True,
                truncation=True,
                return_tensors="pt",
            )
            for row, found in zip(batch, model(**texts).logits.argmax(-1).tolist()):
                confusion[CLASSES.index(row[3])][CLASSES.index(names[found])] += 1
    seconds = time.perf_counter() - began
    print(f"{len(rows)} pairs in {seconds:.1f} s, {torch.get_num_threads()} threads")
    for name, row in zip(CLASSES, confusion):
        print(f"{name:<14}", *row)


if __name__ == "__main__":
    main(*sys.argv[1:])
