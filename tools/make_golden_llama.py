"""Makes tests/testdata/golden/llama_*: tiny random Llama checkpoints and what `transformers` computes with them.

    python tools/make_golden_llama.py [NAME ...]

With names, only those checkpoints are made and the others are left as they are.
Needs: gguf 0.19.0, numpy 2, safetensors 0.8.0, tokenizers 0.23.3, torch 2 (CPU), transformers 5.23.0. The
weights come from a fixed seed. tests/testdata/golden/README.md describes the files.
"""

import copy
import dataclasses
import json
import pathlib
import shutil
import sys

import gguf
import numpy as np
import tokenizers
import torch
import transformers

import gguf_llama

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "testdata" / "golden"
DEMO_TEXT = ROOT / "data" / "a_scandal_in_bohemia.txt"
VOCAB = 288  # 3 special tokens, 256 bytes, 29 merges
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PROMPT_TOKENS = 40
STEPS = 64
CHAT_TEMPLATE = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
                 "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
                 "{{ '<|im_start|>assistant\n' }}{% endif %}")


@dataclasses.dataclass
class Checkpoint:
    name: str
    dtype: torch.dtype          # of the matrices in the safetensors file
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    theta: float
    tied: bool
    legacy_config: bool         # config.json as transformers 4 wrote it: rope_theta, torch_dtype
    gguf_types: tuple           # the first holds the same numbers as the safetensors file
    scaling: dict = dataclasses.field(default_factory=lambda: {"rope_type": "default"})


CHECKPOINTS = [
    Checkpoint("llama_gqa", torch.float32, heads=4, kv_heads=2, head_dim=16, inner=64, theta=1e4, tied=False,
               legacy_config=False, gguf_types=("F32", "Q8_0", "Q4_0", "Q4_1")),
    Checkpoint("llama_mha", torch.float16, heads=4, kv_heads=4, head_dim=24, inner=40, theta=1e4, tied=True,
               legacy_config=True, gguf_types=("F16",)),
    Checkpoint("llama_mqa", torch.bfloat16, heads=8, kv_heads=1, head_dim=32, inner=64, theta=5e5, tied=False,
               legacy_config=False, gguf_types=("BF16",)),
    # Short original contexts, so that the rules show within the few tokens of a golden file.
    Checkpoint("llama_rope3", torch.float32, heads=4, kv_heads=2, head_dim=16, inner=64, theta=5e5, tied=True,
               legacy_config=False, gguf_types=("F32",),
               scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                        "original_max_position_embeddings": 64}),
    Checkpoint("llama_linear", torch.float32, heads=2, kv_heads=1, head_dim=16, inner=64, theta=1e4, tied=True,
               legacy_config=False, gguf_types=("F32",), scaling={"rope_type": "linear", "factor": 4.0}),
    Checkpoint("llama_yarn", torch.float32, heads=4, kv_heads=2, head_dim=16, inner=64, theta=1e4, tied=True,
               legacy_config=False, gguf_types=("F32",),
               scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 48}),
]


def train_tokenizer() -> tokenizers.Tokenizer:
    """A byte-level BPE of the `smollm` kind: digits stand alone."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.Digits(individual_digits=True),
        tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
    ])
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train([str(DEMO_TEXT)], trainer)
    return tokenizer


def random_model(checkpoint: Checkpoint, seed: int) -> transformers.LlamaForCausalLM:
    """Float32 weights that `checkpoint.dtype` can hold, large enough for attention to have peaks."""
    config = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=checkpoint.inner, num_hidden_layers=2,
        num_attention_heads=checkpoint.heads, num_key_value_heads=checkpoint.kv_heads,
        head_dim=checkpoint.head_dim, max_position_embeddings=4096, rms_norm_eps=1e-5,
        rope_parameters={**checkpoint.scaling, "rope_theta": checkpoint.theta},
        tie_word_embeddings=checkpoint.tied, bos_token_id=1, eos_token_id=2, pad_token_id=0,
        attn_implementation="eager")
    model = transformers.LlamaForCausalLM(config).to(torch.float32).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                values = 1 + 0.1 * noise
            elif "embed" in name:
                values = 0.7 * noise
            elif "q_proj" in name or "k_proj" in name:
                values = noise * 2.0 / parameter.shape[1] ** 0.5
            else:
                values = noise * 1.2 / parameter.shape[1] ** 0.5
            parameter.copy_(values.to(checkpoint.dtype).to(torch.float32))
    return model


def greedy_logits(model: transformers.LlamaForCausalLM, prompt: np.ndarray):
    """ids int32 [prompt + STEPS], the prompt and its greedy continuation; logits float32 [STEPS + 1, VOCAB], row i being
    those after token prompt - 1 + i."""
    ids = list(map(int, prompt))
    rows, cache, new = [], None, ids
    with torch.no_grad():
        for _ in range(STEPS + 1):
            step = model(torch.tensor([new]), past_key_values=cache, use_cache=True)
            cache = step.past_key_values
            rows.append(step.logits[0, -1].numpy())
            new = [int(rows[-1].argmax())]
            ids += new
    ids = ids[:-1]
    logits = np.stack(rows).astype(np.float32)
    check_against_one_pass(model, ids, logits)
    generated = ids[len(prompt):]
    top = np.sort(logits, axis=1)
    print(f"  smallest margin of a greedy choice {np.min(top[:, -1] - top[:, -2]):.4f}, "
          f"{len(set(generated))} distinct tokens generated")
    return np.array(ids, dtype=np.int32), logits


def check_against_one_pass(model, ids, logits):
    with torch.no_grad():
        whole = model(torch.tensor([ids])).logits[0, -len(logits):].numpy()
    worst = float(np.abs(whole - logits).max())
    if worst > 2e-4:
        raise SystemExit(f"decoding differs from one pass over the same tokens by {worst}")


def write_hf_folder(model, checkpoint: Checkpoint, tokenizer, folder: pathlib.Path):
    copy.deepcopy(model).to(checkpoint.dtype).save_pretrained(folder)  # a copy: the rotary table is rounded too
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save(str(folder / "tokenizer.json"))
    if checkpoint.legacy_config:
        path = folder / "config.json"
        config = json.loads(path.read_text())
        config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
        config["rope_scaling"] = None
        config["torch_dtype"] = config.pop("dtype")
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def gguf_tensors(model, checkpoint: Checkpoint):
    """Pairs (GGUF name, float32 array), wq and wk in GGUF's row order."""
    if checkpoint.scaling["rope_type"] == "llama3":  # as converters write this rule: divisors of the frequencies
        plain = checkpoint.theta ** -(np.arange(0, checkpoint.head_dim, 2) / checkpoint.head_dim)
        yield "rope_freqs.weight", (plain / model.model.rotary_emb.inv_freq.numpy()).astype(np.float32)
    names = {hf: ours for ours, hf in {**gguf_llama.HF_NAMES, **gguf_llama.HF_TOP_NAMES}.items()}
    for name, parameter in model.named_parameters():
        weight = parameter.detach().numpy()
        stem = name.removesuffix(".weight")
        if stem in names:
            yield f"{names[stem]}.weight", weight
            continue
        _, _, layer, rest = stem.split(".", 3)
        if rest == "self_attn.q_proj":
            weight = gguf_llama.interleave_halves(weight, checkpoint.heads)
        elif rest == "self_attn.k_proj":
            weight = gguf_llama.interleave_halves(weight, checkpoint.kv_heads)
        yield f"blk.{layer}.{names[rest]}.weight", weight


