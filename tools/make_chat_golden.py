#!/usr/bin/env python3
"""Makes tests/testdata/chat/: the token ids that the transformers library gives for conversations.

Needs (PyPI): transformers==5.24.0 jinja2==3.1.6. Usage: make_chat_golden.py TESTS/TESTDATA

The tokenizer is that of golden/llama_gqa with the special tokens of the layouts in template/families.jsonl added. ids.jsonl
holds a line {"family", "conversation", "ids"}, the first two being line numbers in template/families.jsonl and
template/conversations.jsonl: conversations that open an answer, with tools for a few of them. Those that a layout refuses
are left out, and so are those that spell a special token, which transformers takes for the token and we for text.
The result is the same on every run.
"""
import json
import pathlib
import re
import sys

from transformers import PreTrainedTokenizerFast

SPECIAL = ["<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[gMASK]", "<sop>",
           "<|user|>", "<|assistant|>", "<|system|>"]
PLAIN = ["<think>", "</think>", "<tool_call>", "</tool_call>"]  # found in texts, but not special
WITH_TOOLS = 4  # conversations a layout


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_tokenizer(testdata, families):
    """Returns the special tokens."""
    tokenizer = json.loads((testdata / "golden/llama_gqa/hf/tokenizer.json").read_text(encoding="utf-8"))
    written = [token for family in families for token in re.findall(r"<\|\w+\|>", family["source"])]
    known = {token["content"] for token in tokenizer["added_tokens"]}
    special = sorted(set(SPECIAL + written) - known)
    first = len(tokenizer["model"]["vocab"])
    for index, content in enumerate(special + PLAIN):
        tokenizer["added_tokens"].append({
            "id": first + index, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": content in PLAIN, "special": content in special})
    folder = testdata / "chat"
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, separators=(",", ":")), encoding="utf-8")
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", 
              "eos_token": {"__type": "AddedToken", "content": "</s>", "special": True}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config) + "\n", encoding="utf-8")
    return known | set(special)


def encode(tokenizer, source, conversation):
    """None where the layout refuses the conversation."""
    try:
        return tokenizer.apply_chat_template(
            conversation["messages"], tools=conversation.get("tools"), chat_template=source,
            add_generation_prompt=conversation["add_generation_prompt"], tokenize=True, return_dict=False)
    except Exception:  # whatever fails, fails
        return None


def golden_lines(testdata, families, special):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(testdata / "chat")
    conversations = read_lines(testdata / "template/conversations.jsonl")
    for number, family in enumerate(families):
        left = WITH_TOOLS
        for index, conversation in enumerate(conversations):
            spelled = any(token in json.dumps(conversation["messages"]) for token in special)
            if not conversation["messages"] or not conversation["add_generation_prompt"] or spelled:
                continue
            if "tools" in conversation and (left := left - 1) < 0:
                continue
            ids = encode(tokenizer, family["source"], conversation)
            if ids is not None:
                yield json.dumps({"family": number, "conversation": index, "ids": ids}, separators=(",", ":")) + "\n"


def main(testdata):
    families = read_lines(testdata / "template/families.jsonl")
    special = write_tokenizer(testdata, families)
    (testdata / "chat/ids.jsonl").write_text("".join(golden_lines(testdata, families, special)), encoding="ascii")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
