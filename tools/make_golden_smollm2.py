"""Makes tests/testdata/golden/smollm2: what `transformers` computes with the embedded model on real text.

    python tools/make_golden_smollm2.py PATH/TO/SmolLM2-135M-Instruct.Q4_1.gguf

Needs: gguf 0.19.0, numpy 2, tokenizers 0.23.3, torch 2 (CPU), transformers 5.23.0. Weights are expanded to float32
and computed with in float32. tests/testdata/golden/README.md describes the files.
"""

import json
import pathlib
import sys

import numpy as np
import torch

import gguf_llama

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "data" / "a_scandal_in_bohemia.txt"
FOLDER = ROOT / "tests" / "testdata" / "golden" / "smollm2"
PROMPT_TOKENS = 600
STEPS = 16
TOP = 64


def save_rows(stem: str, logits: torch.Tensor):
    """logits [rows, vocab] -> the TOP largest of each row, largest first, and the log of the sum of their exponentials."""
    top = torch.topk(logits, TOP, dim=1)
    np.save(FOLDER / f"{stem}.top_ids.npy", top.indices.numpy().astype(np.int32))
    np.save(FOLDER / f"{stem}.top_logits.npy", top.values.numpy().astype(np.float32))
    np.save(FOLDER / f"{stem}.logsumexp.npy", torch.logsumexp(logits.double(), dim=1).numpy().astype(np.float32))


def forced(model, ids: list) -> torch.Tensor:
    """Logits [STEPS + 1, vocab] from the prompt's last position on, over the text's own tokens."""
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0, PROMPT_TOKENS - 1:]


def greedy(model, prompt: list):
    """The STEPS tokens that greedy decoding appends to the prompt, and its logits [STEPS + 1, vocab]."""
    rows, made, cache, new = [], [], None, prompt
    with torch.no_grad():
        for _ in range(STEPS + 1):
            step = model(torch.tensor([new]), past_key_values=cache, use_cache=True)
            cache = step.past_key_values
            rows.append(step.logits[0, -1])
            new = [int(rows[-1].argmax())]
            made += new
    return made[:-1], torch.stack(rows)


def main():
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    tokenizer = gguf_llama.load_tokenizer(sys.argv[1])
    model = gguf_llama.load_model(sys.argv[1])
    ids = tokenizer.encode(DOCUMENT.read_text(encoding="utf-8")).ids[:PROMPT_TOKENS + STEPS]
    FOLDER.mkdir(parents=True, exist_ok=True)
    np.save(FOLDER / "forced.ids.npy", np.array(ids, dtype=np.int32))
    save_rows("forced", forced(model, ids))
    made, rows = greedy(model, ids[:PROMPT_TOKENS])
    np.save(FOLDER / "greedy.ids.npy", np.array(ids[:PROMPT_TOKENS] + made, dtype=np.int32))
    save_rows("greedy", rows)
    pairs = torch.topk(rows, 2, dim=1).values
    (FOLDER / "case.json").write_text(json.dumps({
        "model": pathlib.Path(sys.argv[1]).name, "prompt_tokens": PROMPT_TOKENS, "steps": STEPS, "top": TOP,
        "greedy_text": tokenizer.decode(made),
        "smallest_greedy_margin": round(float((pairs[:, 0] - pairs[:, 1]).min()), 4),
    }, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
