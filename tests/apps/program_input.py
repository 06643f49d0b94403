#!/usr/bin/env python3
"""Prompts and models that cannot be used: one line, nothing on stdout."""

import json
import os
import shutil
import struct
import subprocess
import time
import unittest

from program import GOLDEN, MODEL, PROGRAM, ProgramTest

SANITIZED = "SHADOWKV_TEST_PATIENCE" in os.environ


class BadPrompt(ProgramTest):
    def test_an_empty_prompt_is_refused_wherever_it_comes_from(self):
        self.refuse("generate", *MODEL, "", says=["empty"])
        self.refuse("generate", *MODEL, says=["empty"])
        self.refuse("generate", *MODEL, "-", says=["empty"])
        self.refuse("generate", *MODEL, "--prompt-file", self.write("empty", ""), says=["empty"])
        self.refuse("generate", *MODEL, "--prompt-ids", " , ", says=["empty"])
        self.refuse("tokenize", *MODEL, "", says=["empty"])
        self.refuse("detokenize", *MODEL, " ", says=["empty"])

    def test_text_that_is_not_utf8_is_refused_with_the_place(self):
        self.refuse("generate", *MODEL, stdin=b"ab\xff", says=["UTF-8", "byte 2", "0xff"])
        bad = self.write("bad.txt", b"\xed\xa0\x80")
        self.refuse("tokenize", *MODEL, "--prompt-file", bad, says=["UTF-8"])
        self.refuse("fidelity", *MODEL, "--text", bad, says=["UTF-8"])

    def test_a_file_that_is_not_there_is_named(self):
        gone = self.folder / "gone.txt"
        self.refuse("generate", *MODEL, "--prompt-file", gone, says=[str(gone), "--prompt-file"])
        self.refuse("generate", *MODEL, "--prompt-file", self.folder, says=[str(self.folder)])
        self.refuse("fidelity", *MODEL, "--text", gone, says=[str(gone), "--text"])
        self.refuse("compare", *MODEL, "--document", gone, "--question", "who?", says=[str(gone), "--document"])

    def test_ids_outside_the_vocabulary_are_refused(self):
        self.refuse("generate", *MODEL, "--prompt-ids", "1,288", says=["288"])
        self.refuse("generate", *MODEL, "--prompt-ids", "1,-2", says=["-2"])
        self.refuse("generate", *MODEL, "--prompt-ids", "1,x", says=['"x"'])
        self.refuse("compare", *MODEL, "--prompt-ids", "1,288", "--json", says=["288"])
        self.refuse("detokenize", *MODEL, "288", says=["288"])

    def test_a_prompt_beyond_the_context_is_refused_with_both_numbers(self):
        ids = ",".join(["5"] * 5000)
        self.refuse("generate", *MODEL, "--prompt-ids", ids, says=["5000", "4096"])

    def test_a_prompt_beyond_the_memory_is_out_of_memory(self):
        ids = ",".join(["5"] * 4000)
        self.refuse("generate", *MODEL, "--prompt-ids", ids, "--device-memory", "600K", says=["4096 tokens", "MiB", "free"])
        self.refuse("generate", *MODEL, "--prompt-ids", "5", "--device-memory", "10K", says=["weights", "10.0 KiB"])

    def test_a_text_too_short_for_the_steps_is_refused_with_its_length(self):
        text = self.write("short.txt", "a few words")
        self.refuse("fidelity", *MODEL, "--text", text, "--steps", "500", says=["500", "tokens"])
        self.refuse("fidelity", *MODEL, says=["--text"])
        self.refuse("fidelity", *MODEL, "--text", text, "--layers-every", "1", "--methods", "paper;full",
                    says=["full", "paper", "--layers-every"])
        self.refuse("fidelity", *MODEL, "--text", text, "--layers-svg", "a.svg", says=["--layers-svg", "--layers-every"])

    def test_text_for_a_model_without_a_tokenizer_asks_for_one(self):
        folder = self.folder / "model"
        folder.mkdir()
        for name in ("config.json", "model.safetensors"):
            shutil.copy(GOLDEN / "hf" / name, folder)
        self.refuse("generate", "--model", folder, "hello", says=["--tokenizer"])
        self.succeed("generate", "--model", folder, "--tokenizer", GOLDEN / "hf" / "tokenizer.json", "-n", "1", "hello")

    def test_a_chat_format_the_model_lacks_is_refused(self):
        content = (GOLDEN / "hf" / "tokenizer.json").read_text().replace("<|im_start|>", "<|begin|>")
        other = self.write("tokenizer.json", content)
        self.refuse("generate", *MODEL, "--tokenizer", other, "--chat", "hello", says=["chat"])
        self.refuse("generate", *MODEL, "--chat", "--prompt-ids", "1", says=["--chat", "--prompt-ids"])


