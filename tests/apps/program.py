#!/usr/bin/env python3
"""Runs the program as a user does and checks what comes back: exit codes, messages, output.

    SHADOWKV_PROGRAM=build/release/shadowkv python3 tests/apps/program.py

Needs Python's standard library alone. The models are the tiny ones of tests/testdata/golden.
"""

import contextlib
import json
import os
import pathlib
import pty
import re
import shutil
import signal
import struct
import subprocess
import tempfile
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/testdata/golden/llama_gqa"
MODEL = ["--model", str(GOLDEN / "f32.gguf")]
SHAPE = ["--shape", "tiny"]
PROGRAM = os.environ.get("SHADOWKV_PROGRAM", str(ROOT / "build/release/shadowkv"))
COMMANDS = ["generate", "compare", "fidelity", "tokenize", "detokenize", "info", "bench"]
BENCHES = ["decode", "prefill", "kernels"]


def run(*arguments, stdin=b""):
    command = [PROGRAM, *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=300, check=False)
    done.errors = done.stderr.decode()
    done.text = done.stdout.decode("utf-8", "replace")
    return done


def read_npy(path):
    """Shape and numbers of a float32 or int32 array."""
    data = pathlib.Path(path).read_bytes()
    assert data[:6] == b"\x93NUMPY", path
    length = struct.unpack("<H", data[8:10])[0]
    header = eval(data[10 : 10 + length].decode())  # a literal of Python, from our own files
    kind = {"<f4": "f", "<i4": "i"}[header["descr"]]
    body = data[10 + length :]
    return header["shape"], struct.unpack(f"<{len(body) // 4}{kind}", body)


class ProgramTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def succeed(self, *arguments, stdin=b""):
        done = run(*arguments, stdin=stdin)
        self.assertEqual(done.returncode, 0, done.errors)
        return done

    def refuse(self, *arguments, says=(), stdin=b"", code=2):
        """Expects one line on stderr with each of `says`, and nothing on stdout."""
        done = run(*arguments, stdin=stdin)
        self.assertEqual(done.returncode, code, f"{arguments}: {done.errors}")
        self.assertEqual(done.text, "", arguments)
        self.assertTrue(done.errors.startswith("shadowkv: "), done.errors)
        self.assertEqual(done.errors.count("\n"), 1, done.errors)
        for part in says:
            self.assertIn(part, done.errors)
        return done

    def write(self, name, content):
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path


class Help(ProgramTest):
    def test_every_command_explains_its_options_with_unit_and_default(self):
        whole = [[command] for command in COMMANDS if command != "bench"]
        for command in whole + [["bench", kind] for kind in BENCHES]:
            text = self.succeed(*command, "--help").text
            self.assertIn("[default: ", text, command)
            options = re.findall(r"^  (-[^ ]+.*\n(?:    .*\n)*)", text, re.MULTILINE)
            self.assertGreater(len(options), 8, command)
            for option in options:
                if option.startswith("-h,--help"):
                    continue
                self.assertIn("[default: ", option, command)
                if "[default: off]" not in option:  # not a flag: it has a unit
                    self.assertRegex(option, r"^-[^ ]+ (?!VALUE)[A-Z]+ ", command)
        self.assertIn("TOKENS [default: 256]", self.succeed("generate", "--help").text)

    def test_every_attention_option_is_an_option_of_generate(self):
        text = self.succeed("generate", "--help").text
        attention = json.loads(self.succeed("info", *MODEL, "--json").text)["methods"][0]["attention"]
        self.assertGreaterEqual(len(attention), 18)
        for name in attention:
            self.assertIn(f"--{name}", text)

    def test_help_and_version_succeed_without_a_model(self):
        text = self.succeed("--help").text
        for command in COMMANDS:
            self.assertIn(command, text)
        text = self.succeed("bench", "--help").text
        for kind in BENCHES:
            self.assertIn(kind, text)
        self.assertRegex(self.succeed("--version").text, r"^\d+\.\d+\.\d+\n$")


