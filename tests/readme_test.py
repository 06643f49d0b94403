"""The commands of README.md and docs/USING.md do what these say: every line of their ```sh blocks runs, and runs cleanly.

Lines that fetch, build or test the project itself are checked against `./run help` instead of being run. The others
run one after another from the repository's root, or a folder like it, and need build/release/shadowkv and the model of SHADOWKV_TEST_MODEL.
"""

import contextlib
import os
import pathlib
import re
import subprocess
import tempfile
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


class Documents(unittest.TestCase):
    """README.md and docs/USING.md."""

    @classmethod
    def setUpClass(cls):
        cls.texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/USING.md")}
        cls.commands = {name: commands(text) for name, text in cls.texts.items()}

    def test_they_show_commands(self):
        for name, found in self.commands.items():
            self.assertTrue([c for c in found if "build/release/shadowkv" in c], name)

    def test_their_run_commands_are_known(self):
        known = subprocess.run(["./run", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for command in sum(self.commands.values(), []):
            if command.startswith("./run"):
                self.assertIn(" ".join(command.split()[:2]), known)

    @unittest.skipUnless(os.environ.get("SHADOWKV_TEST_MODEL"), "SHADOWKV_TEST_MODEL names no model")
    def test_their_other_commands_run_cleanly(self):
        environment = {**os.environ, "MODEL": os.environ["SHADOWKV_TEST_MODEL"]}
        for name, found in self.commands.items():
            with self.folder_for(name) as folder:
                for command in found:
                    if not NOT_RUN.match(command):
                        self.run_cleanly(command, folder, environment)

    @unittest.skipUnless(os.environ.get("SHADOWKV_TEST_MODEL"), "SHADOWKV_TEST_MODEL names no model")
    def test_options_of_the_demo_take_the_place_of_its_own(self):
        with tempfile.TemporaryDirectory() as folder:
            text = pathlib.Path(folder) / "text.txt"
            text.write_text("Call me Ishmael. " * 8, encoding="utf-8")
            done = subprocess.run(["./run", "demo", "--device", "cpu", f"--document={text}", "--methods", "full",
                                   "--max-new-tokens", "2"], cwd=ROOT, capture_output=True, text=True,
                                  timeout=SECONDS, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("== full ==", done.stdout)
        self.assertNotIn("== shadow ==", done.stdout)

    def run_cleanly(self, command, folder, environment):
        with self.subTest(command):
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", command], cwd=folder, env=environment,
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS,
                                  check=False)
            self.assertEqual(done.returncode, 0, done.stderr)

    @staticmethod
    @contextlib.contextmanager
    def folder_for(name):
        """The repository's root, or a folder like it where a document's commands leave files."""
        if name == "README.md":
            yield ROOT
            return
        with tempfile.TemporaryDirectory() as folder:
            for part in ("build", "data", "examples"):
                (pathlib.Path(folder) / part).symlink_to(ROOT / part)
            yield folder

    def test_their_links_lead_somewhere(self):
        for name, text in self.texts.items():
            for link in LINK.findall(CODE.sub("", text)):
                self.assertTrue(((ROOT / name).parent / link).exists(), link)

    def test_commands_are_read_as_a_shell_would(self):
        text = "```sh\n# a remark\n./run demo   # the job\nprogram --a \\\n  --b '#1'\n```\n```\nnot one\n```\n"
        self.assertEqual(commands(text), ["./run demo", "program --a    --b '#1'"])


if __name__ == "__main__":
    unittest.main()
