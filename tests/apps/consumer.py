"""An installed library serves a project that never saw this source tree: tests/consumer, configured, built and run
against a copy that was installed into a temporary folder and moved from there.

SHADOWKV_BUILD names the build to install; CUDA_ROOT, where it has one, the CUDA toolkit that it was built with.
"""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
BUILD = pathlib.Path(os.environ["SHADOWKV_BUILD"])


def run(*command):
    """What the command printed; a failure shows all of it."""
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=300, check=False)
    if done.returncode != 0:
        raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


class Consumer(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp(prefix="shadowkv-consumer-"))
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        run("cmake", "--install", BUILD, "--prefix", cls.folder / "staged")
        cls.installed = (cls.folder / "staged").rename(cls.folder / "installed")
        cls.source = shutil.copytree(ROOT / "tests" / "consumer", cls.folder / "source")

    def configure(self, build):
        options = [f"-DCUDAToolkit_ROOT={os.environ['CUDA_ROOT']}"] if os.environ.get("CUDA_ROOT") else []
        return run("cmake", "-G", "Ninja", "-S", self.source, "-B", build, f"-DCMAKE_PREFIX_PATH={self.installed}",
                   "-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON", *options)

    def test_it_builds_and_runs_against_the_installed_copy_alone(self):
        build = self.folder / "build"
        self.configure(build)
        commands = json.loads((build / "compile_commands.json").read_text())
        self.assertIn(str(self.installed / "include"), commands[0]["command"])
        self.assertNotIn(str(ROOT), commands[0]["command"])
        run("cmake", "--build", build)
        self.assertRegex(run(build / "consumer"), r"^shadowkv \d+\.\d+\.\d+: 8 layers, 2 tokens\n$")

    def test_another_version_is_refused(self):
        listing = self.source / "CMakeLists.txt"
        text = listing.read_text()
        self.addCleanup(listing.write_text, text)
        listing.write_text(text.replace("shadowkv 0.1", "shadowkv 9.0"))
        with self.assertRaisesRegex(AssertionError, "compatible with requested version"):
            self.configure(self.folder / "other")

    def test_the_installed_program_says_its_version(self):
        self.assertRegex(run(self.installed / "bin" / "shadowkv", "--version"), r"\d+\.\d+\.\d+")

    def test_what_is_installed_names_no_folder_of_the_source_tree(self):
        for path in self.installed.rglob("*.cmake"):
            self.assertNotIn(str(ROOT), path.read_text(), path.name)

    def test_headers_and_licence_lie_where_they_belong(self):
        headers = {path.name for path in (self.installed / "include" / "shadowkv").iterdir()}
        self.assertEqual(headers, {path.name for path in (ROOT / "include" / "shadowkv").iterdir()})
        licences = {path.name for path in (self.installed / "share" / "doc" / "shadowkv").iterdir()}
        self.assertEqual(licences, {"LICENSE", "NOTICE"})


if __name__ == "__main__":
    unittest.main()