class BadCommandLine(ProgramTest):
    def test_no_or_an_unknown_command_lists_the_known(self):
        self.refuse(says=["generate", "bench"])
        self.refuse("generrate", says=['"generrate"', "did you mean", "generate"])
        self.refuse("bench", says=["bench", *BENCHES])
        self.refuse("bench", "decod", says=['"decod"', 'did you mean "decode"', "kernels"])
        self.refuse("bench", "--shape", "tiny", says=["bench", *BENCHES])

    def test_an_unknown_option_suggests_the_nearest(self):
        self.refuse("generate", *MODEL, "--budgett", "3", says=["--budgett", "--budget"])
        self.refuse("bench", "decode", *MODEL, "--contxt", "3", says=["shadowkv bench decode", "--context"])

    def test_an_argument_that_nothing_takes_is_refused(self):
        self.refuse("generate", *MODEL, "one", "two", says=['"two"'])

    def test_an_option_without_its_value_is_refused(self):
        self.refuse("generate", *MODEL, "x", "--rank", says=["--rank"])

    def test_impossible_numbers_are_refused_with_option_and_value(self):
        huge = "99999999999999999999"
        for option, value in [
            ("--max-new-tokens", "-1"), ("--max-new-tokens", "0"), ("--max-new-tokens", huge),
            ("--max-new-tokens", "1.5"), ("--max-new-tokens", ""), ("--top-p", "0"), ("--top-p", "1.1"),
            ("--top-p", "nan"), ("--temperature", "-1"), ("--temperature", "inf"), ("--top-k", "-1"),
            ("--seed", "-1"), ("--threads", "-1"), ("--threads", huge), ("--device-memory", "0"),
            ("--device-memory", "5Q"), ("--device-memory", "-1G"), ("--host-memory", "9e30"),
            ("--rank", "-1"), ("--rank", huge), ("--chunk-size", "0"), ("--chunk-size", "17"),
            ("--budget", "-5"), ("--budget", huge), ("--budget", "101%"), ("--sketch-bits", "3"),
            ("--rerank", "0"), ("--exact-below", "-1"), ("--local-window", huge), ("--outlier-chunks", "-1"),
            ("--slot-selections", "0"), ("--segment-tokens", "-512"), ("--weights-seed", "x"),
        ]:
            with self.subTest(option=option, value=value):
                self.refuse("generate", *MODEL, "--prompt-ids", "1", f"{option}={value}" if value else option,
                            *([""] if not value else []), says=[option.replace("--budget", "--sparse-budget")])

    def test_impossible_attention_is_refused_before_an_answer(self):
        self.refuse("generate", *MODEL, "--prompt-ids", "1", "--budget", "3", "--chunk-size", "4", says=["3", "4"])
        self.refuse("generate", *MODEL, "--prompt-ids", "1", "--segment-tokens", "100", says=["100", "512"])
        self.refuse("generate", *MODEL, "--prompt-ids", "1", "--index", "landmark", says=["shadowkv: --index: ", "landmarks"])
        self.refuse("generate", *MODEL, "--prompt-ids", "1", "--preset", "papr", says=["paper"])
        self.refuse("compare", *MODEL, "--prompt-ids", "1", "--methods", "full,full", says=["twice"])
        self.refuse("compare", *MODEL, "--prompt-ids", "1", "--methods", "full,default:rnk=4", says=["rank"])

    def test_words_outside_their_list_are_refused(self):
        self.refuse("generate", *MODEL, "--prompt-ids", "1", "--dtype", "float16", says=["float32", "bfloat16"])
        self.refuse("generate", "--shape", "tinny", "--prompt-ids", "1", says=["tiny"])

    def test_options_that_exclude_each_other_are_refused(self):
        self.refuse("generate", *MODEL, "text", "--prompt-ids", "1", says=["--prompt-ids"])
        self.refuse("generate", *MODEL, "text", "--prompt-file", "x", says=["--prompt-file"])
        self.refuse("generate", *MODEL, *SHAPE, "x", says=["--model", "--shape"])
        self.refuse("generate", *MODEL, "x", "--chat", "--raw", says=["--chat", "--raw"])
        self.refuse("compare", *MODEL, "--question", "who?", says=["--document"])
        self.refuse("compare", *MODEL, "--document", GOLDEN, says=["--question"])

    def test_lists_of_bench_are_checked(self):
        for kind in BENCHES:
            for option in ("--context", "--batch"):
                for value in ("", "0", "-1", "x", "1,,x", "99999999999999999999"):
                    with self.subTest(kind=kind, option=option, value=value):
                        self.refuse("bench", kind, *MODEL, option, value, says=[option])
        self.refuse("bench", "prefill", *MODEL, "--batch", "auto", says=["--batch", "auto"])

    def test_what_bench_cannot_do_is_refused(self):
        for options, says in [
            (["--shape", "lama-3-8b"], ["lama-3-8b", "did you mean", "llama-3-8b"]),
            ([*MODEL, *SHAPE], ["--model", "--shape"]),
            ([*SHAPE, "--method", "ful"], ["ful", "full"]),
            ([*SHAPE, "--preset", "papr"], ["papr", "paper"]),
            ([*SHAPE, "--preset", "full"], ["--preset", "full"]),
            ([*SHAPE, "--storage", "int4"], ["--storage", "int4", "bfloat16", "int8"]),
            ([*SHAPE, "--place", "disk"], ["--place", "disk", "host", "spill"]),
            ([*SHAPE, "--hit-rate", "1.5"], ["--hit-rate", "1.5"]),
            ([*SHAPE, "--hit-rate", "often"], ["--hit-rate", "often", "natural"]),
            ([*SHAPE, "--context", "1024", "--hit-rate", "0.5"], ["--hit-rate", "1024 tokens", "1280"]),
            ([*SHAPE, "--context", "131072"], ["131072", "context"]),
            ([*SHAPE, "--warmup", "1"], ["--warmup", "1"]),
            ([*SHAPE, "--json", self.folder / "no" / "b.json"], ["b.json"]),
        ]:
            with self.subTest(options=options):
                self.refuse("bench", "decode", *options, says=says)


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
            "rope": ({"rope_scaling": {"type": "dynamic", "factor": 4}}, ["dynamic"]),
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


