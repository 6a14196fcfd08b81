#!/usr/bin/env python3
"""Times the Python packages that compute the metrics of persona-metrics.

    pip install -r benches/peers/requirements.txt
    python benches/peers/make_lines.py valid_self_original_no_cands.txt --out lines
    python benches/peers/metrics.py --hypotheses lines/hypotheses.txt --references lines/references.txt
    python benches/peers/metrics.py ... --repeat 10 --lines 1000 --only rouge_score rouge_score_stemmed
    python benches/peers/metrics.py --list

Reads two files, one text a line, and prints one JSON line a metric:

    name, package, version
    lines, tokens        tokens between whitespace in the texts that the metric reads
    seconds_best, seconds_median, repeats
                         wall clock of whole runs from the strings in memory to the score, after one run that is not
                         counted; reading the files and importing the package are not in it
    cpu_seconds_best     processor time of the same runs: where it is far below seconds_best, others used the core
    score                what the package gives, on its own scale
    start_mib, peak_mib  resident memory of the metric's process before the first run and at its highest in that run
                         (sacrebleu keeps the lines that it tokenised: later runs would hold several times as many)

Every metric runs in a forked process of its own, on one core, so that one metric's memory is not counted for the next.
A metric whose package is not installed is named on stderr and passed over. Measure on an idle machine.
"""
import argparse
import importlib.metadata
import json
import math
import multiprocessing
import platform
import resource
import statistics
import string
import sys
import time
import warnings
from collections import defaultdict

# ------------------------------------------------------------------ packages: each function gives a run to be timed


def sacrebleu_bleu(hypotheses, references):
    import sacrebleu

    return lambda: sacrebleu.corpus_bleu(hypotheses, [references], tokenize="13a", force=True).score


def sacrebleu_chrf(hypotheses, references):
    import sacrebleu

    return lambda: sacrebleu.corpus_chrf(hypotheses, [references]).score


def sacrebleu_chrf_words(hypotheses, references):
    import sacrebleu

    return lambda: sacrebleu.corpus_chrf(hypotheses, [references], word_order=2).score


def rouge_score(use_stemmer):
    def prepare(hypotheses, references):
        from rouge_score import rouge_scorer

        names = ["rouge1", "rouge2", "rougeL"]

        def run():
            scorer = rouge_scorer.RougeScorer(names, use_stemmer=use_stemmer)
            sums = dict.fromkeys(names, 0.0)
            for hypothesis, reference in zip(hypotheses, references):
                scores = scorer.score(reference, hypothesis)
                for name in names:
                    sums[name] += scores[name].fmeasure
            return {name: value / len(hypotheses) for name, value in sums.items()}

        return run

    return prepare


def pycocoevalcap_bleu(hypotheses, references):
    from pycocoevalcap.bleu.bleu import Bleu

    def run():
        candidates = {i: [text] for i, text in enumerate(hypotheses)}
        return Bleu(4).compute_score({i: [text] for i, text in enumerate(references)}, candidates, verbose=0)[0]

    return run


def pycocoevalcap_rouge_l(hypotheses, references):
    from pycocoevalcap.rouge.rouge import Rouge

    def run():
        candidates = {i: [text] for i, text in enumerate(hypotheses)}
        return float(Rouge().compute_score({i: [text] for i, text in enumerate(references)}, candidates)[0])

    return run


def nltk_bleu(units):
    def prepare(hypotheses, references):
        from nltk.translate.bleu_score import sentence_bleu

        warnings.simplefilter("ignore")  # one for every sentence without a matching n-gram

        def run():
            total = 0.0
            for hypothesis, reference in zip(hypotheses, references):
                total += sentence_bleu([units(reference)], units(hypothesis))
            return total / len(hypotheses)

        return run

    return prepare


# ------------------------------------------------------------------ plain Python, as the papers' scripts compute it


def count_ngrams(token_lists, order):
    counts = defaultdict(int)
    for tokens in token_lists:
        for start in range(len(tokens) - order + 1):
            counts[" ".join(tokens[start : start + order])] += 1
    return counts


def entropies(token_lists, added):
    """Ent-1 to 4 in nats; `added` goes to the number of n-grams."""
    scores = []
    for order in range(1, 5):
        counts = count_ngrams(token_lists, order)
        total = sum(counts.values()) + added
        scores.append(sum(-(n / total) * (math.log(n) - math.log(total)) for n in counts.values()))
    return scores


SPACED = str.maketrans({character: f" {character} " for character in string.punctuation})


def spaced(text):
    """The text with spaces around every ASCII punctuation character."""
    return text.translate(SPACED)


def entropy_dialogpt(hypotheses, _references):
    return lambda: entropies([text.split() for text in hypotheses], 0.0)


def entropy_pal(hypotheses, _references):
    return lambda: entropies([spaced(text).split() for text in hypotheses], 1e-10)


def distinct_dialogpt(hypotheses, _references):
    def run():
        token_lists = [text.split() for text in hypotheses]
        counts = [count_ngrams(token_lists, order) for order in (1, 2)]
        return [len(order) / sum(order.values()) for order in counts]

    return run


