"""Makes tests/testdata/golden/rope_rules.json: frequencies that `transformers` gives RoPE for rules of config.json.

    python tools/make_rope_golden.py

Needs torch 2 (CPU) and transformers 5.23.0. Every entry has what config.json says of positions, sizes of a head, and by
the length of a sequence the frequencies [rotary_dim / 2], float32, and what turned numbers are multiplied by.
"""

import json
import pathlib

import torch
import transformers
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

OUT = pathlib.Path(__file__).resolve().parent.parent / "tests" / "testdata" / "golden" / "rope_rules.json"
SIZES = dict(vocab_size=8, hidden_size=64, intermediate_size=8, num_hidden_layers=1, num_attention_heads=4)
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


def longrope(pairs: int, **more) -> dict:
    return {"rope_type": "longrope", "short_factor": [1 + i / 10 for i in range(pairs)],
            "long_factor": [1.0 + i * i for i in range(pairs)], **more}


def entries():
    """model_type, head_dim, what else config.json says, lengths."""
    for rule, lengths in [
        ({"rope_type": "default", "rope_theta": 5e5}, [7]),
        ({"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}, [7]),
        ({"rope_type": "linear", "factor": 2.5, "rope_theta": 1e6, "attention_factor": 3.0}, [7]),
        # 4,096 and all rungs of the ladder up to 16,384.
        ({"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4},
         [1, 4095, 4096, 5120, 6144, 7168, 8192, 10240, 12288, 14336, 16384]),
        ({"rope_type": "dynamic", "factor": 1.5, "rope_theta": 5e5}, [4096, 5120, 6144]),
        ({**LLAMA3, "original_max_position_embeddings": 8192, "rope_theta": 5e5}, [7]),
        ({**LLAMA3, "factor": 32.0, "original_max_position_embeddings": 1024, "rope_theta": 5e5}, [7]),
        ({**LLAMA3, "low_freq_factor": 2.0, "high_freq_factor": 2.5, "rope_theta": 1e4}, [7]),
        ({**YARN, "rope_theta": 1e6}, [7]),
        ({**YARN, "rope_theta": 1e6, "truncate": False}, [7]),
        ({**YARN, "rope_theta": 1e4, "beta_fast": 16.0, "beta_slow": 2.0}, [7]),
        ({**YARN, "rope_theta": 1e4, "attention_factor": 1.25}, [7]),
        ({**YARN, "rope_theta": 1e4, "mscale": 0.707, "mscale_all_dim": 1.0}, [7]),
        ({**YARN, "rope_theta": 1e4, "mscale": 0.707}, [7]),
        ({**YARN, "rope_theta": 1e4, "attention_factor": 1.25, "mscale": 0.707, "mscale_all_dim": 1.0}, [7]),
        ({**YARN, "factor": None, "rope_theta": 1e4, "original_max_position_embeddings": 1024}, [7]),
        ({"rope_type": "yarn", "factor": 16.0, "rope_theta": 1.5e5}, [7]),
        ({**YARN, "factor": 1.0, "rope_theta": 1e4}, [7]),
        (longrope(32, original_max_position_embeddings=1024, rope_theta=1e4), [7, 1024, 1025, 4096]),
        (longrope(32, original_max_position_embeddings=1024, factor=8.0, rope_theta=1e4), [1024, 1025]),
        (longrope(32, original_max_position_embeddings=1024, attention_factor=1.5, rope_theta=1e4), [1024, 1025]),
        (longrope(32, original_max_position_embeddings=4096, rope_theta=1e4), [4096]),
    ]:
        yield "llama", 64, {"rope_parameters": rule}, lengths
    older = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
    yield "qwen2", 64, {"rope_theta": 1e6, "rope_scaling": older}, [7]
    yield "qwen3", 128, {"rope_theta": 1e6, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, [4096, 6144, 8192]
    yield "mistral", 96, {"rope_theta": 1e6, "rope_scaling": None}, [7]
    yield "llama", 64, {"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 512},
                        "original_max_position_embeddings": 2048}, [7]
    yield "glm", 64, {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}, [7]
    yield "glm4", 64, {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4,
                                           "partial_rotary_factor": 0.25}}, [7]
    yield "glm", 128, {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4,
                                           "partial_rotary_factor": 0.5}}, [4096, 5120, 8192]
    yield "phi3", 16, {"rope_theta": 1e4, "original_max_position_embeddings": 1024,
                       "rope_scaling": longrope(8)}, [1024, 1025]


def frequencies(config, length: int):
    """As a forward pass over so many tokens sets them."""
    rope_type = config.rope_parameters["rope_type"]
    if rope_type == "default":
        module = __import__(type(config).__module__.replace("configuration", "modeling"), fromlist=["x"])
        rotary = next(value for name, value in vars(module).items() if name.endswith("RotaryEmbedding"))
        return rotary.compute_default_rope_parameters(config)
    return ROPE_INIT_FUNCTIONS[rope_type](config, seq_len=length)


def entry(model_type: str, head_dim: int, says: dict, lengths: list) -> dict:
    says = {"model_type": model_type, "head_dim": head_dim, "max_position_embeddings": 4096, "sliding_window": None,
            **SIZES, **says}
    copied = json.loads(json.dumps({key: value for key, value in says.items() if key != "model_type"}))
    config = transformers.AutoConfig.for_model(model_type, **copied)
    found = []
    for length in lengths:
        inv_freq, magnitude = frequencies(config, length)
        found.append({"tokens": length, "magnitude": float(magnitude), "frequencies": inv_freq.float().tolist()})
    return {"config": says, "lengths": found}


if __name__ == "__main__":
    torch.set_num_threads(1)
    lines = [json.dumps(entry(*one)) for one in entries()]
    OUT.write_text("[\n" + ",\n".join(lines) + "\n]\n")
    print(f"{len(lines)} rules, {OUT.stat().st_size} bytes")