class ConfigFile(ProgramTest):
    def test_options_come_from_the_file_and_the_command_line_wins(self):
        path = self.write("c.toml", 'max-new-tokens = 3\nprint-ids = true\n[generate]\nignore-eos = true\n'
                          '[bench]\ncontext = "1,2"\n[bench.kernels]\nprefill = 3\n')
        base = ["generate", *MODEL, "--prompt-ids", "1,2,3", "--config", path]
        self.assertEqual(len(self.succeed(*base).text.splitlines()[0].split()), 3)
        self.assertEqual(len(self.succeed(*base, "-n", "5").text.splitlines()[0].split()), 5)

    def test_a_command_of_a_group_takes_the_groups_section_and_its_own(self):
        path = self.write("c.toml", '[bench]\ncontext = "32,48"\n[bench.prefill]\nsteps = 2\n[bench.decode]\nsteps = 99\n')
        report = json.loads(self.succeed("bench", "prefill", *MODEL, "--config", path, "--json", "-").text)
        self.assertEqual(report["steps"], 2)
        self.assertEqual(sorted({row["context"] for row in report["rows"]}), [32, 48])

    def test_mistakes_in_the_file_are_refused(self):
        for content, says in [("max-new-token = 3", "max-new-tokens"), ("max-new-tokens = -3", "-3"),
                              ("[generat]\nrank = 3", "generat"), ("rank = 99999999999999999999", "rank"),
                              ("print-ids = maybe", "print-ids")]:
            with self.subTest(content):
                path = self.write("c.toml", content)
                self.refuse("generate", *MODEL, "--prompt-ids", "1", "--config", path, says=[says])
        self.refuse("generate", *MODEL, "--prompt-ids", "1", "--config", "/no/file", says=["/no/file"])
        self.refuse("generate", *MODEL, "--prompt-ids", "1", "--config", self.folder, says=[str(self.folder)])


