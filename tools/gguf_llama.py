"""Reads a GGUF file of the Llama architecture into `transformers` and `tokenizers`, as the trusted other side of
the golden tests.

Needs: gguf 0.19.0, numpy, tokenizers 0.23.3, torch (CPU), transformers 5.23.0.
"""

import json

import gguf
import numpy as np
import tokenizers
import torch
import transformers

CONTROL_TOKEN = 3  # tokenizer.ggml.token_type of special tokens


def interleave_halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """HF row order to GGUF row order of wq or wk: the halves (i, i + d/2) of a head become neighbours (2i, 2i + 1)."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def separate_halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """The inverse of interleave_halves."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


HF_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
HF_TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def hf_name(name: str) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight"""
    parts = name.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{HF_NAMES[parts[2]]}.weight"
    return f"{HF_TOP_NAMES[parts[0]]}.weight"


def value(reader: gguf.GGUFReader, key: str, default=None):
    field = reader.fields.get(key)
    return default if field is None else field.contents()


def load_model(path: str) -> transformers.LlamaForCausalLM:
    """The model of a GGUF file, every weight expanded to float32."""
    reader = gguf.GGUFReader(path)
    heads = value(reader, "llama.attention.head_count")
    kv_heads = value(reader, "llama.attention.head_count_kv", heads)
    hidden = value(reader, "llama.embedding_length")
    state, divisors = {}, None
    for tensor in reader.tensors:
        weight = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        weight = weight.reshape([int(n) for n in reversed(tensor.shape)])
        if tensor.name == "rope_freqs.weight":
            divisors = torch.from_numpy(weight.copy())
            continue
        if ".attn_q." in tensor.name:
            weight = separate_halves(weight, heads)
        elif ".attn_k." in tensor.name:
            weight = separate_halves(weight, kv_heads)
        state[hf_name(tensor.name)] = torch.from_numpy(np.ascontiguousarray(weight))
    tied = "lm_head.weight" not in state
    scaling = {"rope_type": "default"}
    if value(reader, "llama.rope.scaling.type") == "linear":
        scaling = {"rope_type": "linear", "factor": value(reader, "llama.rope.scaling.factor")}
    if value(reader, "llama.rope.scaling.type") == "yarn":
        scaling = {"rope_type": "yarn", "factor": value(reader, "llama.rope.scaling.factor"),
                   "original_max_position_embeddings": value(reader, "llama.rope.scaling.original_context_length")}
    config = transformers.LlamaConfig(
        vocab_size=state["model.embed_tokens.weight"].shape[0],
        hidden_size=hidden,
        intermediate_size=value(reader, "llama.feed_forward_length"),
        num_hidden_layers=value(reader, "llama.block_count"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=value(reader, "llama.attention.key_length", hidden // heads),
        max_position_embeddings=value(reader, "llama.context_length"),
        rms_norm_eps=value(reader, "llama.attention.layer_norm_rms_epsilon"),
        rope_parameters={**scaling, "rope_theta": value(reader, "llama.rope.freq_base", 10000.0)},
        tie_word_embeddings=tied,
    )
    model = transformers.LlamaForCausalLM(config).to(torch.float32).eval()
    missing, unexpected = model.load_state_dict(state, strict=False)
    if unexpected or set(missing) - ({"lm_head.weight"} if tied else set()):
        raise SystemExit(f"{path}: missing {missing}, unexpected {unexpected}")
    model.tie_weights()
    if divisors is not None:
        model.model.rotary_emb.inv_freq /= divisors
    return model


def load_tokenizer(path: str) -> tokenizers.Tokenizer:
    """The byte-level BPE tokenizer of a GGUF file whose tokenizer.ggml.pre is "smollm"."""
    reader = gguf.GGUFReader(path)
    if value(reader, "tokenizer.ggml.pre") != "smollm":
        raise SystemExit(f"{path}: tokenizer.ggml.pre is {value(reader, 'tokenizer.ggml.pre')}, expected smollm")
    tokens = value(reader, "tokenizer.ggml.tokens")
    types = value(reader, "tokenizer.ggml.token_type")
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    special = [
        {"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": True}
        for i, token in enumerate(tokens) if types[i] == CONTROL_TOKEN
    ]
    return tokenizers.Tokenizer.from_str(json.dumps({
        "version": "1.0",
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence",
                          "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": {token: i for i, token in enumerate(tokens)},
                  "merges": [merge.split(" ") for merge in value(reader, "tokenizer.ggml.merges")]},
    }))
