#!/usr/bin/env python3
"""Times llama.cpp and this program side by side on this machine's CPU: the same file, prompts and threads.

    python3 tools/compare_llama_cpp.py [--tokens 512,6400] [--answer 64] [--runs 3] [--model FILE]

The first call makes a virtual environment in build/llama_cpp and compiles llama.cpp there (llama-cpp-python from PyPI, a
pinned version, for this machine's instruction set without AMX, with which that version crashes); needs a compiler. Every run
has each program once, one after the other; the table shows the fastest of the runs. Full attention on both sides, and this
program's own way beside it. The model: SmolLM2-135M-Instruct, which tools/fetch_model.py fetches. Needs Python 3.9 alone.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "llama_cpp"
RIVAL = "llama-cpp-python==0.3.36"
TEXT = ROOT / "data" / "a_scandal_in_bohemia.txt"
FLAGS = {"avx": "AVX", "avx2": "AVX2", "fma": "FMA", "f16c": "F16C", "bmi2": "BMI2", "avx512f": "AVX512",
         "avx512_vbmi": "AVX512_VBMI", "avx512_vnni": "AVX512_VNNI", "avx512_bf16": "AVX512_BF16"}

# What the environment's Python runs: one JSON object of ids or times.
MEASURE = r"""
import json, sys, time
import llama_cpp
asked = json.load(sys.stdin)
llm = llama_cpp.Llama(asked["model"], n_ctx=8192, n_threads=asked["threads"], n_threads_batch=asked["threads"],
                      flash_attn=True, verbose=False, vocab_only="text" in asked)
if "text" in asked:
    print(json.dumps({"ids": llm.tokenize(asked["text"].encode(), add_bos=False)}))
    sys.exit()
start = time.perf_counter()
llm.eval(asked["ids"])
token = llm.sample(temp=0)
first = time.perf_counter() - start
start = time.perf_counter()
for _ in range(asked["answer"] - 1):
    llm.eval([token])
    token = llm.sample(temp=0)
print(json.dumps({"first_s": first, "rest_s": time.perf_counter() - start}))
"""


def environment() -> pathlib.Path:
    python = FOLDER / "bin" / "python"
    stamp = FOLDER / RIVAL
    if stamp.exists():
        return python
    subprocess.run([sys.executable, "-m", "venv", FOLDER], check=True)
    found = set(pathlib.Path("/proc/cpuinfo").read_text().split())
    options = ["-DGGML_NATIVE=OFF", "-DLLAVA_BUILD=OFF"]
    options += [f"-DGGML_{name}={'ON' if flag in found else 'OFF'}" for flag, name in FLAGS.items()]
    print(f"compiling {RIVAL}, which takes some minutes", file=sys.stderr)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-binary", "llama-cpp-python", RIVAL], check=True,
                   env={**os.environ, "CMAKE_ARGS": " ".join(options)})
    stamp.touch()
    return python


def rival(python: pathlib.Path, **asked) -> dict:
    done = subprocess.run([python, "-c", MEASURE], input=json.dumps(asked), capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def ours(arguments, ids: list, *options: str) -> dict:
    done = subprocess.run([ROOT / "build/release/shadowkv", "generate", "--model", arguments.model, "--prompt-ids",
                           ",".join(map(str, ids)), "--max-new-tokens", str(arguments.answer), "--ignore-eos", "--json",
                           "--threads", str(arguments.threads), *options], capture_output=True, text=True, check=True)
    timings = json.loads(done.stdout)["timings"]
    return {"first_s": timings["ttft_s"], "rest_s": timings["decode_s"]}


def rows(arguments) -> list:
    python = environment()
    ids = rival(python, model=arguments.model, threads=arguments.threads, text=TEXT.read_text())["ids"]
    programs = {
        "llama.cpp, flash attention": lambda prompt: rival(python, model=arguments.model, threads=arguments.threads,
                                                           ids=prompt, answer=arguments.answer),
        "full": lambda prompt: ours(arguments, prompt, "--method", "full"),
        "full, `--weights int8`": lambda prompt: ours(arguments, prompt, "--method", "full", "--weights", "int8"),
        "default, `--weights int8`": lambda prompt: ours(arguments, prompt, "--weights", "int8"),
    }
    table = []
    for tokens in arguments.tokens:
        runs = [{name: run(ids[:tokens]) for name, run in programs.items()} for _ in range(arguments.runs)]
        for name in programs:
            first = min(run[name]["first_s"] for run in runs)
            rest = min(run[name]["rest_s"] for run in runs)
            table.append((tokens, name, first, tokens / first, (arguments.answer - 1) / rest))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=lambda text: [int(one) for one in text.split(",")], default=[512, 6400])
    parser.add_argument("--answer", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--model")
    arguments = parser.parse_args()
    if arguments.model is None:
        fetched = subprocess.run([sys.executable, ROOT / "tools/fetch_model.py"], capture_output=True, text=True, check=True)
        arguments.model = fetched.stdout.strip()
    print("| prompt tokens | program | first token, s | prompt tokens/s | then tokens/s |\n|---:|---|---:|---:|---:|")
    for tokens, name, first, reading, decoding in rows(arguments):
        print(f"| {tokens:,} | {name} | {first:.2f} | {reading:.0f} | {decoding:.1f} |")


if __name__ == "__main__":
    main()