class Generate(ProgramTest):
    EXACT = ["--dtype", "float32", "--method", "full", "--ignore-eos"]

    def golden(self):
        ids = read_npy(GOLDEN / "f32.ids.npy")[1]
        return ",".join(map(str, ids[:40])), list(ids[40:])

    def test_ids_and_logits_are_those_of_the_golden_file(self):
        prompt, answer = self.golden()
        dump = self.folder / "logits.npy"
        done = self.succeed("generate", *MODEL, *self.EXACT, "--prompt-ids", prompt, "-n", "32", "--print-ids",
                            "--dump-logits", dump)
        self.assertEqual(list(map(int, done.text.splitlines()[0].split())), answer)
        shape, logits = read_npy(dump)
        self.assertEqual(shape, (32, 288))
        wanted = read_npy(GOLDEN / "f32.logits.npy")[1]
        self.assertLess(max(abs(a - b) for a, b in zip(logits, wanted)), 1e-3)
        self.assertEqual([path.name for path in self.folder.iterdir()], ["logits.npy"])

    def test_a_prompt_is_the_same_from_argument_file_and_stdin(self):
        base = ["generate", *MODEL, "-n", "8", "--print-ids", "--ignore-eos"]
        wanted = self.succeed(*base, "Once upon").text
        self.assertEqual(self.succeed(*base, "--prompt-file", self.write("p.txt", "Once upon")).text, wanted)
        self.assertEqual(self.succeed(*base, stdin=b"Once upon").text, wanted)
        self.assertEqual(self.succeed(*base, "-", stdin=b"Once upon").text, wanted)
        self.assertEqual(self.succeed(*base, "--raw", "Once upon").text, wanted)
        ids = self.succeed("tokenize", *MODEL, "Once upon").text
        self.assertEqual(self.succeed(*base, "--prompt-ids", ids).text, wanted)

    def test_the_chat_format_frames_the_text(self):
        def prompt_tokens(*options):
            return json.loads(self.succeed("generate", *MODEL, "-n", "1", "--json", *options, "hello").text)["prompt_tokens"]

        self.assertGreater(prompt_tokens("--chat"), prompt_tokens())

    def test_streamed_text_is_the_text_that_follows_the_ids(self):
        base = ["generate", *MODEL, "-n", "12", "--ignore-eos", "Once upon"]
        after_ids = self.succeed(*base, "--print-ids").stdout.split(b"\n", 1)[1]
        self.assertEqual(self.succeed(*base).stdout.rstrip(b"\n"), after_ids.rstrip(b"\n"))

    def test_json_is_one_object_with_ids_timings_statistics_and_settings(self):
        done = self.succeed("generate", *MODEL, "--json", "-n", "4", "--ignore-eos", "--exact-below", "0",
                            "--rank", "8", "Once upon a time")
        report = json.loads(done.text)
        self.assertEqual(len(report["ids"]), 4)
        self.assertEqual(report["finish"], "length")
        self.assertEqual(report["attention"]["rank"], 8)
        self.assertGreater(report["timings"]["ttft_s"], 0)
        self.assertGreater(report["statistics"]["held_bytes"]["device"], 0)

    def test_same_seed_same_tokens(self):
        base = ["generate", *MODEL, "--prompt-ids", "1,2,3", "-n", "16", "--ignore-eos", "--print-ids",
                "--temperature", "1.5", "--top-k", "50", "--top-p", "0.95"]
        one = self.succeed(*base, "--seed", "1").text
        self.assertEqual(self.succeed(*base, "--seed", "1").text, one)
        self.assertNotEqual(self.succeed(*base, "--seed", "2").text, one)

    def test_a_rank_over_the_width_is_taken_as_all_of_it_and_said_so(self):
        done = self.succeed("generate", *MODEL, "--rank", "5000", "--exact-below", "0", "-n", "2", "Once upon")
        self.assertIn("rank", done.errors)
        self.assertIn("5000", done.errors)

    def test_a_budget_of_everything_at_full_rank_is_full_attention(self):
        prompt, answer = self.golden()
        done = self.succeed("generate", *MODEL, "--dtype", "float32", "--exact-below", "0", "--rank", "5000",
                            "--factors", "float32", "--values", "float32", "--budget", "100%", "--ignore-eos", "--prompt-ids", prompt,
                            "-n", "32", "--print-ids")
        self.assertEqual(list(map(int, done.text.splitlines()[0].split())), answer)

    def test_a_file_that_cannot_be_written_is_refused_before_work(self):
        self.refuse("generate", *MODEL, "x", "--dump-logits", self.folder / "no" / "l.npy", says=["l.npy"])
        self.refuse("generate", *MODEL, "x", "--dump-logits", self.folder, says=["folder"])

    def test_a_refused_prompt_leaves_no_file(self):
        self.refuse("generate", *MODEL, "--prompt-ids", "999", "--dump-logits", self.folder / "l.npy")
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_the_first_interrupt_ends_the_line_and_exits_130(self):
        command = [PROGRAM, "generate", *MODEL, "--ignore-eos", "-n", "4000", "--dump-logits", self.folder / "l.npy",
                   "Once upon"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            first = process.stdout.read(1)
            process.send_signal(signal.SIGINT)
            rest, errors = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130, errors)
        self.assertTrue((first + rest).endswith(b"\n"))
        self.assertEqual(errors.decode().strip(), "shadowkv: interrupted")
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_a_terminal_sees_progress_of_load_and_prompt(self):
        terminal, program_side = pty.openpty()
        ids = ",".join(["5"] * 3000)
        with subprocess.Popen([PROGRAM, "generate", *MODEL, "--prompt-ids", ids, "-n", "2", "--ignore-eos"],
                              stdout=subprocess.PIPE, stderr=program_side) as process:
            os.close(program_side)
            seen = b""
            with contextlib.suppress(OSError):  # the terminal's other side is closed
                while piece := os.read(terminal, 65536):
                    seen += piece
            os.close(terminal)
            self.assertEqual(process.wait(timeout=60), 0)
        for part in (b"loading [", b"reading the prompt [", b"%", b"3000 prompt tokens", b"tokens/s"):
            self.assertIn(part, seen)
        self.assertEqual(self.succeed("generate", *MODEL, "--prompt-ids", "5", "-n", "1").errors, "")

    def test_an_interrupt_while_waiting_for_the_prompt_exits_130(self):
        with subprocess.Popen([PROGRAM, "generate", *MODEL], stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            time.sleep(1.0)
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)
            self.assertEqual(process.returncode, 130)


