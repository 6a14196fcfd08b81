#!/usr/bin/env python3
"""Makes the two text files that metrics.py reads, one text a line, from a PERSONA-CHAT file in ParlAI's format.

    python benches/peers/make_lines.py valid_self_original_no_cands.txt --out lines
    python benches/peers/make_lines.py valid_self_original_no_cands.txt --out lines_1m --lines 1000000

references.txt: the replies in the order of the file. After the last of them, each line is the beginning of one reply
and the end of another, cut and chosen by the seed. hypotheses.txt: line by line the reference with words dropped,
replaced and moved; from one line to the next between none and two thirds of the words are touched.

The same arguments give the same files on every Python 3: only random.Random.random() is drawn from. A shorter file is
the beginning of a longer one. Prints one JSON line: counts, and the SHA-256 of each file.
"""
import argparse
import hashlib
import json
import random
import sys
from pathlib import Path


def replies(path):
    """Second column of each dialogue line (`N utterance<TAB>reply`); persona lines have one column."""
    with open(path, encoding="utf-8", newline="\n") as file:
        rows = (line.rstrip("\r\n").split("\t") for line in file)
        return [row[1].strip() for row in rows if len(row) > 1]


class Draw:
    """Everything random comes from Random.random(), whose values do not change between Python versions."""

    def __init__(self, seed):
        self.random = random.Random(seed).random

    def below(self, n):
        return int(self.random() * n)

    def one(self, items):
        return items[self.below(len(items))]


def recombined(gold, draw):
    first, second = draw.one(gold).split(), draw.one(gold).split()
    return " ".join(first[: 1 + draw.below(len(first))] + second[draw.below(len(second)) :])


def corrupted(text, vocabulary, draw):
    strength = draw.random() * 2 / 3
    words = []
    for word in text.split():
        roll = draw.random()
        if roll < strength / 3:
            continue
        words.append(draw.one(vocabulary) if roll < 2 * strength / 3 else word)
    for _ in range(int(len(words) * strength / 3)):
        word = words.pop(draw.below(len(words)))
        words.insert(draw.below(len(words) + 1), word)
    return " ".join(words or [draw.one(vocabulary)])


def pairs(gold, lines, seed):
    """Yields (reference, hypothesis). Words are replaced by words in proportion to how often they occur."""
    vocabulary = [word for text in gold for word in text.split()]
    draw = Draw(seed)
    for index in range(lines):
        reference = gold[index] if index < len(gold) else recombined(gold, draw)
        yield reference, corrupted(reference, vocabulary, draw)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dialogues", help="ParlAI text: `N utterance<TAB>reply`")
    parser.add_argument("--out", required=True, help="folder for references.txt and hypotheses.txt")
    parser.add_argument("--lines", type=int, help="how many (default: as many as there are replies)")
    parser.add_argument("--seed", type=int, default=20261121)
    args = parser.parse_args()
    gold = [text for text in replies(args.dialogues) if text]
    if not gold:
        sys.exit(f"{args.dialogues}: no `N utterance<TAB>reply` line")
    lines = len(gold) if args.lines is None else args.lines
    if lines < 1:
        sys.exit("--lines: at least 1")

    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    names = ("references", "hypotheses")
    digests, tokens = [hashlib.sha256(), hashlib.sha256()], [0, 0]
    files = [open(out / f"{name}.txt", "wb") for name in names]
    for pair in pairs(gold, lines, args.seed):
        for side, text in enumerate(pair):
            line = text.encode() + b"\n"
            files[side].write(line)
            digests[side].update(line)
            tokens[side] += len(text.split())
    for file in files:
        file.close()
    report = {"replies": len(gold), "lines": lines, "seed": args.seed}
    for side, name in enumerate(names):
        report[name] = {"tokens": tokens[side], "sha256": digests[side].hexdigest()}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
