#!/usr/bin/env python3
"""Writes tests/testdata/eval/similarity.json: pairs of made-up texts, and how alike the packages that LongBench uses
find them.

    python3 -m venv /tmp/similarity && /tmp/similarity/bin/pip install rouge==1.0.1 fuzzywuzzy==0.18.0
    /tmp/similarity/bin/python tools/make_similarity_golden.py
"""

import json
import pathlib
import random
import warnings

warnings.simplefilter("ignore")  # fuzzywuzzy asks for a faster matcher, whose ratio is another

from fuzzywuzzy import fuzz  # noqa: E402
from rouge import Rouge  # noqa: E402

OUT = pathlib.Path(__file__).parent.parent / "tests/testdata/eval/similarity.json"
WORDS = "the old harbour keeps its ships where winter light falls on grey water and no one counts them é 水 ...".split()
CODE = "abcdefg_()[]=+ ,.\"'01"


def rouge_l(output, reference):
    try:
        return Rouge().get_scores([output], [reference], avg=True)["rouge-l"]["f"]
    except ValueError:  # of nothing
        return 0.0


def sentence(rng, words):
    return " ".join(rng.choice(words) for _ in range(rng.randint(1, 12)))


def passage(rng):
    words = rng.sample(WORDS, rng.randint(3, len(WORDS)))
    ends = [". ", ".\n", " . ", "..", ", "]
    return "".join(sentence(rng, words) + rng.choice(ends) for _ in range(rng.randint(1, 6)))


def changed(rng, text):
    letters = list(text)
    for _ in range(rng.randint(0, 1 + len(letters) // 4)):
        place = rng.randrange(len(letters) + 1)
        if rng.random() < 0.5:
            letters.insert(place, rng.choice(CODE))
        elif place < len(letters):
            del letters[place]
    return "".join(letters)


def main():
    rng = random.Random(5)
    pairs = [("", ""), ("", "a"), ("a", ""), (".", "."), ("a b", "a b"), ("a. b", "b. a"), (" . ", "x . ")]
    pairs += [(passage(rng), passage(rng)) for _ in range(40)]
    for length in [5, 20, 60, 199, 200, 201, 320]:
        for _ in range(4):
            line = "".join(rng.choice(CODE) for _ in range(length))
            pairs.append((changed(rng, line), line))
    rows = [{"output": a, "reference": b, "rouge_l": rouge_l(a, b), "edit": fuzz.ratio(a, b) / 100} for a, b in pairs]
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text("[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n")


if __name__ == "__main__":
    main()