class Text(ProgramTest):
    def test_text_survives_tokens(self):
        for text in ("Hello, world", "h\u00e9llo \U0001f600 \u4f60\u597d", "  two  spaces\n\ttab"):
            ids = self.succeed("tokenize", *MODEL, text).text
            self.assertEqual(self.succeed("detokenize", *MODEL, ids).text, text + "\n")
            self.assertEqual(self.succeed("detokenize", *MODEL, stdin=ids.encode()).text, text + "\n")
            report = json.loads(self.succeed("tokenize", *MODEL, "--json", text).text)
            self.assertEqual(report["ids"], list(map(int, ids.split())))
            self.assertEqual(report["count"], len(report["ids"]))


class SideBySide(ProgramTest):
    def test_compare_prints_every_answer_and_the_table(self):
        done = self.succeed("compare", *MODEL, "--methods", "full,default:rank=16,chunk-size=8;paper", "-n", "6",
                            "--ignore-eos", "Once upon a time there was a king")
        for part in ("== full ==", "== default:rank=16,chunk-size=8 ==", "== paper ==", "mean KL", "slot hits", "reference"):
            self.assertIn(part, done.text)

    def test_compare_as_json_measures_agreement_with_full(self):
        ids = ",".join(str(3 + i * 7 % 280) for i in range(300))
        done = self.succeed("compare", *MODEL, "--dtype", "float32", "--json", "--ignore-eos", "-n", "12", "--methods",
                            "default:budget=16;full;default:rank=5000,factors=float32,values=float32,sparse-budget=100%"
                            .replace("budget=16", "sparse-budget=16"), "--prompt-ids", ids)
        report = json.loads(done.text)
        self.assertEqual(report["reference"], "full")
        self.assertEqual(report["prompt_tokens"], 300)
        sparse, full, collapsed = report["methods"]
        self.assertEqual(full["agreement"], {"same_tokens": 12, "forced": {"steps": 0}})
        self.assertEqual(full["statistics"]["attended_share"], 1.0)
        self.assertEqual(sparse["agreement"]["forced"]["steps"], 11)
        self.assertGreater(sparse["agreement"]["forced"]["mean"], 0)
        self.assertLess(sparse["statistics"]["attended_share"], 0.5)
        self.assertEqual(collapsed["agreement"]["same_tokens"], 12)
        self.assertLess(collapsed["agreement"]["forced"]["max"], 1e-6)

    def test_fidelity_measures_every_method_against_the_first(self):
        text = self.write("a.txt", "the quick brown fox jumps over the lazy dog and runs away; " * 12)
        other = self.write("b.txt", "another text entirely, about nothing in particular. " * 12)
        done = self.succeed("fidelity", *MODEL, "--dtype", "float32", "--text", text, other, "--prefill-tokens", "150",
                            "--steps", "20", "--methods", "full,default:sparse-budget=16,paper", "--json")
        report = json.loads(done.text)
        self.assertEqual(report["steps"], 40)
        self.assertEqual(len(report["texts"]), 2)
        full, sparse, _ = report["methods"]
        self.assertEqual(full["kl_nats"]["max"], 0)
        self.assertEqual(full["perplexity_ratio"], 1)
        kl = sparse["kl_nats"]
        self.assertTrue(0 < kl["median"] <= kl["p90"] <= kl["p99"] <= kl["max"], kl)
        table = self.succeed("fidelity", *MODEL, "--text", text, "--steps", "8").text
        for part in ("mean KL", "p99", "perplexity", "paper"):
            self.assertIn(part, table)


