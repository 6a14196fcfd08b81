#!/usr/bin/env python3
"""What TRL makes of preference records in its four shapes.

    pip install transformers==5.17.0 trl==1.16.0
    python pairs.py               # writes pairs.json beside this file
"""
import json
from pathlib import Path
from types import SimpleNamespace

import jinja2
from trl.data_utils import apply_chat_template, is_conversational, maybe_extract_prompt

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</{{ m['role'] }}>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
USER, SKY = {"role": "user", "content": "What color is the sky?"}, {"role": "assistant", "content": "It is "}


def said(text, role="assistant"):
    return {"role": role, "content": text}


RECORDS = [
    {"prompt": "The sky is", "chosen": " blue.", "rejected": " green."},
    {"chosen": "The sky is blue.", "rejected": "The sky is green."},
    {"chosen": "Der Himmel ist größer.", "rejected": "Der Himmel ist grüner."},
    {"prompt": [USER], "chosen": [said("Blue.")], "rejected": [said("Green.")]},
    {"chosen": [USER, said("Blue.")], "rejected": [USER, said("Green.")]},
    {"prompt": USER["content"], "chosen": [USER, said("Blue.")], "rejected": [USER, said("Green.")]},
    {
        "prompt": [said("Be short.", "system"), USER, said("Blue."), said("And at night?", "user")],
        "chosen": [said("Black.")],
        "rejected": [said("It depends."), said("On what?", "user"), said("The moon.")],
    },
    {"prompt": [USER, SKY], "chosen": [said("blue.")], "rejected": [said("green.")]},
]


def render(messages, add_generation_prompt=False, continue_final_message=False, **_):
    text = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(TEMPLATE).render(
        messages=messages, add_generation_prompt=add_generation_prompt
    )
    if continue_final_message:
        last = messages[-1]["content"].strip()
        text = text[: text.rindex(last) + len(messages[-1]["content"])].rstrip("\n")
    return text


def main():
    tokenizer = SimpleNamespace(apply_chat_template=render)
    cases = []
    for record in RECORDS:
        found = maybe_extract_prompt(record)
        if is_conversational(found):
            found = apply_chat_template(found, tokenizer)
        cases.append({"record": record, "pair": {key: found[key] for key in ("prompt", "chosen", "rejected")}})
    golden = {"template": TEMPLATE, "cases": cases}
    Path(__file__).with_name("pairs.json").write_text(json.dumps(golden, ensure_ascii=False, indent=1) + "\n")


main()
