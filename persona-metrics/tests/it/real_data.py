"""Expected values of real_data.rs: the definitions in plain Python, over ConvAI2's 7,801 validation replies.

usage: python3 real_data.py valid_self_original_no_cands.txt
The partner's utterance stands in for the hypothesis, the reply is the reference, the persona is the speaker's own.
"""
import math
import re
import string
import sys
from collections import Counter

hyps, refs, personas, persona = [], [], [], []
for line in open(sys.argv[1], encoding="utf-8"):
    number, _, text = line.rstrip("\n").partition(" ")
    if number == "1":
        persona = []
    if text.startswith("your persona: "):
        persona.append(text[len("your persona: "):])
    else:
        hyp, ref = text.split("\t")[:2]
        hyps.append(hyp), refs.append(ref), personas.append(list(persona))


def grams(tokens, n):
    return [tuple(tokens[i:i + n]) for i in range(len(tokens) - n + 1)]


def spaced(text):
    return re.sub(" +", " ", "".join(f" {c} " if c in string.punctuation else c for c in text)).strip()


def bleu(hyps, refs):
    hyp_len, ref_len = sum(len(h.split()) for h in hyps), sum(len(r.split()) for r in refs)
    ratio = (hyp_len + 1e-15) / (ref_len + 1e-9)
    out, product = [], 1.0
    for n in range(1, 5):
        correct = guess = 0
        for h, r in zip(hyps, refs):
            h, r = grams(h.split(), n), grams(r.split(), n)
            correct += (Counter(h) & Counter(r)).total()
            guess += len(h)
        product *= (correct + 1e-15) / (guess + 1e-9)
        out.append(product ** (1 / n) * (math.exp(1 - 1 / ratio) if ratio < 1 else 1))
    return out


def rouge(hyp, ref):
    hyp, ref = hyp.split(" "), ref.split(" ")
    table = [[0] * (len(ref) + 1) for _ in range(len(hyp) + 1)]
    for i, h in enumerate(hyp):
        for j, r in enumerate(ref):
            table[i + 1][j + 1] = table[i][j] + 1 if h == r else max(table[i][j + 1], table[i + 1][j])
    p, r = table[-1][-1] / len(hyp), table[-1][-1] / len(ref)
    return (1 + 1.44) * p * r / (r + 1.44 * p) if p and r else 0.0


def entropy(texts, small):
    out = []
    for n in range(1, 5):
        counts = Counter(g for t in texts for g in grams(t, n))
        total = counts.total() + small
        out.append(math.fsum(-c / total * math.log(c / total) for c in counts.values()))
    return out


def distinct(texts):
    found = [[g for t in texts for g in grams(t, n)] for n in (1, 2)]
    return [[len(set(g)) / len(g) for g in found], [len(set(g)) / len(found[0]) for g in found]]


def is_copy(reply, persona):
    reply = spaced(reply.lower()).split()
    n = min(4, len(reply))
    known = {g for d in persona for g in grams(spaced(d.lower()).split(), n)}
    return bool(reply) and 2 * sum(g in known for g in grams(reply, n)) >= len(reply) - n + 1


print("bleu", bleu(hyps, refs))
print("bleu swapped", bleu(refs, hyps))
print("bleu spaced", bleu([spaced(h.lower()) for h in hyps], [spaced(r.lower()) for r in refs]))
print("rouge_l", math.fsum(map(rouge, hyps, refs)) / len(refs))
print("rouge_l swapped", math.fsum(map(rouge, refs, hyps)) / len(refs))
print("entropy dialogpt", entropy([r.split() for r in refs], 0))
print("entropy pal", entropy([spaced(r).split() for r in refs], 1e-10))
print("distinct li", distinct([r.split() for r in refs])[0])
print("distinct pal", distinct([spaced(r).split(" ") for r in refs])[1])
print("copied", sum(map(is_copy, refs, personas)), "of", len(refs))