def distinct_pal(hypotheses, _references):
    """Both orders are divided by the number of tokens."""

    def run():
        ngrams, tokens = [set(), set()], 0
        for text in hypotheses:
            words = " ".join(spaced(text).split()).split(" ")
            tokens += len(words)
            for order in (1, 2):
                for start in range(len(words) - order + 1):
                    ngrams[order - 1].add(" ".join(words[start : start + order]))
        return [len(order) / tokens for order in ngrams]

    return run


# ------------------------------------------------------------------ the table and the measurement

SCRIPT = "script"  # no package: code in this file

# name: (package, what prepares a run, whether it reads the references)
METRICS = {
    "sacrebleu_bleu_13a": ("sacrebleu", sacrebleu_bleu, True),
    "sacrebleu_chrf": ("sacrebleu", sacrebleu_chrf, True),
    "sacrebleu_chrf++": ("sacrebleu", sacrebleu_chrf_words, True),
    "rouge_score": ("rouge_score", rouge_score(use_stemmer=False), True),
    "rouge_score_stemmed": ("rouge_score", rouge_score(use_stemmer=True), True),
    "pycocoevalcap_bleu": ("pycocoevalcap", pycocoevalcap_bleu, True),
    "pycocoevalcap_rouge_l": ("pycocoevalcap", pycocoevalcap_rouge_l, True),
    "nltk_bleu": ("nltk", nltk_bleu(str.split), True),
    "nltk_bleu_characters": ("nltk", nltk_bleu(list), True),
    "entropy_dialogpt": (SCRIPT, entropy_dialogpt, False),
    "distinct_dialogpt": (SCRIPT, distinct_dialogpt, False),
    "entropy_pal": (SCRIPT, entropy_pal, False),
    "distinct_pal": (SCRIPT, distinct_pal, False),
}


def peak_mib():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024 * 1024 if sys.platform == "darwin" else 1024), 1)


def measure(connection, prepare, hypotheses, references, repeat):
    """Sends (score, wall and processor seconds, memory at the start and its peak), or why the import failed."""
    try:
        run = prepare(hypotheses, references)
    except ImportError as error:
        connection.send(str(error))
        return
    start = peak_mib()
    score = run()
    peak = peak_mib()
    seconds, cpu_seconds = [], []
    for _ in range(repeat):
        before, cpu_before = time.perf_counter(), time.process_time()
        run()
        seconds.append(time.perf_counter() - before)
        cpu_seconds.append(time.process_time() - cpu_before)
    connection.send((score, seconds, cpu_seconds, start, peak))


def measured(*args):
    """Runs `measure` in a forked process. None where that process fails; it has said why on stderr."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=measure, args=(sender, *args))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        return None
    finally:
        process.join()


def version_of(package):
    return platform.python_version() if package == SCRIPT else importlib.metadata.version(package)


def read_lines(path, limit):
    # only \n ends a line: texts may hold other separators
    with open(path, encoding="utf-8", newline="\n") as file:
        lines = [line.rstrip("\n") for line in file]
    return lines[:limit]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hypotheses", help="file, one text a line")
    parser.add_argument("--references", help="file, one text a line")
    parser.add_argument("--repeat", type=int, default=5, help="runs that are counted (default 5)")
    parser.add_argument("--lines", type=int, help="only the first so many lines")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=METRICS, default=list(METRICS))
    parser.add_argument("--skip", nargs="+", metavar="NAME", choices=METRICS, default=[])
    parser.add_argument("--list", action="store_true", help="print the names of the metrics and stop")
    args = parser.parse_args()
    if args.list:
        print("\n".join(METRICS))
        return
    if not args.hypotheses or not args.references:
        parser.error("--hypotheses and --references are needed")
    if args.repeat < 1:
        parser.error("--repeat: at least 1")
    hypotheses, references = read_lines(args.hypotheses, args.lines), read_lines(args.references, args.lines)
    if len(hypotheses) != len(references) or not hypotheses:
        sys.exit(f"{len(hypotheses)} hypotheses and {len(references)} references: need as many, and at least one")
    tokens = [sum(len(text.split()) for text in texts) for texts in (hypotheses, references)]

    failed = False
    for name in args.only:
        if name in args.skip:
            continue
        package, prepare, reads_references = METRICS[name]
        result = measured(prepare, hypotheses, references, args.repeat)
        if isinstance(result, str):
            print(f"{name}: passed over, {package} is not installed ({result})", file=sys.stderr)
            continue
        if result is None:
            print(f"{name}: failed", file=sys.stderr)
            failed = True
            continue
        score, seconds, cpu_seconds, start, peak = result
        print(json.dumps({
            "name": name, "package": package, "version": version_of(package), "lines": len(hypotheses),
            "tokens": sum(tokens) if reads_references else tokens[0], "seconds_best": min(seconds),
            "seconds_median": statistics.median(seconds), "cpu_seconds_best": min(cpu_seconds),
            "repeats": len(seconds), "score": score, "start_mib": start, "peak_mib": peak,
        }), flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
