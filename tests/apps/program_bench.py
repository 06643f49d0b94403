#!/usr/bin/env python3
"""`shadowkv bench`, on the CPU and at small sizes."""

import json
import unittest

from program import GOLDEN, MODEL, SHAPE, ProgramTest, run


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
                self.assertLess(row["held_bytes"]["host"], 4096)  # how tokens are drawn comes through it
                continue
            self.assertAlmostEqual(row["slot_hit_share"], 0.75, delta=0.01)
            self.assertEqual(row["values_on_host_share"], 1)
            # 8 layers, 4 KV heads, 1,024 tokens, 128 numbers of a byte; a quarter misses.
            missed = row["batch"] * 8 * 4 * 1024 * 128 * (1 - row["slot_hit_share"])
            self.assertAlmostEqual(row["link"]["bytes_a_step"] / missed, 1, places=6)
            read = row["statistics"]["link_bytes"]["read"] * row["batch"] / row["statistics"]["decode_steps"]
            self.assertAlmostEqual(read / missed, 1, places=6)
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
        self.assertLess(full["held_bytes"]["host"], 4096)
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

    def test_kernels_names_the_ops_that_a_way_of_choosing_tokens_adds(self):
        arguments = ["bench", "kernels", *SHAPE, "--context", "64", "--method", "full", "--prefill", "0"]
        for way, added in (("greedy", set()), ("drawn", set()), ("changed", {"change_logits", "rank_tokens"})):
            report = json.loads(self.succeed(*arguments, "--sampling", way, "--json", "-").text)
            self.assertEqual(report["sampling"], way)
            ops = {op["op"] for op in report["parts"][0]["ops"]}
            self.assertEqual(ops & {"change_logits", "rank_tokens"}, added)
            self.assertIn("sample_tokens", ops)
        self.refuse(*arguments, "--sampling", "any", says=['--sampling is "any"', "greedy, drawn or changed"])

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
        for row in json.loads(printed)["rows"]:
            self.assertTrue(0 < row["index_s"] < row["prefill_s"])
        printed = self.succeed("bench", "prefill", *SHAPE, "--context", "8", "--steps", "1", "--warmup", "1", "--methods",
                               "full", "--json", "-").text
        self.assertEqual([row["index_s"] for row in json.loads(printed)["rows"]], [0])

    def test_serve_load_holds_what_was_served_against_the_work_alone(self):
        path = self.folder / "serve.json"
        load = ["--requests", "6", "--rate", "100", "--prompt-tokens", "16,300", "--new-tokens", "3,9"]
        text = self.succeed("bench", "serve-load", *MODEL, *load, "--json", path).text
        for part in ("6 requests", "of the ideal", "mean batch", "first token: median", "between tokens: median"):
            self.assertIn(part, text)
        served = json.loads(path.read_text())["serve"]
        self.assertEqual(served["requests"], 6)
        self.assertTrue(6 * 16 <= served["prompt_tokens"] <= 6 * 300, served)
        self.assertTrue(6 * 3 <= served["new_tokens"] <= 6 * 9, served)
        self.assertEqual(served["first_token"]["count"], 6)
        self.assertEqual(served["between_tokens"]["count"], served["new_tokens"] - 6)
        self.assertLessEqual(served["steps"], served["new_tokens"])
        self.assertEqual(served["replayed_steps"] + served["recordings"], 0)  # a CPU records nothing
        self.assertEqual(set(served["statistics"]["link_bytes"].values()), {0})  # all values lie on the device
        parts = ("reading_s", "step_s", "moving_s", "scheduling_s")
        self.assertAlmostEqual(served["busy_s"], sum(served[part] for part in parts))
        again = self.succeed("bench", "serve-load", *MODEL, *load, "--json", "-")
        same = json.loads(again.text)["serve"]
        for count in ("prompt_tokens", "new_tokens"):  # the same seed brings the same requests
            self.assertEqual(same[count], served[count])

    def test_serve_load_tells_what_crossed_the_link(self):
        load = ["--requests", "4", "--rate", "100", "--prompt-tokens", "200,300", "--new-tokens", "6,9", "--method",
                "default:sparse-budget=32", "--place", "host"]
        done = self.succeed("bench", "serve-load", *MODEL, *load, "--json", self.folder / "link.json")
        self.assertRegex(done.text, r"over the link: [1-9].* of values read, [1-9].* written; 0 B moved up, 0 B down")
        served = json.loads((self.folder / "link.json").read_text())["serve"]
        link = served["statistics"]["link_bytes"]
        tokens = served["prompt_tokens"] + served["new_tokens"] - served["requests"]
        self.assertGreater(link["written"], 0)
        self.assertEqual(link["written"] % tokens, 0, (link, tokens))  # the same of each that is held
        self.assertGreater(link["read"], 0)

    def test_serve_load_refuses_loads_that_cannot_be(self):
        serve = ["bench", "serve-load", *MODEL]
        self.refuse(*serve, "--prompt-tokens", "5,3", says=["--prompt-tokens", "5,3"])
        self.refuse(*serve, "--prompt-tokens", "5000", says=["5000", "4096"])
        self.refuse(*serve, "--method", "full;paper", says=["2 methods"])
        self.refuse(*serve, "--rate", "0", says=["--rate"])

    def test_rows_without_room_say_so(self):
        done = run("bench", "prefill", "--model", GOLDEN / "f32.gguf", "--context", "16,4000", "--steps", "1", "--methods",
                   "full", "--device-memory", "600K", "--json", "-")
        self.assertEqual(done.returncode, 0, done.errors)
        small, large = json.loads(done.text)["rows"]
        self.assertNotIn("error", small)
        self.assertIn("error", large)


if __name__ == "__main__":
    unittest.main()
