#!/usr/bin/env python3
"""Evaluations, on the tiny models: what comes out, what is resumed, what is refused."""

import json
import struct
import unittest
import xml.etree.ElementTree
import zlib

from program import EVALS, MODEL, ROOT, ProgramTest

METHODS = ["--methods", "full,default:sparse-budget=16"]
SAMPLE = {"task": "vt", "input": "VAR ABCDE = 12345, which variables?", "outputs": ["ABCDE"], "max_new_tokens": 4}


class Ruler(ProgramTest):
    def setUp(self):
        super().setUp()
        words = "".join(f"w{i:03x}\n" for i in range(200))
        (self.folder / "ruler/words").mkdir(parents=True)
        for name in ("nounlist", "adjectivelist", "verblist"):
            self.write(f"ruler/words/{name}.txt", words)
        self.data = ["--data", self.folder, "--haystack", ROOT / "data/a_scandal_in_bohemia.txt"]

    def lines(self, name):
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]

    def run_ruler(self, *more):
        return self.succeed("eval", "ruler", *MODEL, *self.data, *METHODS, "--lengths", "1500", "--samples", "1", "--tasks",
                            "niah_single_2,niah_multikey_2", *more)

    def test_answers_tables_report_and_samples_come_out(self):
        out, page, kept = self.folder / "out.jsonl", self.folder / "page.html", self.folder / "kept.jsonl"
        text = self.run_ruler("--out", out, "--report", page, "--write-samples", kept).text
        for part in ("niah_single_2", "niah_multikey_2", "mean of the tasks", "2 prompts, hash "):
            self.assertIn(part, text)
        results = self.lines("out.jsonl")
        self.assertEqual([r["method"] for r in results], ["full", "default:sparse-budget=16"] * 2)
        for result in results:
            self.assertLessEqual(result["prompt_tokens"], 1500 - 128)
            self.assertGreater(result["prompt_tokens"], 1200)
            self.assertGreater(result["device_bytes"], 0)
            self.assertEqual(len(result["references"]), 1)
        self.assertIn("</html>", page.read_text())
        samples = self.lines("kept.jsonl")
        self.assertIn(samples[0]["outputs"][0], samples[0]["input"])

        # The same prompts from the file are known already; nothing is asked again.
        again = json.loads(self.succeed("eval", "ruler", *MODEL, *METHODS, "--input", kept, "--out", out, "--json").text)
        self.assertEqual((again["samples"], again["found"]), (2, 4))
        self.assertIn(again["prompts_hash"], text)
        self.assertEqual(self.lines("out.jsonl"), results)

    def test_a_half_written_file_is_gone_on_with(self):
        out = self.write("samples.jsonl", "".join(json.dumps({**SAMPLE, "index": i, "input": f"{SAMPLE['input']} {i}"}) + "\n"
                                                  for i in range(3)))
        command = ["eval", "ruler", *MODEL, *METHODS, "--input", out, "--out", self.folder / "r.jsonl", "--json"]
        first = json.loads(self.succeed(*command).text)
        whole = (self.folder / "r.jsonl").read_text()
        self.write("r.jsonl", whole[: len(whole) * 2 // 3])
        second = json.loads(self.succeed(*command).text)
        self.assertEqual(second["found"], 3)
        self.assertEqual([r["prompt_hash"] for r in self.lines("r.jsonl")], [json.loads(l)["prompt_hash"] for l in
                                                                             whole.splitlines()])
        for key in ("prompts_hash", "samples"):
            self.assertEqual(first[key], second[key])

    def test_samples_beyond_the_context_are_skipped_and_counted(self):
        path = self.write("long.jsonl", json.dumps({**SAMPLE, "input": "word " * 5000}) + "\n" + json.dumps(SAMPLE) + "\n")
        report = json.loads(self.succeed("eval", "ruler", *MODEL, *METHODS, "--input", path, "--json").text)
        self.assertEqual((report["samples"], report["skipped"]), (2, 1))

    def test_what_cannot_be_done_is_refused_before_a_model_is_loaded(self):
        ruler = ["eval", "ruler", *MODEL]
        self.refuse(*ruler, says=["--data", "--input"])
        self.refuse(*ruler, *self.data, "--tasks", "niah_singel_1", says=["niah_singel_1", "did you mean", "qa_2"])
        self.refuse(*ruler, *self.data, "--metric", "rouge", says=["rouge", "shadowkv"])
        self.refuse(*ruler, *self.data, "--edition", "2023", says=["--edition", "2023", "2024"])
        self.refuse(*ruler, *self.data, "--lengths", "x", says=["--lengths"])
        self.refuse(*ruler, *self.data, "--samples", "0", says=["--samples"])
        self.refuse(*ruler, *self.data, "--tasks", "qa_1", says=["squad_dev_v2", "can be had from"])
        self.refuse(*ruler, "--data", self.folder, "--tasks", "niah_single_2", says=["PaulGrahamEssays.json", "--haystack"])
        self.refuse(*ruler, "--input", self.folder / "none.jsonl", says=["none.jsonl"])
        self.refuse(*ruler, "--input", self.write("bad.jsonl", "{}\n"), says=["bad.jsonl, sample 1"])
        self.refuse(*ruler, "--input", self.write("s.jsonl", json.dumps(SAMPLE)), "--out", self.write("o", "{}\n"),
                    says=["line 1", "no result"])

    def test_a_group_lists_its_evaluations(self):
        self.refuse("eval", says=EVALS)


class Others(ProgramTest):
    STORY = ["--haystack", ROOT / "data/a_scandal_in_bohemia.txt"]

    def test_needle_draws_heat_maps_of_every_method(self):
        svg, png, page = self.folder / "n.svg", self.folder / "n.png", self.folder / "n.html"
        text = self.succeed("eval", "needle", *MODEL, *METHODS, *self.STORY, "--lengths", "700,900", "--depths", "3",
                            "--samples", "1", "--svg", svg, "--png", png, "--report", page).text
        for part in ("depth 0 %", "depth 50 %", "depth 100 %", "6 prompts"):
            self.assertIn(part, text)
        tree = xml.etree.ElementTree.parse(svg)
        self.assertIn("needle (paper prompt), full", "".join(tree.getroot().itertext()))
        self.assertIn("needle (paper prompt), default:sparse-budget=16", "".join(tree.getroot().itertext()))
        self.assertTrue(png.read_bytes().startswith(b"\x89PNG\r\n\x1a\n"))
        for tag, data in chunks(png.read_bytes()):
            if tag == b"IDAT":
                self.assertGreater(len(zlib.decompress(data)), 10000)
        self.assertIn("of 6 draws", page.read_text())

    def test_needle_asks_for_one_after_the_other(self):
        for chat in ([], ["--chat"]):
            done = self.succeed("eval", "needle", *MODEL, *METHODS, *self.STORY, "--turns", "3", "--samples", "2", "--lengths",
                                "1500", "--svg", self.folder / "turns.svg", *chat)
            for part in ("turn 1", "turn 2", "turn 3", "2 prompts"):
                self.assertIn(part, done.text)
            self.assertIn("turn 3", "".join(xml.etree.ElementTree.parse(self.folder / "turns.svg").getroot().itertext()))
        self.refuse("eval", "needle", *MODEL, *self.STORY, "--turns", "2", "--prompt", "classic", says=["--turns", "classic"])

    def test_kv_takes_lengths_or_numbers_of_pairs(self):
        fitted = self.succeed("eval", "kv", *MODEL, *METHODS, "--lengths", "1500", "--samples", "2").text
        self.assertIn("2 prompts", fitted)
        fixed = self.succeed("eval", "kv", *MODEL, *METHODS, "--pairs", "3,5", "--samples", "1").text
        self.assertIn("kv of 3 pairs", fixed)
        self.assertIn("kv of 5 pairs", fixed)

    def test_babilong_scatters_stories_in_a_book(self):
        (self.folder / "babi").mkdir()
        self.write("babi/qa1_single-supporting-fact_test.txt",
                   "1 Mary went to the hallway.\n2 Where is Mary? \thallway\t1\n")
        command = ["eval", "babilong", *MODEL, *METHODS, *self.STORY, "--data", self.folder, "--lengths", "3000", "--samples"]
        self.assertIn("qa1", self.succeed(*command, "1", "--tasks", "qa1").text)
        self.refuse(*command, "1", "--tasks", "qa2", says=["qa2_two-supporting-facts_test.txt", "can be had from"])
        self.refuse(*command, "1", "--tasks", "qa9", says=["qa9", "qa1"])

    def test_longbench_asks_finished_prompts_and_its_own_lines(self):
        (self.folder / "tasks").mkdir()
        passage = " ".join(f"Harbour {i} holds {i * i} ships." for i in range(400))
        finished = [{"prompt": f"{passage}\nHow many ships?", "answers": ["some", "many"]}, {"prompt": "x", "answers": ["y"]}]
        self.write("tasks/qasper.jsonl", "".join(json.dumps(line) + "\n" for line in finished))
        self.write("tasks/trec.jsonl", json.dumps({"input": "q", "context": "c", "answers": ["a"], "all_classes": ["a"]}))
        layouts = self.write("layouts.json", json.dumps({"trec": "{context}: {input}"}))
        command = ["eval", "longbench", *MODEL, *METHODS, "--input", self.folder / "tasks"]
        done = self.succeed(*command, "--layouts", layouts)
        for part in ("qasper", "trec", "mean of the tasks", "3 prompts"):  # the long one is cut to the context
            self.assertIn(part, done.text)
        self.assertIn("1 prompts", self.succeed(*command, "--tasks", "qasper", "--longer-than", "2000").text)
        self.refuse(*command, says=["trec.jsonl", "dataset2prompt.json"])
        self.refuse(*command, "--tasks", "lcc", says=["lcc.jsonl", "can be had from"])
        self.refuse(*command, "--tasks", "hotpot", says=["hotpot", "did you mean", "hotpotqa"])
        self.refuse(*command, "--tasks", "qasper", "--longer-than", "100000", says=["--longer-than"])
        self.refuse("eval", "longbench", *MODEL, says=["--input"])

    def test_what_cannot_be_done_is_refused(self):
        self.refuse("eval", "needle", *MODEL, says=["--haystack", "--data"])
        self.refuse("eval", "needle", *MODEL, "--data", self.folder, says=["kjv_bible_pg19.txt", "--haystack"])
        self.refuse("eval", "needle", *MODEL, "--data", self.folder, "--prompt", "classic", says=["paul_graham_essays"])
        self.refuse("eval", "needle", *MODEL, *self.STORY, "--prompt", "clasic", says=["clasic", "did you mean", "paper"])
        self.refuse("eval", "needle", *MODEL, *self.STORY, "--depths", "0", says=["--depths"])
        self.refuse("eval", "kv", *MODEL, "--pairs", "1", says=["--pairs"])
        self.refuse("eval", "babilong", *MODEL, says=["--data"])


def chunks(png):
    """Type and data of each chunk, sums checked."""
    at = 8
    while at < len(png):
        length, tag = struct.unpack(">I4s", png[at : at + 8])
        data = png[at + 8 : at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length : at + 12 + length])[0] == zlib.crc32(tag + data)
        yield tag, data
        at += 12 + length


if __name__ == "__main__":
    unittest.main()
