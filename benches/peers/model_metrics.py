"""Times bert-score and loops over transformers on what the program model_metrics computes.

    pip install torch==2.11.0 transformers==5.17.0 numpy bert-score==0.3.13
    python benches/peers/make_lines.py valid_self_original_no_cands.txt --out lines
    python benches/peers/model_metrics.py prepare --encoder all-MiniLM-L6-v2 --lines lines \\
        --dialogues valid_self_original_no_cands.txt --out work --texts 1000 --pairs 2000
    python benches/peers/model_metrics.py time work --repeat 3
    cargo run --release -p persona-benches --bin model_metrics -- work 3

prepare: the encoder and a classifier on it (random head), the first texts of both files, and pairs of each reply with
every description of its speaker, in the order of the dialogues.

time: one JSON line each, wall clock of whole runs from the strings in memory to the score, after one run that is not
counted; loading models is not in it. cpu_seconds_best is the processor time of the same runs: where others use the
cores, it says more, with OMP_NUM_THREADS=1 above all.

    bertscore, bertscore_idf   bert_score.BERTScorer.score as it is, batches of 64, which computes distinct texts once, by length
    similarity                 tokenize, encode in the order of the texts, mean pooling; batches of 64
    judge                      tokenize, classify in the order of the pairs; batches of 64
    similarity_sorted, judge_sorted
                               the same, sorted by length (as sentence-transformers does), distinct texts computed once
"""
import argparse
import json
import shutil
import statistics
import sys
import time
import types
from pathlib import Path

import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

LABELS = ["contradiction", "neutral", "entailment"]
BATCH = 64