@unittest.skipIf("SHADOWKV_TEST_NO_BENCH" in os.environ, "this build is too slow to time anything")
class Bench(ProgramTest):
    def test_decode_says_what_a_step_moves_and_how_far_that_is_from_the_ceilings(self):
        path = self.folder / "bench.json"
        done = self.succeed("bench", "decode", *SHAPE, "--context", "2200,3000", "--batch", "1,2", "--method", "full,shadow",
                            "--preset", "paper", "--storage", "int8", "--place", "host", "--hit-rate", "0.75", "--steps", "3",
                            "--warmup", "2", "--json", path)
        for part in ("of roofline", "ms a stage", "checked: ", "ceilings of this run", "75.0 % forced", "method 2: paper:"):
            self.assertIn(part, done.text)
        report = json.loads(path.read_text())
        labels = list(report["attention"])
        self.assertEqual(labels[0], "full:values=int8")
        self.assertEqual(report["attention"][labels[1]]["values"], "int8")
        self.assertTrue(labels[1].startswith("paper:values=int8,factors=int8"), labels[1])
        self.assertIn("placement=host", labels[1])
        rows = report["rows"]
        self.assertEqual([(r["context"], r["batch"], r["method"]) for r in rows],
                         [(c, b, m) for c in (2200, 3000) for b in (1, 2) for m in labels])
        ceilings = report["ceilings"]
        for row in rows:
            step, ms = row["step_ms"], row["step_ms"]["median"]
            self.assertTrue(0 < step["min"] <= step["p10"] <= ms <= step["p90"] <= step["max"])
            self.assertEqual(row["statistics"]["decode_steps"], 3 * row["batch"], "of the timed steps alone")
            self.assertAlmostEqual(row["tokens_per_s"], 1e3 * row["batch"] / ms, delta=1e-6 * row["tokens_per_s"])
            memory = row["memory"]
            self.assertAlmostEqual(memory["share_of_ceiling"],
                                   memory["bytes_per_s"] / ceilings["device_read_bytes_per_s"], places=6)
            roofline = row["roofline"]
            shares = [row[name]["share_of_ceiling"] for name in ("link", "memory", "products")]
            self.assertAlmostEqual(roofline["share"], max(shares), places=9)
            self.assertAlmostEqual(roofline["share"], roofline["ms"] / ms, places=9)
            self.assertGreater(sum(row["stage_ms"].values()), 0)
            self.assertGreater(row["stage_ms"]["matrices"], 0)
            self.assertGreater(row["stage_ms"]["attend"], 0)
            self.assertEqual(row["forced_hit_share"], 0.75)
            if row["method"] == labels[0]:
                self.assertIsNone(row["slot_hit_share"])
                self.assertEqual(row["held_bytes"]["host"], 0)
                continue
            self.assertAlmostEqual(row["slot_hit_share"], 0.75, delta=0.01)
            self.assertEqual(row["values_on_host_share"], 1)
            # 8 layers, 4 KV heads, 1,024 tokens, 128 numbers of a byte; a quarter misses.
            missed = row["batch"] * 8 * 4 * 1024 * 128 * (1 - row["slot_hit_share"])
            self.assertAlmostEqual(row["link"]["bytes_a_step"] / missed, 1, places=6)
            self.assertGreater(row["stage_ms"]["gather"], 0)
        for label in labels:
            self.assertLess(report["checks"][label]["error"], report["checks"][label]["limit"])

    def test_decode_takes_the_most_sequences_that_fit(self):
        def rows(*options):
            done = self.succeed("bench", "decode", *SHAPE, "--context", "4096", "--batch", "auto", "--methods",
                                "full;default:chunk-size=8,placement=host", "--steps", "1", "--warmup", "2", "--json", "-", *options)
            return json.loads(done.text)["rows"]

        full, shadow = rows("--device-memory", "1900M", "--host-memory", "64M")
        self.assertGreaterEqual(full["batch"], 1)
        self.assertGreater(shadow["batch"], full["batch"])
        self.assertEqual(full["held_bytes"]["host"], 0)
        self.assertTrue(0 < shadow["held_bytes"]["host"] <= 64 << 20)
        for row in rows("--device-memory", "400M"):
            self.assertIn("not even one sequence", row["error"])

    def test_a_run_without_options_needs_a_shape_alone(self):
        text = self.succeed("bench", "decode", *SHAPE, "--context", "256", "--steps", "1").text
        for part in ("full", "default", "checked: ", "matrices"):
            self.assertIn(part, text)

    def test_kernels_names_every_op_of_a_step_and_of_a_prompt(self):
        arguments = ["bench", "kernels", *SHAPE, "--context", "1024", "--batch", "2", "--method", "full,shadow", "--prefill"]
        report = json.loads(self.succeed(*arguments, "64", "--json", "-").text)
        parts = {(part["phase"], part["method"]): {op["op"]: op for op in part["ops"]} for part in report["parts"]}
        self.assertEqual(set(parts), {(phase, method) for phase in ("decode", "prefill") for method in ("full", "default")})
        self.assertEqual(parts["decode", "full"]["paged_attention"]["runs"], 8)
        for op in ("sketch_scores", "choose_candidates", "rebuild_and_score", "gather_values", "slot_attention"):
            self.assertIn(op, parts["decode", "default"])
        self.assertGreater(parts["decode", "default"]["sketch_scores"]["bytes_per_s"], 0)
        self.assertIn("fit_basis", parts["prefill", "default"])
        self.assertNotIn("fit_basis", parts["prefill", "full"])
        matrices = [tuple(op["matrix"]) for op in report["parts"][0]["ops"] if op["op"] == "matmul"]
        self.assertEqual(len(matrices), len(set(matrices)))
        self.assertIn((8192, 1024), matrices)
        text = self.succeed(*arguments, "0").text
        for part in ("decode step, full: 2 sequences of 1024 tokens", "us a run", "matmul 8192 x 1024", "sum"):
            self.assertIn(part, text)
        self.assertNotIn("prompt of", text)

    def test_prefill_has_a_row_for_every_context_batch_and_method(self):
        path = self.folder / "bench.json"
        done = self.succeed("bench", "prefill", *MODEL, "--context", "64,96", "--batch", "1,3", "--methods", "full,shadow",
                            "--steps", "3", "--warmup", "1", "--json", path)
        self.assertIn("prefill tok/s", done.text)
        rows = json.loads(path.read_text())["rows"]
        self.assertEqual([(r["context"], r["batch"], r["method"]) for r in rows],
                         [(c, b, m) for c in (64, 96) for b in (1, 3) for m in ("full", "default")])
        for row in rows:
            self.assertTrue(0 < row["step_ms"]["min"] <= row["step_ms"]["median"] <= row["step_ms"]["max"])
            self.assertGreater(row["prefill_s"], 0)
            self.assertEqual(row["statistics"]["decode_steps"], 4 * row["batch"])
        printed = self.succeed("bench", "prefill", *SHAPE, "--context", "8", "--steps", "1", "--json", "-").text
        self.assertEqual(len(json.loads(printed)["rows"]), 2)

    def test_rows_without_room_say_so(self):
        done = run("bench", "prefill", "--model", GOLDEN / "f32.gguf", "--context", "16,4000", "--steps", "1", "--methods",
                   "full", "--device-memory", "600K", "--json", "-")
        self.assertEqual(done.returncode, 0, done.errors)
        small, large = json.loads(done.text)["rows"]
        self.assertNotIn("error", small)
        self.assertIn("error", large)


