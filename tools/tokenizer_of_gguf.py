#!/usr/bin/env python3
"""Writes the tokenizer of a GGUF file with SmolLM2's vocabulary as a folder that transformers can load, for clients that
count tokens themselves (docs/SERVING.md, "Under load").

    python3 tools/tokenizer_of_gguf.py MODEL.gguf FOLDER

Needs the Python packages gguf and transformers.
"""

import sys

from gguf import GGUFReader
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CONTROL = 3  # the type of tokens that texts cannot spell


def tokenizer_of(path: str) -> PreTrainedTokenizerFast:
    """Throws KeyError for a file without a BPE vocabulary, SystemExit for another family's."""
    fields = GGUFReader(path).fields
    if (family := fields["tokenizer.ggml.pre"].contents()) != "smollm":
        raise SystemExit(f"{path} has the tokenizer of {family}; only that of smollm can be written")
    tokens = fields["tokenizer.ggml.tokens"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    bpe = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    digits, units = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([digits, units])
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens([token for token, kind in zip(tokens, fields["tokenizer.ggml.token_type"].contents())
                            if kind == CONTROL])
    end = tokens[fields["tokenizer.ggml.eos_token_id"].contents()]
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=end, eos_token=end, pad_token=end)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    tokenizer_of(sys.argv[1]).save_pretrained(sys.argv[2])
