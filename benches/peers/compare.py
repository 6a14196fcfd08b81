"""Times the text metrics here and in the Python packages, metric by metric in turn, and prints a Markdown table.

    python benches/peers/compare.py --program target/release/metrics valid_self_original_no_cands.txt

`cargo xtask bench --peers` builds the program, makes an environment with the packages, and calls this. The files of
make_lines.py are made anew, so that their hashes stand in the output. Every line measured is kept in OUT/compare.jsonl.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}: ended with {done.returncode}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def duration(seconds):
    return f"{seconds:.3g} s" if seconds >= 0.1 else f"{1000 * seconds:.3g} ms"


def numbers(score):
    """The numbers of a score, which is one, a list or an object."""
    if isinstance(score, (int, float)):
        yield score
    else:
        for part in score.values() if isinstance(score, dict) else score:
            yield from numbers(part)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dialogues", help="PERSONA-CHAT in ParlAI's format")
    parser.add_argument("--program", required=True, help="the program `metrics` of persona-benches")
    parser.add_argument("--out", default="target/peers", help="folder for the texts and the measurements")
    parser.add_argument("--lines", type=int, help="lines made of the replies (default: the replies)")
    parser.add_argument("--rounds", type=int, default=2, help="how often both take turns (default 2)")
    parser.add_argument("--repeat", type=int, default=3, help="runs of a package in a round (default 3)")
    parser.add_argument("--repeat-here", type=int, default=21, help="runs of the program in a round (default 21)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these metrics")
    args = parser.parse_args()

    out = Path(args.out)
    lines = ["--lines", str(args.lines)] if args.lines else []
    print(json.dumps(run([sys.executable, HERE / "make_lines.py", args.dialogues, "--out", out, *lines])[0]))
    texts = out / "hypotheses.txt", out / "references.txt"
    peers = [sys.executable, HERE / "metrics.py"]
    names = args.only or subprocess.run([*peers, "--list"], stdout=subprocess.PIPE, text=True).stdout.split()

    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.2f} before\n")
    print("| metric | package | Python | here | times | here, ns a token |\n|---|---|---|---|---|---|")
    differing = []
    with open(out / "compare.jsonl", "w", encoding="utf-8") as log:
        for name in names:
            here, there = [], []
            for _ in range(args.rounds):
                here += run([args.program, *texts, str(args.repeat_here), name])
                flags = ["--hypotheses", texts[0], "--references", texts[1], "--repeat", str(args.repeat)]
                there += run([*peers, *flags, "--only", name])
            if not there:
                continue  # metrics.py has said why
            for side, measured in ("here", here), ("python", there):
                log.writelines(json.dumps({"side": side, **line}) + "\n" for line in measured)
            ours = min(line["seconds_median"] for line in here)
            theirs = min(line["seconds_median"] for line in there)
            package = f"{there[0]['package']} {there[0]['version']}"
            nanoseconds = 1e9 * ours / there[0]["tokens"]
            cells = name, package, duration(theirs), duration(ours), f"{theirs / ours:.0f}", f"{nanoseconds:.1f}"
            print(f"| {' | '.join(cells)} |", flush=True)
            ours, theirs = here[0]["scores"], list(numbers(there[0]["score"]))
            if not all(any(math.isclose(value, score, rel_tol=1e-8) for score in ours) for value in theirs):
                differing.append(f"{name}: {ours} here, {theirs} there")
    print(f"\nload {os.getloadavg()[0]:.2f} after; every line measured is in {out / 'compare.jsonl'}")
    if differing:
        sys.exit("other scores:\n" + "\n".join(differing))


if __name__ == "__main__":
    main()
