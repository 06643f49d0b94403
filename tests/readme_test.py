"""The commands of README.md do what it says: every line of its ```sh blocks runs, and runs cleanly.

Lines that fetch, build or test the project itself are checked against `./run help` instead of being run. The others
run one after another from the repository's root and need build/release/shadowkv and the model of SHADOWKV_TEST_MODEL.
"""

import os
import pathlib
import re
import subprocess
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"^(git clone|cd|\./run)\b")
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")
CODE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
SECONDS = 600


def commands(text: str) -> list:
    """The commands of all sh blocks, lines joined at a trailing backslash, without comments."""
    found = []
    for block in BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            line = re.sub(r"(^|\s+)#\s.*$", "", line).strip()
            if line:
                found.append(line)
    return found


class Readme(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.text = (ROOT / "README.md").read_text(encoding="utf-8")
        cls.commands = commands(cls.text)

    def test_it_shows_commands(self):
        self.assertTrue([c for c in self.commands if c.startswith("build/release/shadowkv")])

    def test_its_run_commands_are_known(self):
        known = subprocess.run(["./run", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for command in self.commands:
            if command.startswith("./run"):
                self.assertIn(" ".join(command.split()[:2]), known)

    @unittest.skipUnless(os.environ.get("SHADOWKV_TEST_MODEL"), "SHADOWKV_TEST_MODEL names no model")
    def test_its_other_commands_run_cleanly(self):
        environment = {**os.environ, "MODEL": os.environ["SHADOWKV_TEST_MODEL"]}
        for command in self.commands:
            if NOT_RUN.match(command):
                continue
            with self.subTest(command):
                done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=ROOT, env=environment,
                                      stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS,
                                      check=False)
                self.assertEqual(done.returncode, 0, done.stderr)

    def test_its_links_lead_somewhere(self):
        for link in LINK.findall(CODE.sub("", self.text)):
            self.assertTrue((ROOT / link).exists(), link)

    def test_commands_are_read_as_a_shell_would(self):
        text = "```sh\n# a remark\n./run demo   # the job\nprogram --a \\\n  --b '#1'\n```\n```\nnot one\n```\n"
        self.assertEqual(commands(text), ["./run demo", "program --a    --b '#1'"])


if __name__ == "__main__":
    unittest.main()