def add_keys(writer: gguf.GGUFWriter, model, checkpoint: Checkpoint, tokenizer):
    config = model.config
    writer.add_name(f"{checkpoint.name}, random weights")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(checkpoint.heads)
    writer.add_head_count_kv(checkpoint.kv_heads)
    writer.add_key_length(checkpoint.head_dim)
    writer.add_value_length(checkpoint.head_dim)
    writer.add_rope_dimension_count(checkpoint.head_dim)
    writer.add_rope_freq_base(checkpoint.theta)
    if checkpoint.scaling["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(checkpoint.scaling["factor"])
    if checkpoint.scaling["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(checkpoint.scaling["factor"])
        writer.add_rope_scaling_orig_ctx_len(checkpoint.scaling["original_max_position_embeddings"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    add_tokenizer(writer, tokenizer)


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer):
    writer.add_vocab_size(VOCAB)
    model_json = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model_json["vocab"], key=model_json["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in model_json["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def write_gguf(model, checkpoint: Checkpoint, tokenizer, type_name: str, path: pathlib.Path):
    """Matrices whose rows a block of the type divides are stored in it; all else in F32."""
    kind = gguf.GGMLQuantizationType[type_name]
    block = gguf.GGML_QUANT_SIZES[kind][0]
    writer = gguf.GGUFWriter(str(path), "llama")
    add_keys(writer, model, checkpoint, tokenizer)
    for name, weight in gguf_tensors(model, checkpoint):
        if weight.ndim == 1 or kind == gguf.GGMLQuantizationType.F32 or weight.shape[-1] % block:
            writer.add_tensor(name, np.ascontiguousarray(weight, dtype=np.float32))
        else:
            writer.add_tensor(name, gguf.quants.quantize(weight, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make(checkpoint: Checkpoint, seed: int, tokenizer) -> list:
    print(checkpoint.name)
    folder = GOLDEN / checkpoint.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model = random_model(checkpoint, seed)
    prompt = np.random.default_rng(seed).integers(len(SPECIAL), VOCAB, PROMPT_TOKENS)
    write_hf_folder(model, checkpoint, tokenizer, folder / "hf")
    cases = []
    for i, type_name in enumerate(checkpoint.gguf_types):
        stem = type_name.lower()
        write_gguf(model, checkpoint, tokenizer, type_name, folder / f"{stem}.gguf")
        stored = gguf_llama.load_model(str(folder / f"{stem}.gguf"))
        ids, logits = greedy_logits(stored, prompt)
        if i == 0:
            exact_ids, exact = greedy_logits(model, prompt)
            assert np.array_equal(ids, exact_ids) and np.abs(logits - exact).max() < 1e-4, type_name
        np.save(folder / f"{stem}.ids.npy", ids)
        np.save(folder / f"{stem}.logits.npy", logits)
        for source in ([f"{checkpoint.name}/hf"] if i == 0 else []) + [f"{checkpoint.name}/{stem}.gguf"]:
            cases.append({"model": source, "ids": f"{checkpoint.name}/{stem}.ids.npy",
                          "logits": f"{checkpoint.name}/{stem}.logits.npy", "prompt_tokens": PROMPT_TOKENS})
    return cases


def make_all(checkpoints, first_seed: int, make_one, listed: pathlib.Path):
    """Those that the command line names, or all, and the list of their cases."""
    torch.set_num_threads(1)
    tokenizer = train_tokenizer()
    cases = json.loads(listed.read_text()) if sys.argv[1:] else []
    for seed, checkpoint in enumerate(checkpoints, start=first_seed):
        if sys.argv[1:] and checkpoint.name not in sys.argv[1:]:
            continue
        cases = [case for case in cases if not case["model"].startswith(checkpoint.name + "/")]
        cases += make_one(checkpoint, seed, tokenizer)
    listed.write_text(json.dumps(cases, indent=1) + "\n")


if __name__ == "__main__":
    make_all(CHECKPOINTS, 1, make, GOLDEN / "llama.json")