class BadModel(ProgramTest):
    def test_no_model_or_a_missing_one_is_named(self):
        self.refuse("generate", "hello", says=["--model"])
        self.refuse("generate", "--model", "/no/such/model.gguf", "x", says=["/no/such/model.gguf"])
        self.refuse("info", "--model", "/no/such/model.gguf", says=["/no/such/model.gguf"])
        self.refuse("generate", *MODEL, "--tokenizer", "/no/such.json", "x", says=["/no/such.json"])

    def test_damaged_files_are_refused_in_one_line(self):
        whole = (GOLDEN / "f32.gguf").read_bytes()
        damaged = {
            "empty": b"", "magic": b"GGUX" + whole[4:], "cut": whole[:-1000], "header": whole[:100],
            "counts": whole[:8] + b"\xff" * 16 + whole[24:], "version": whole[:4] + b"\x09" + whole[5:],
            "text": b"this is not a model\n",
        }
        for name, content in damaged.items():
            with self.subTest(name):
                path = self.write(f"{name}.gguf", content)
                self.refuse("generate", "--model", path, "--prompt-ids", "1", says=[path.name])
        for name in ("empty", "magic", "header", "counts", "version", "text"):
            with self.subTest(name):
                self.refuse("info", "--model", self.folder / f"{name}.gguf", says=[name])

    def test_gguf_files_that_lie_are_refused_in_one_line(self):
        whole = (GOLDEN / "f32.gguf").read_bytes()
        entry = whole.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight")
        dimensions, rows, columns = struct.unpack("<IQQ", whole[entry : entry + 20])

        def patched(at, form, *values):
            new = struct.pack("<" + form, *values)
            return whole[:at] + new + whole[at + len(new) :]

        def renamed(old, new):
            self.assertEqual(len(old), len(new))
            at = whole.index(old)
            return whole[:at] + new + whole[at + len(new) :]

        nan, infinity = float("nan"), float("inf")
        cases = {
            "architecture": (renamed(b"\0llama", b"\0lamma"), ['"lamma"', "llama"]),
            "tokenizer": (renamed(b"\0gpt2", b"\0wrdp"), ['"wrdp"', "gpt2"]),
            "missing": (renamed(b"blk.0.attn_q.weight", b"blk.0.attn_x.weight"), ["attn_q", "missing", "[64, 32]"]),
            "misshapen": (patched(entry, "IQQ", dimensions, columns, rows), ["attn_q", "[32, 64]", "[64, 32]"]),
            "overflow": (patched(entry, "IQQ", dimensions, 1 << 62, 1 << 62), ["attn_q", "size"]),
            "dimensions": (patched(entry, "I", 200), ["attn_q", "200 dimensions"]),
            "type": (patched(entry + 20, "I", 11), ["attn_q", "Q3_K", "Q8_0"]),
            "unknown-type": (patched(entry + 20, "I", 199), ["attn_q", "199"]),
            "past-the-end": (patched(entry + 24, "Q", 1 << 40), ["attn_q", "truncated"]),
            "overlap": (patched(entry + 24, "Q", 0), ["attn_q", "overlap"]),
            "not-a-number": (patched(len(whole) - 64, "f", nan), ["output.weight", "not finite"]),
            "infinite": (patched(len(whole) - 64, "f", infinity), ["output.weight", "not finite"]),
            "oversized": (whole + bytes(1000), ["damaged"]),
        }
        for name, (content, says) in cases.items():
            with self.subTest(name):
                path = self.write(f"{name}.gguf", content)
                self.refuse("generate", "--model", path, "--prompt-ids", "1", says=[path.name, *says])

    def refuse_soon(self, path, *says):
        """In under two seconds and 300 MB, whatever the file claims."""
        with (self.folder / "errors").open("w+b") as errors:
            start = time.monotonic()
            program = subprocess.Popen([PROGRAM, "generate", "--model", path, "x"], stdin=subprocess.DEVNULL,
                                       stdout=subprocess.DEVNULL, stderr=errors)
            _, status, used = os.wait4(program.pid, 0)
            program.returncode = os.waitstatus_to_exitcode(status)
            errors.seek(0)
            line = errors.read().decode()
        self.assertEqual((program.returncode, line.count("\n")), (2, 1), line)
        for part in says:
            self.assertIn(part, line)
        if not SANITIZED:  # these keep what is freed, and watch every byte
            self.assertLess(time.monotonic() - start, 2, line)
            self.assertLess(used.ru_maxrss * 1024, 300e6, line)

    def sparse(self, path, content):
        """A file of 64 GiB that begins so."""
        path.write_bytes(content)
        os.truncate(path, 1 << 36)
        return path

    def test_files_of_any_size_are_refused_soon_and_in_little_memory(self):
        whole, weights = (GOLDEN / "f32.gguf").read_bytes(), (GOLDEN / "hf/model.safetensors").read_bytes()
        architecture = whole.index(b"general.architecture") + len(b"general.architecture")
        tokens = whole.index(b"tokenizer.ggml.tokens") + len(b"tokenizer.ggml.tokens")

        def patched(at, form, *values):
            new = struct.pack("<" + form, *values)
            return whole[:at] + new + whole[at + len(new) :]

        for name, (content, *says) in {
            "empty": (b"", "JSON"), "oversized": (whole, "damaged"),
            "tensors": (patched(8, "Q", 1 << 30), "1073741824 tensors"),
            "values": (patched(16, "Q", 1 << 30), "1073741824 metadata values"),
            "key": (patched(24, "Q", 1 << 32), "a metadata key"),
            "text": (patched(architecture + 4, "Q", 1 << 32), "general.architecture"),
            "texts": (patched(tokens + 8, "Q", (1 << 24) - 1), "tokenizer.ggml.tokens"),
            "numbers": (patched(tokens + 4, "IQ", 0, 1 << 24), "tokenizer.ggml.tokens"),
        }.items():
            with self.subTest(name):
                path = self.sparse(self.folder / f"{name}.gguf", content)
                self.refuse_soon(path, path.name, *says)
                path.unlink()
        folder = self.folder / "large"
        shutil.copytree(GOLDEN / "hf", folder)
        for name, content in [
            ("tokenizer.json", b'{"model": "'), ("config.json", b'{"model_type": "'),
            ("model.safetensors", struct.pack("<Q", 1 << 34) + b"{"), ("model.safetensors", weights),
        ]:
            with self.subTest(name):
                self.refuse_soon(self.sparse(folder / name, content).parent, name)
                shutil.copy(GOLDEN / "hf" / name, folder / name)

    def test_folders_that_lie_are_refused_in_one_line(self):
        whole = (GOLDEN / "hf/model.safetensors").read_bytes()
        length = struct.unpack("<Q", whole[:8])[0]
        name = "model.layers.0.self_attn.q_proj.weight"
        start = json.loads(whole[8 : 8 + length])[name]["data_offsets"][0]
        at = 8 + length + start

        def entry(**changes):
            header = json.loads(whole[8 : 8 + length])
            header[changes.pop("name", name)] = {**header.pop(name), **changes}
            text = json.dumps(header).encode()
            return struct.pack("<Q", len(text)) + text + whole[8 + length :]

        weights = {
            "empty": (b"", ["truncated"]), "cut": (whole[:-10], ["truncated"]),
            "oversized": (whole + b"more", ["bytes"]),
            "header-size": (struct.pack("<Q", 1 << 60) + whole[8:], ["header"]),
            "not-json": (whole[:8] + b"x" * length + whole[8 + length :], ["JSON"]),
            "past-the-end": (entry(data_offsets=[start, 1 << 50]), [name]),
            "overlap": (entry(data_offsets=[0, 8192]), ["begins at byte 0"]),
            "dtype": (entry(dtype="I32"), [name, "I32", "BF16"]), "unknown-dtype": (entry(dtype="F99"), [name, "F99"]),
            "missing": (entry(name="other"), [name, "missing", "[64, 32]"]),
            "misshapen": (entry(shape=[128, 16]), [name, "[128, 16]", "[64, 32]"]),
            "overflow": (entry(shape=[1 << 62, 1 << 62]), [name, "size"]), "negative": (entry(shape=[-1, 4]), [name, "-1"]),
            "not-a-number": (whole[:at] + struct.pack("<f", float("nan")) + whole[at + 4 :], [name, "not finite"]),
        }
        configs = {
            "architecture": ({"model_type": "mamba"}, ["mamba", "llama"]),
            "rope": ({"rope_parameters": {"type": "dynamic", "factor": 0.4}}, ["rope_parameters", "0.4"]),
            "rope twice": ({"rope_scaling": {"type": "dynamic", "factor": 4}}, ["rope_scaling", "rope_parameters"]),
            "unknown rope": ({"rope_parameters": {"type": "static"}}, ["static", "dynamic"]),
            "heads": ({"num_attention_heads": -4}, ["num_attention_heads", "-4"]),
            "layers": ({"num_hidden_layers": 10**18}, ["layers"]),
        }
        folder = self.folder / "hf"
        shutil.copytree(GOLDEN / "hf", folder)
        for name_of_case, (content, says) in weights.items():
            with self.subTest(name_of_case):
                (folder / "model.safetensors").write_bytes(content)
                self.refuse("generate", "--model", folder, "--prompt-ids", "1", says=["model.safetensors", *says])
        (folder / "model.safetensors").write_bytes(whole)
        config = json.loads((folder / "config.json").read_text())
        for name_of_case, (changes, says) in configs.items():
            with self.subTest(name_of_case):
                (folder / "config.json").write_text(json.dumps({**config, **changes}))
                self.refuse("generate", "--model", folder, "--prompt-ids", "1", says=["config.json", *says])

    def test_a_folder_without_a_model_is_refused(self):
        self.refuse("generate", "--model", self.folder, "--prompt-ids", "1", says=["config.json"])

    def test_a_damaged_tokenizer_is_refused(self):
        path = self.write("tokenizer.json", '{"model": {"type": "WordPiece"}}')
        self.refuse("generate", *MODEL, "--tokenizer", path, "x", says=["WordPiece"])


if __name__ == "__main__":
    unittest.main()