class Info(ProgramTest):
    def test_the_tiny_checkpoint_is_described_without_loading_it(self):
        report = json.loads(self.succeed("info", *MODEL, "--json").text)
        model = report["model"]
        self.assertEqual((model["layers"], model["heads"], model["kv_heads"], model["head_dim"]), (2, 4, 2, 16))
        self.assertEqual(model["vocab_size"], 288)
        self.assertEqual(model["context"], 4096)
        full = report["methods"][0]
        # Keys and values, 2 layers of 2 heads 16 wide in bfloat16.
        self.assertEqual(full["bytes_per_1024_tokens"]["device"], 1024 * 2 * 2 * 2 * 16 * 2)

    def test_more_memory_gives_more_context_and_batch(self):
        def largest(memory):
            done = self.succeed("info", *SHAPE, "--json", "--context", "4096", "--device-memory", memory,
                                "--host-memory", "1G", "--methods", "full")
            method = json.loads(done.text)["methods"][0]
            return method["largest_context"], method["largest_batch"]

        small, large = largest("512M"), largest("2G")
        self.assertLess(small[0], large[0])
        self.assertLess(small[1], large[1])

    def test_a_model_larger_than_the_memory_holds_no_tokens(self):
        done = self.succeed("info", *SHAPE, "--json", "--device-memory", "1K")
        for method in json.loads(done.text)["methods"]:
            self.assertEqual((method["largest_context"], method["largest_batch"]), (0, 0))

    def test_the_table_names_both_memories(self):
        text = self.succeed("info", *SHAPE).text
        for part in ("device / 1K", "host / 1K", "either / 1K", "largest context", "full", "shadow", "paper"):
            self.assertIn(part, text)


if __name__ == "__main__":
    unittest.main()
