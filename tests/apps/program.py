"""Running the program as a user does, for the tests beside this file.

    SHADOWKV_PROGRAM=build/release/shadowkv python3 tests/apps/program_options.py

Needs Python's standard library alone. The models are the tiny ones of tests/testdata/golden.
"""

import os
import pathlib
import struct
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/testdata/golden/llama_gqa"
MODEL = ["--model", str(GOLDEN / "f32.gguf")]
SHAPE = ["--shape", "tiny"]
PROGRAM = os.environ.get("SHADOWKV_PROGRAM", str(ROOT / "build/release/shadowkv"))
COMMANDS = ["generate", "chat", "compare", "fidelity", "eval", "tokenize", "detokenize", "info", "download", "serve",
            "bench"]
EVALS = ["ruler", "needle", "kv", "babilong", "longbench"]
BENCHES = ["decode", "prefill", "kernels", "serve-load", "serve"]


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
