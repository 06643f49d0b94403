#!/usr/bin/env python3
"""What the commands print and write."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import time
import unittest

from program import GOLDEN, MODEL, PROGRAM, SHAPE, ProgramTest, read_npy


class Generate(ProgramTest):
    EXACT = ["--dtype", "float32", "--method", "full", "--ignore-eos"]

    def golden(self):
        ids = read_npy(GOLDEN / "f32.ids.npy")[1]
        return ",".join(map(str, ids[:40])), list(ids[40:])

    def test_ids_and_logits_are_those_of_the_golden_file(self):
        prompt, answer = self.golden()
        dump = self.folder / "logits.npy"
        done = self.succeed("generate", *MODEL, *self.EXACT, "--prompt-ids", prompt, "-n", "64", "--print-ids",
                            "--dump-logits", dump)
        self.assertEqual(list(map(int, done.text.splitlines()[0].split())), answer)
        shape, logits = read_npy(dump)
        self.assertEqual(shape, (64, 288))
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

    def test_logprobs_are_told_beside_each_token(self):
        report = json.loads(self.succeed("generate", *MODEL, "-n", "4", "--ignore-eos", "--json", "--logprobs", "2",
                                         "Once upon").text)
        self.assertEqual(len(report["logprobs"]), 4)
        for id, (chosen, best, second) in zip(report["ids"], report["logprobs"]):
            self.assertEqual(chosen["id"], id)
            self.assertEqual(chosen, best, "greedy")
            self.assertLessEqual(second["logprob"], best["logprob"])
            self.assertLess(best["logprob"], 0)

    def test_the_best_of_several_answers_is_the_likeliest_by_token(self):
        base = ["generate", *MODEL, "--prompt-ids", "1,2,3", "-n", "12", "--temperature", "1.5"]
        alone = [json.loads(self.succeed(*base, "--json", "--logprobs", "0", "--seed", seed).text) for seed in range(5, 9)]
        means = [sum(token[0]["logprob"] for token in one["logprobs"]) / len(one["logprobs"]) for one in alone]
        self.assertEqual(len(set(means)), 4)
        best = alone[means.index(max(means))]
        report = json.loads(self.succeed(*base, "--json", "--logprobs", "0", "--seed", "5", "--best-of", "4").text)
        for field in ("ids", "text", "finish", "logprobs", "prompt_tokens"):
            self.assertEqual(report[field], best[field])
        self.assertEqual(report["best_of"]["chosen"], means.index(max(means)))
        for one, expected, mean in zip(report["best_of"]["answers"], alone, means, strict=True):
            self.assertEqual((one["text"], one["tokens"]), (expected["text"], len(expected["ids"])))
            self.assertAlmostEqual(one["mean_logprob"], mean)
        plain = self.succeed(*base, "--seed", "5", "--best-of", "4").text
        self.assertEqual(plain, best["text"] + ("" if best["text"].endswith("\n") else "\n"))

    def test_what_factors_lose_of_an_answers_keys_is_told_on_the_way(self):
        base = ["generate", *MODEL, "--prompt-ids", ",".join(["1", "5", "9"] * 20), "-n", "25", "--ignore-eos", "--json",
                "--key-errors", "10", "--exact-below", "0"]
        shares = {}
        for rank in ("2", "16"):
            found = self.succeed(*base, "--rank", rank)
            rows = json.loads(found.text)["key_errors"]
            self.assertEqual([row["tokens"] for row in rows], [10, 20, 24], "the last token has no step")
            shares[rank] = [row["lost_share"] for row in rows]
            for row, said in zip(rows, found.errors.splitlines(), strict=True):
                self.assertIn(f"to {row['tokens']}: {100 * row['lost_share']:.3f} % of their energy lost", said)
        for much, little in zip(shares["2"], shares["16"], strict=True):
            self.assertTrue(1 > much > little > 0)
        whole = self.succeed(*base, "--method", "full")
        self.assertEqual([row["lost_share"] for row in json.loads(whole.text)["key_errors"]], [None] * 3)
        self.assertIn("keys of the answer's tokens 21 to 24: held as they are", whole.errors)

    def test_an_answer_ends_before_its_stop_text(self):
        base = ["generate", *MODEL, "--prompt-ids", "1,2,3", "-n", "40", "--ignore-eos", "--temperature", "2", "--json"]
        whole = json.loads(self.succeed(*base).text)["text"]
        stop = next(c for c in whole[len(whole) // 2 :] if c.isalpha() and c.isascii())
        report = json.loads(self.succeed(*base, "--stop", "no, such", "--stop", stop).text)
        self.assertEqual(report["text"], whole[: whole.index(stop)])
        self.assertEqual(report["finish"], "stop")
        two = ["generate", *MODEL, "-n", "1", "--ignore-eos", "--print-ids"]
        self.assertEqual(self.succeed(*two, "--stop", "no, such", "a prompt").text, self.succeed(*two, "a prompt").text)
        config = self.write("c.toml", f'stop = ["no, such", {json.dumps(stop)}]')
        self.assertEqual(json.loads(self.succeed(*base, "--config", config).text)["text"], report["text"])

    def test_an_answer_is_what_its_schema_says(self):
        schema = {"type": "object", "properties": {"ok": {"type": "boolean"}, "n": {"type": "integer", "maximum": 99}},
                  "required": ["ok", "n"], "additionalProperties": False}
        base = ["generate", *MODEL, "--prompt-ids", "1,2,3", "-n", "200", "--json", "--temperature", "1.5"]
        for given in (json.dumps(schema), self.write("schema.json", json.dumps(schema))):
            report = json.loads(self.succeed(*base, "--json-schema", given).text)
            self.assertEqual(report["finish"], "stop")
            answer = json.loads(report["text"])
            self.assertEqual(list(answer), ["ok", "n"])
            self.assertIsInstance(answer["ok"], bool)
            self.assertLessEqual(answer["n"], 99)
        self.assertRegex(json.loads(self.succeed(*base, "--regex", "(yes|no), [a-f]{3}").text)["text"], "^(yes|no), [a-f]{3}$")
        report = json.loads(self.succeed(*base, "--json-object", "--seed", "3").text)
        self.assertTrue(report["finish"] == "length" or isinstance(json.loads(report["text"]), dict))

    def test_a_bias_forces_a_token_and_a_stop_id_ends_with_it(self):
        base = ["generate", *MODEL, "x", "-n", "5", "--print-ids", "--logit-bias", "17=100,18=-2.5"]
        self.assertEqual(self.succeed(*base).text.splitlines()[0], "17 17 17 17 17")
        self.assertEqual(self.succeed(*base, "--stop-ids", "17,19").text.splitlines()[0], "17")

    def test_a_rank_over_the_width_is_taken_as_all_of_it_and_said_so(self):
        done = self.succeed("generate", *MODEL, "--rank", "5000", "--exact-below", "0", "-n", "2", "Once upon")
        self.assertIn("rank", done.errors)
        self.assertIn("5000", done.errors)

    def test_a_budget_of_everything_at_full_rank_is_full_attention(self):
        prompt, answer = self.golden()
        done = self.succeed("generate", *MODEL, "--dtype", "float32", "--exact-below", "0", "--rank", "5000",
                            "--factors", "float32", "--values", "float32", "--budget", "104", "--ignore-eos", "--prompt-ids", prompt,
                            "-n", "64", "--print-ids")
        self.assertEqual(list(map(int, done.text.splitlines()[0].split())), answer)

    def test_quest_begins_with_its_published_settings_and_is_full_attention_at_a_budget_of_everything(self):
        prompt, answer = self.golden()
        done = self.succeed("generate", *MODEL, "--dtype", "float32", "--method", "quest", "--dense-layers", "1",
                            "--budget", "112", "--ignore-eos", "--prompt-ids", prompt, "-n", "64", "--json")
        report = json.loads(done.text)
        self.assertEqual(report["ids"], answer)
        self.assertEqual(report["attention"]["chunk-size"], 16)
        self.assertEqual(report["attention"]["exact-below"], 0)

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

    def test_fidelity_looks_into_layers(self):
        text = self.write("a.txt", "the quick brown fox jumps over the lazy dog and runs away; " * 12)
        svg = self.folder / "layers.svg"
        arguments = ["--dtype", "float32", "--text", text, "--prefill-tokens", "400", "--steps", "9", "--methods",
                     "full;default:sparse-budget=16,values=float32,factors=float32,rank=32;default:sparse-budget=64",
                     "--layers-every", "4", "--layers-svg", svg]
        report = json.loads(self.succeed("eval", "fidelity", *MODEL, *arguments, "--json").text)
        full, narrow, wide = (method["attention_of_layers"] for method in report["methods"])
        self.assertEqual([layer["layer"] for layer in full["layers"]], [0, 1])
        self.assertEqual(len(narrow["layers"][1]["kv_heads"]), 2)
        self.assertAlmostEqual(full["mean"]["mass"], 1)
        self.assertLess(full["mean"]["error"], 1e-3)
        self.assertLess(narrow["mean"]["mass"], wide["mean"]["mass"])
        self.assertLess(wide["mean"]["mass"], 1)
        self.assertLess(narrow["layers"][0]["mean"]["storage_error"], 1e-3, "all of rank and numbers are kept")
        self.assertGreater(narrow["mean"]["selection_error"], wide["mean"]["selection_error"])
        self.assertIn("<svg", svg.read_text())
        self.assertIn("attended weight", self.succeed("fidelity", *MODEL, *arguments).text)


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
