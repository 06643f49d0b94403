#!/usr/bin/env python3
"""Prints the Markdown table of docs/ACCURACY.md from the JSON of `shadowkv fidelity --json`.

Usage: build/release/shadowkv fidelity ... --json | python3 tools/fidelity_table.py
"""
import json
import sys


def row(method: dict) -> str:
    kl = method["kl_nats"]
    held = method["bytes_per_1024_tokens"]
    megabytes = (held["device"] + held["host"]) / 2**20
    return (f"| `{method['method']}` | {kl['mean']:.4f} | {kl['median']:.4f} | {kl['p99']:.3f} | {kl['same_top']:.3f} | "
            f"{method['perplexity_ratio']:.3f} | {megabytes:.1f} | {method['step_ms']:.1f} |")


def main() -> None:
    report = json.load(sys.stdin)
    print("| method | KL mean | median | p99 | same top token | perplexity ratio | MiB / 1K tokens | ms a step |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for method in report["methods"]:
        if "kl_nats" in method:
            print(row(method))


if __name__ == "__main__":
    main()
