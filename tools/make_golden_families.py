"""Makes tests/testdata/golden/{qwen2,qwen3,...}*: tiny random checkpoints of other families than Llama, and what
`transformers` computes with them.

    python tools/make_golden_families.py [NAME ...]

With names, only those checkpoints are made and the others are left as they are.
Needs what make_golden_llama.py needs. The weights come from a fixed seed. tests/testdata/golden/README.md describes
the files.
"""

import copy
import dataclasses
import json
import pathlib
import shutil

import gguf
import numpy as np
import safetensors.numpy
import torch
import transformers

import gguf_llama
import make_golden_llama as llama

GOLDEN = llama.GOLDEN
COMMON = dict(
    vocab_size=llama.VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=16, max_position_embeddings=4096, rms_norm_eps=1e-5, bos_token_id=1,
    eos_token_id=2, pad_token_id=0, tie_word_embeddings=False, attn_implementation="eager")


@dataclasses.dataclass
class Checkpoint:
    name: str
    config: type
    more: dict                  # of the config, beside COMMON
    architecture: str           # of the GGUF file; empty: none is made
    fused_qkv: bool = False     # in the GGUF file
    layout: str = "hf"          # of the folder: "chatglm" is written from what transformers calls glm
    prompts: dict = dataclasses.field(default_factory=lambda: {"": llama.PROMPT_TOKENS})  # tokens, by name
    lengths: dict = dataclasses.field(default_factory=dict)     # of whole texts, by name, where they decide the rule
    dtype: torch.dtype = torch.float32      # of the matrices in both files; float32 or bfloat16
    query_key_scale: float = 2.0            # how peaked attention is


def rope(theta=1e4, **more):
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta, **more}}


def yarn():
    return rope(1e6, rope_type="yarn", factor=4.0, original_max_position_embeddings=48)


def longrope(original_context, pairs):
    turn = np.random.default_rng(7)
    return {"rope_parameters": {
        "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": original_context,
        "short_factor": [round(float(x), 2) for x in 1 + turn.random(pairs)],
        "long_factor": [round(float(x), 2) for x in 1 + 20 * turn.random(pairs)]}}


