#!/usr/bin/env python3
"""What the command line and the configuration file take and refuse."""

import json
import re
import unittest

from program import BENCHES, COMMANDS, EVALS, GOLDEN, MODEL, SHAPE, ProgramTest


class Help(ProgramTest):
    def test_every_command_explains_its_options_with_unit_and_default(self):
        whole = [[command] for command in COMMANDS if command not in ("bench", "eval")]
        groups = [["bench", kind] for kind in BENCHES] + [["eval", kind] for kind in EVALS]
        for command in whole + groups:
            text = self.succeed(*command, "--help").text
            self.assertIn("[default: ", text, command)
            options = re.findall(r"^  (-[^ ]+.*\n(?:    .*\n)*)", text, re.MULTILINE)
            self.assertGreater(len(options), 2 if command == ["download"] else 8, command)
            for option in options:
                if option.startswith("-h,--help"):
                    continue
                self.assertIn("[default: ", option, command)
                if "[default: off]" not in option:  # not a flag: it has a unit
                    self.assertRegex(option, r"^-[^ ]+ (?!VALUE)[A-Z]+ ", command)
        self.assertIn("TOKENS [default: 256]", self.succeed("generate", "--help").text)
        serve = self.succeed("serve", "--help").text
        self.assertIn("--max-body BYTES [default: 64.0 MiB]", serve)
        self.assertIn("less 3 GiB", serve)

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
            ("--max-new-tokens", "1.5"), ("--max-new-tokens", ""), ("--best-of", "0"), ("--best-of", "257"), ("--top-p", "0"), ("--top-p", "1.1"),
            ("--top-p", "nan"), ("--temperature", "-1"), ("--temperature", "inf"), ("--top-k", "-1"),
            ("--min-p", "1.5"), ("--repetition-penalty", "0"), ("--presence-penalty", "3"),
            ("--frequency-penalty", "-2.5"), ("--logit-bias", "17"), ("--logit-bias", "1=x"), ("--logit-bias", "1=101"),
            ("--stop-ids", "a"), ("--min-tokens", "-1"), ("--logprobs", "21"),
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

    def test_sampling_at_odds_with_itself_is_refused_with_both_values(self):
        for options, says in [
            (["--top-k", "40"], ["--top-k = 40", "--temperature 0"]), (["--top-p", "0.9"], ["--top-p = 0.9", "--temperature 0"]),
            (["--min-p", "0.1"], ["--min-p = 0.1", "--temperature 0"]),
            (["--best-of", "3"], ["--best-of = 3", "--temperature 0"]),
            (["--best-of", "3", "--temperature", "1", "--save-state", "x"], ["--best-of", "--save-state"]),
            (["--best-of", "3", "--temperature", "1", "--dump-logits", "x"], ["--best-of", "--dump-logits"]),
            (["--best-of", "3", "--temperature", "1", "--key-errors", "9"], ["--best-of", "--key-errors"]),
            (["--min-tokens", "9", "-n", "8"], ["min-tokens = 9", "max-new-tokens = 8"]),
            (["--logit-bias", "5=1,5=2"], ["token 5 twice"]), (["--logprobs", "2"], ["--logprobs", "--json"]),
            (["--stop-ids", "288"], ["288"]), (["--logit-bias", "999=1"], ["999", "288"]), (["--stop="], ["--stop"]),
            (["--regex", "a", "--json-object"], ['regex = "a"', "json-object"]),
            (["--regex", "a", "--json-schema", "{}"], ['regex = "a"', 'json-schema = "{}"']),
            (["--regex", "a(?=b)"], ["byte 3"]), (["--json-schema", '{"not": {}}'], ['"not"']),
            (["--json-schema", "no-such-file"], ["no-such-file", "--json-schema"]),
            (["--json-object", "--ignore-eos"], ["ignore-eos", "constraint"]),
            (["--json-object", "--min-tokens", "3"], ["min-tokens = 3", "json-object"]),
        ]:
            with self.subTest(options=options):
                self.refuse("generate", *MODEL, "--prompt-ids", "1", *options, says=says)

    def test_impossible_attention_is_refused_before_an_answer(self):
        self.refuse("generate", *MODEL, "--prompt-ids", "1", "--budget", "3", "--chunk-size", "4", says=["3", "4"])
        self.refuse("generate", *MODEL, "--prompt-ids", "1", "--segment-tokens", "100", says=["100", "512"])
        self.refuse("generate", *MODEL, "--prompt-ids", "1", "--index", "landmark", says=["shadowkv: --index: ", "landmarks"])
        self.refuse("generate", *MODEL, "--prompt-ids", "1", "--preset", "papr", says=["paper"])
        self.refuse("generate", *MODEL, "--prompt-ids", "1", "--method", "qest", says=["--method", "quest"])
        self.refuse("generate", *MODEL, "--prompt-ids", "1", "--method", "quest", "--outlier-chunks", "4",
                    says=["outlier-chunks = 4", "quest"])
        self.refuse("generate", *MODEL, "--prompt-ids", "1", "--method", "quest", "--dense-layers", "-1",
                    says=["dense-layers"])
        self.refuse("compare", *MODEL, "--prompt-ids", "1", "--methods", "full,full", says=["twice"])
        self.refuse("compare", *MODEL, "--prompt-ids", "1", "--methods", "full,default:rnk=4", says=["rank"])

    def test_words_outside_their_list_are_refused(self):
        self.refuse("generate", *MODEL, "--prompt-ids", "1", "--dtype", "float16", says=["float32", "bfloat16"])
        for name in ("gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:1x", "cpu:0"):
            self.refuse("generate", *MODEL, "--prompt-ids", "1", "--device", name, says=[f'"{name}"', "cuda:N"])
        self.refuse("generate", *MODEL, "--prompt-ids", "1", "--device", "cuda:99")  # no machine has so many
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


if __name__ == "__main__":
    unittest.main()
