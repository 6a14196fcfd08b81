"""Puts the part of PERSONA-CHAT's training dialogues that two repositories hold together into whole dialogues.

    python3 derive_train_subset.py FOLDER

FOLDER has `rcdg/{per,src,tgt}-train.txt` (github.com/songhaoyu/RCDG, data/, commit 962c3b5) and `En_persona_valid.json`
(github.com/HLTCHKUST/Xpersona, dataset/, commit 1da049a). Writes FOLDER/derived_convai2_train_subset.jsonl, 2,356 dialogues,
and checks that it is the file that persona-mini and the tables were made from. Needs Python 3.8 and nothing else.
"""
import hashlib
import itertools
import json
import sys
from pathlib import Path

NAME = "derived_convai2_train_subset.jsonl"
SHA256 = "95c9c27c5e8258e2c441dbc79e62d4bf3d5bee78d0ca1b5b63088bfe358f913a"


def dialogues(folder):
    part = lambda name: (folder / "rcdg" / f"{name}-train.txt").read_text(encoding="utf-8").rstrip("\n").split("\n")
    # A line is a turn; a dialogue ends where the persona changes. Its sentences have lost their full stops.
    turns = zip(part("per"), part("src"), part("tgt"))
    for number, (persona, turns) in enumerate(itertools.groupby(turns, key=lambda turn: turn[0])):
        persona = [sentence.strip() + "." for sentence in persona.split("</s>")]
        yield f"rcdg-train-{number:04}", persona, [[heard, said] for _, heard, said in turns]
    for number, one in enumerate(json.loads((folder / "En_persona_valid.json").read_text(encoding="utf-8"))):
        yield f"xpersona-en-valid-{number:04}", one["persona"], one["dialogue"]


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    lines = [json.dumps({"id": name, "persona": persona, "turns": turns}, ensure_ascii=False) + "\n"
             for name, persona, turns in dialogues(folder)]
    data = "".join(lines).encode()
    (folder / NAME).write_bytes(data)
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256:
        sys.exit(f"{folder / NAME}: {len(lines)} dialogues, SHA-256 {found}, which is not {SHA256}: "
                 "check the commits of the two repositories")
    print(f"{folder / NAME}: {len(lines)} dialogues, as expected")


if __name__ == "__main__":
    main()