def phi3(original_context, head_dim=24):
    return {**longrope(original_context, head_dim // 2), "hidden_size": 2 * head_dim, "head_dim": head_dim,
            "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 40, "sliding_window": 8192,
            "original_max_position_embeddings": original_context}


def dynamic():
    """Of Llama: from 48 tokens on, up to 1,440."""
    return {**rope(rope_type="dynamic", factor=30.0), "max_position_embeddings": 48, "tie_word_embeddings": True}


CHECKPOINTS = [
    Checkpoint("qwen2", transformers.Qwen2Config, rope(1e6), "qwen2"),
    Checkpoint("qwen2_yarn", transformers.Qwen2Config, {**yarn(), "tie_word_embeddings": True}, "qwen2"),
    Checkpoint("qwen3", transformers.Qwen3Config, {**rope(1e6), "head_dim": 24}, "qwen3"),
    Checkpoint("mistral", transformers.MistralConfig, {**rope(), "sliding_window": None}, "llama"),
    Checkpoint("glm", transformers.GlmConfig, {**rope(partial_rotary_factor=0.5), "attention_bias": True}, "chatglm"),
    Checkpoint("chatglm", transformers.GlmConfig,
               {**rope(5e4, partial_rotary_factor=0.5), "attention_bias": True},
               "chatglm", fused_qkv=True, layout="chatglm"),
    Checkpoint("glm4", transformers.Glm4Config,
               {**rope(partial_rotary_factor=0.5), "attention_bias": True}, "glm4"),
    # The golden texts lie beyond the original context of the first, and within that of the second.
    Checkpoint("phi3_long", transformers.Phi3Config, phi3(16), "phi3"),
    Checkpoint("phi3_short", transformers.Phi3Config, phi3(4096), "phi3"),
    # Texts on either side of the switch, none across it. Heads as the real ones have them, half the bytes a number for
    # the repository's sake. Less peaked: LongRoPE's magnitude peaks it further, until transformers differs from itself
    # by more than the tests allow.
    Checkpoint("phi3_heads96", transformers.Phi3Config, phi3(128, 96), "phi3",
               prompts={"": 140, "short.": 40}, dtype=torch.bfloat16, query_key_scale=1.2),
    # Texts as long as the original context and as two rungs of the ladder of lengths beyond it.
    Checkpoint("llama_dynamic", transformers.LlamaConfig, dynamic(), "", prompts={"short.": 16, "": 28, "long.": 80},
               lengths={"short.": 48, "": 60, "long.": 144}),
]


def random_model(checkpoint: Checkpoint, seed: int):
    """Float32 weights that the files' type can hold, large enough for attention to have peaks."""
    config = checkpoint.config(**{**COMMON, **checkpoint.more})
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").to(torch.float32).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                values = 1 + 0.1 * noise
            elif "embed" in name:
                values = 0.7 * noise
            elif name.endswith("bias"):
                values = 0.5 * noise
            else:
                is_query_key = any(part in name for part in ("q_proj", "k_proj", "qkv_proj"))
                values = noise * (checkpoint.query_key_scale if is_query_key else 1.2) / parameter.shape[1] ** 0.5
            parameter.copy_(values.to(checkpoint.dtype).to(torch.float32))
    return model


CHATGLM_NAMES = {
    "model.embed_tokens.weight": "transformer.embedding.word_embeddings.weight",
    "model.norm.weight": "transformer.encoder.final_layernorm.weight",
    "lm_head.weight": "transformer.output_layer.weight",
    "input_layernorm.weight": "input_layernorm.weight",
    "post_attention_layernorm.weight": "post_attention_layernorm.weight",
    "self_attn.o_proj.weight": "self_attention.dense.weight",
    "mlp.gate_up_proj.weight": "mlp.dense_h_to_4h.weight",
    "mlp.down_proj.weight": "mlp.dense_4h_to_h.weight",
}


def write_chatglm_folder(model, folder: pathlib.Path):
    """A `glm` model in the layout of the older remote code: other names, and q, k and v in one tensor."""
    state = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    tensors, config = {}, model.config
    for name, weight in state.items():
        if ".layers." not in name:
            tensors[CHATGLM_NAMES[name]] = weight
            continue
        _, _, layer, rest = name.split(".", 3)
        prefix = f"transformer.encoder.layers.{layer}."
        if rest in CHATGLM_NAMES:
            tensors[prefix + CHATGLM_NAMES[rest]] = weight
    for layer in range(config.num_hidden_layers):
        for kind in ("weight", "bias"):
            parts = [state[f"model.layers.{layer}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            tensors[f"transformer.encoder.layers.{layer}.self_attention.query_key_value.{kind}"] = np.concatenate(parts)
    tensors["transformer.rotary_pos_emb.inv_freq"] = np.ones(config.head_dim // 4, dtype=np.float32)
    folder.mkdir(parents=True)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({
        "model_type": "chatglm", "architectures": ["ChatGLMModel"], "add_bias_linear": False, "add_qkv_bias": True,
        "apply_residual_connection_post_layernorm": False, "ffn_hidden_size": config.intermediate_size,
        "hidden_size": config.hidden_size, "kv_channels": config.head_dim, "layernorm_epsilon": config.rms_norm_eps,
        "multi_query_attention": True, "multi_query_group_num": config.num_key_value_heads,
        "num_attention_heads": config.num_attention_heads, "num_layers": config.num_hidden_layers,
        "original_rope": True, "padded_vocab_size": config.vocab_size, "post_layer_norm": True, "rmsnorm": True,
        "rope_ratio": config.rope_parameters["rope_theta"] / 1e4, "seq_length": config.max_position_embeddings,
        "tie_word_embeddings": False, "eos_token_id": [2], "pad_token_id": 0}, indent=2) + "\n")


def write_folder(model, checkpoint: Checkpoint, tokenizer, folder: pathlib.Path):
    if checkpoint.layout == "chatglm":
        write_chatglm_folder(model, folder)
    else:
        copy.deepcopy(model).to(checkpoint.dtype).save_pretrained(folder)  # a copy: the rotary table is rounded too
        (folder / "model.safetensors").chmod(0o644)
    tokenizer.save(str(folder / "tokenizer.json"))


GGUF_NAMES = {
    **{hf: f"{ours}.weight" for ours, hf in gguf_llama.HF_NAMES.items()},
    "self_attn.q_norm": "attn_q_norm.weight",
    "self_attn.k_norm": "attn_k_norm.weight",
    "self_attn.qkv_proj": "attn_qkv.weight",
    "mlp.gate_up_proj": "ffn_up.weight",
    "post_self_attn_layernorm": "post_attention_norm.weight",
    "post_mlp_layernorm": "post_ffw_norm.weight",
}


def gguf_tensors(model, checkpoint: Checkpoint):
    """Pairs (GGUF name, float32 array), as converters write them: rows of wq and wk change their order in
    architecture llama alone."""
    top = {f"{hf}.weight": f"{ours}.weight" for ours, hf in gguf_llama.HF_TOP_NAMES.items()}
    tensors, config = {}, model.config
    for name, parameter in model.named_parameters():
        weight = parameter.detach().numpy()
        if name in top:
            tensors[top[name]] = weight
            continue
        _, _, layer, rest = name.split(".", 3)
        stem, kind = rest.rsplit(".", 1)
        if checkpoint.architecture == "llama" and stem == "self_attn.q_proj":
            weight = gguf_llama.interleave_halves(weight, config.num_attention_heads)
        if checkpoint.architecture == "llama" and stem == "self_attn.k_proj":
            weight = gguf_llama.interleave_halves(weight, config.num_key_value_heads)
        tensors[f"blk.{layer}.{GGUF_NAMES[stem].removesuffix('weight')}{kind}"] = weight
    if checkpoint.fused_qkv:
        for layer in range(config.num_hidden_layers):
            for kind in ("weight", "bias"):
                parts = [tensors.pop(f"blk.{layer}.attn_{part}.{kind}") for part in "qkv"]
                tensors[f"blk.{layer}.attn_qkv.{kind}"] = np.concatenate(parts)
    return tensors.items()


def write_gguf(model, checkpoint: Checkpoint, tokenizer, path: pathlib.Path):
    config, parameters = model.config, model.config.rope_parameters
    writer = gguf.GGUFWriter(str(path), checkpoint.architecture)
    writer.add_name(f"{checkpoint.name}, random weights")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim(config))
    writer.add_value_length(head_dim(config))
    writer.add_rope_dimension_count(int(head_dim(config) * parameters.get("partial_rotary_factor", 1.0)))
    writer.add_rope_freq_base(parameters["rope_theta"])
    if parameters["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(parameters["factor"])
        writer.add_rope_scaling_orig_ctx_len(parameters["original_max_position_embeddings"])
    if parameters["rope_type"] == "longrope":
        original = parameters["original_max_position_embeddings"]
        writer.add_rope_scaling_orig_ctx_len(original)
        scale = config.max_position_embeddings / original
        writer.add_rope_scaling_attn_factors(float(np.sqrt(1 + np.log(scale) / np.log(original)) if scale > 1 else 1))
        writer.add_sliding_window(config.sliding_window)
        for kind in ("long", "short"):
            writer.add_tensor(f"rope_factors_{kind}.weight", np.array(parameters[f"{kind}_factor"], dtype=np.float32))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    llama.add_tokenizer(writer, tokenizer)
    for name, weight in gguf_tensors(model, checkpoint):
        if weight.ndim == 2 and checkpoint.dtype == torch.bfloat16:
            kind = gguf.GGMLQuantizationType.BF16
            writer.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(weight), kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, np.ascontiguousarray(weight, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def head_dim(config) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def logits_of(model, checkpoint: Checkpoint, name: str, prompt_tokens: int, random):
    """As greedy_logits() gives them. Where lengths decide, of one pass over a random text: while transformers decodes,
    its rule follows the length, and keys that are cached keep the rules of their time."""
    def draw(count):
        return random.integers(len(llama.SPECIAL), llama.VOCAB, count)
    if name not in checkpoint.lengths:
        return llama.greedy_logits(model, draw(prompt_tokens))
    ids = draw(checkpoint.lengths[name])
    with torch.no_grad():  # a copy: it would remember the longest text
        logits = copy.deepcopy(model)(torch.tensor(ids[None])).logits[0, prompt_tokens - 1:]
    return ids.astype(np.int32), logits.numpy().astype(np.float32)


def make(checkpoint: Checkpoint, seed: int, tokenizer) -> list:
    print(checkpoint.name)
    folder = GOLDEN / checkpoint.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model, stem = random_model(checkpoint, seed), "bf16" if checkpoint.dtype == torch.bfloat16 else "f32"
    write_folder(model, checkpoint, tokenizer, folder / "hf")
    sources = [f"{checkpoint.name}/hf"]
    if checkpoint.architecture:
        write_gguf(model, checkpoint, tokenizer, folder / f"{stem}.gguf")
        sources.append(f"{checkpoint.name}/{stem}.gguf")
    cases = []
    for name, tokens in checkpoint.prompts.items():
        ids, logits = logits_of(model, checkpoint, name, tokens, np.random.default_rng(seed))
        np.save(folder / f"{stem}.{name}ids.npy", ids)
        np.save(folder / f"{stem}.{name}logits.npy", logits)
        cases += [{"model": source, "ids": f"{checkpoint.name}/{stem}.{name}ids.npy",
                   "logits": f"{checkpoint.name}/{stem}.{name}logits.npy", "prompt_tokens": tokens}
                  for source in sources]
    return cases


if __name__ == "__main__":
    llama.make_all(CHECKPOINTS, 101, make, GOLDEN / "families.json")