def prepare(args):
    args.out.mkdir(parents=True, exist_ok=True)
    shutil.copytree(args.encoder, args.out / "encoder", dirs_exist_ok=True)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        args.encoder, num_labels=3, id2label=dict(enumerate(LABELS)), label2id={l: i for i, l in enumerate(LABELS)})
    torch.nn.init.normal_(model.classifier.weight, std=0.5)  # so that the classes differ
    model.save_pretrained(args.out / "judge")
    for name in ["tokenizer.json", "tokenizer_config.json", "vocab.txt"]:
        shutil.copy(Path(args.encoder) / name, args.out / "judge" / name)
    for name in ["hypotheses.txt", "references.txt"]:
        lines = (args.lines / name).read_text(encoding="utf-8").split("\n")[:args.texts]
        (args.out / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    pairs, persona = [], []
    for line in args.dialogues.read_text(encoding="utf-8").split("\n"):
        number, _, rest = line.partition(" ")
        persona = [] if number == "1" else persona
        if rest.startswith("your persona: "):
            persona.append(rest.removeprefix("your persona: "))
        elif "\t" in rest:
            pairs += [f"{description}\t{rest.split(chr(9))[1].strip()}" for description in persona]
    (args.out / "pairs.tsv").write_text("\n".join(pairs[:args.pairs]) + "\n", encoding="utf-8")


def bert_score_package():
    for name in ["matplotlib", "matplotlib.pyplot", "mpl_toolkits", "mpl_toolkits.axes_grid1", "requests"]:
        sys.modules.setdefault(name, types.ModuleType(name))  # only its plots use them
    sys.modules["mpl_toolkits.axes_grid1"].make_axes_locatable = None
    from transformers import PreTrainedTokenizerBase

    if not hasattr(PreTrainedTokenizerBase, "build_inputs_with_special_tokens"):  # transformers 5 has it no more
        PreTrainedTokenizerBase.build_inputs_with_special_tokens = (
            lambda self, ids: [self.cls_token_id, *ids, self.sep_token_id])
    import bert_score

    return bert_score


def bertscore(folder, hypotheses, references, layers, idf):
    scorer = bert_score_package().BERTScorer(
        model_type=str(folder / "encoder"), num_layers=layers, idf=idf, idf_sents=references if idf else None,
        batch_size=BATCH, nthreads=2)

    def run():
        if idf:
            scorer.compute_idf(references)
        return [float(score.mean()) for score in scorer.score(hypotheses, references)]

    return run


def once(items, sort):
    """What is computed, in which order: everything as it comes, or each distinct item once, by length."""
    return sorted(set(items), key=lambda item: len(" ".join(item) if isinstance(item, tuple) else item)) if sort else items


def batches(items, tokenizer):
    for start in range(0, len(items), BATCH):
        batch = items[start:start + BATCH]
        columns = zip(*batch) if isinstance(batch[0], tuple) else [batch]
        yield batch, tokenizer(*map(list, columns), padding=True, truncation=True, return_tensors="pt")


@torch.inference_mode()
def similarities(tokenizer, model, hypotheses, references, sort):
    vectors, rows = [], []
    for batch, inputs in batches(once(hypotheses + references, sort), tokenizer):
        mask = inputs["attention_mask"].unsqueeze(-1).float()
        hidden = model(**inputs).last_hidden_state
        vectors.append((hidden * mask).sum(1) / mask.sum(1))
        rows += batch
    vectors = torch.cat(vectors)
    if sort:
        place = {row: at for at, row in enumerate(rows)}
        vectors = vectors[[place[text] for text in hypotheses + references]]
    cosines = torch.nn.functional.cosine_similarity(vectors[:len(hypotheses)], vectors[len(hypotheses):])
    return [cosines.mean().item(), (cosines >= 0.9).float().mean().item()]


@torch.inference_mode()
def judgements(tokenizer, model, pairs, sort):
    value = {}
    order = []
    for batch, inputs in batches(once(pairs, sort), tokenizer):
        classes = model(**inputs).logits.argmax(-1).tolist()
        order += classes
        value.update(zip(batch, classes))
    classes = [value[pair] for pair in pairs] if sort else order
    return [sum(c - 1 for c in classes) / len(pairs)]


def measure(args):
    read = lambda name: (args.folder / name).read_text(encoding="utf-8").split("\n")[:-1]
    hypotheses, references = read("hypotheses.txt"), read("references.txt")
    pairs = [tuple(line.split("\t")) for line in read("pairs.tsv")]
    load = lambda kind, name: (AutoTokenizer.from_pretrained(args.folder / name),
                               kind.from_pretrained(args.folder / name).eval())
    encoder, judge = load(AutoModel, "encoder"), load(AutoModelForSequenceClassification, "judge")
    layers = encoder[1].config.num_hidden_layers
    cases = {
        "bertscore": lambda: bertscore(args.folder, hypotheses, references, layers, False),
        "bertscore_idf": lambda: bertscore(args.folder, hypotheses, references, layers, True),
        "similarity": lambda: lambda: similarities(*encoder, hypotheses, references, False),
        "similarity_sorted": lambda: lambda: similarities(*encoder, hypotheses, references, True),
        "judge": lambda: lambda: judgements(*judge, pairs, False),
        "judge_sorted": lambda: lambda: judgements(*judge, pairs, True),
    }
    for name, case in cases.items():
        if args.only and name not in args.only:
            continue
        run, seconds, processor = case(), [], []
        scores = run()
        for _ in range(args.repeat):
            began, before = time.perf_counter(), time.process_time()
            run()
            seconds.append(time.perf_counter() - began)
            processor.append(time.process_time() - before)
        print(json.dumps(dict(name=name, lines=len(pairs) if name.startswith("judge") else len(hypotheses),
                              seconds_best=round(min(seconds), 3), seconds_median=round(statistics.median(seconds), 3),
                              cpu_seconds_best=round(min(processor), 2), scores=scores, threads=torch.get_num_threads())), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("prepare")
    command.set_defaults(run=prepare)
    command.add_argument("--encoder", required=True)
    command.add_argument("--lines", type=Path, required=True)
    command.add_argument("--dialogues", type=Path, required=True)
    command.add_argument("--out", type=Path, required=True)
    command.add_argument("--texts", type=int, default=1000)
    command.add_argument("--pairs", type=int, default=2000)
    command = commands.add_parser("time")
    command.set_defaults(run=measure)
    command.add_argument("folder", type=Path)
    command.add_argument("--repeat", type=int, default=3)
    command.add_argument("--only", nargs="*")
    args = parser.parse_args()
    args.run(args)
