#!/usr/bin/env python3
"""Models by name: fetched from a hub that behaves and from one that does not, and run from the cache."""

import importlib.util
import json
import os
import pathlib
import signal
import struct
import subprocess
import sys
import time
import unittest

from fake_hub import COMMIT, FakeHub, Fault, change, git_id, sha256, silence, status
from program import GOLDEN, PROGRAM, ProgramTest

NAME = "maker/tiny"
GGUF = (GOLDEN / "f32.gguf").read_bytes()
SMALL_GGUF = (GOLDEN / "q8_0.gguf").read_bytes()
FOLDER = {path.name: path.read_bytes() for path in (GOLDEN / "hf").iterdir()}
WEIGHTS = FOLDER["model.safetensors"]


def shards_of(weights, count):
    """The same tensors in several files, and their index."""
    length = struct.unpack("<Q", weights[:8])[0]
    header = json.loads(weights[8 : 8 + length])
    header.pop("__metadata__", None)
    names, files, places = sorted(header), {}, {}
    for i in range(count):
        entries, data = {}, b""
        for name in names[i::count]:
            begin, end = header[name]["data_offsets"]
            entries[name] = {**header[name], "data_offsets": [len(data), len(data) + end - begin]}
            data += weights[8 + length + begin : 8 + length + end]
            places[name] = f"model-{i + 1:05}-of-{count:05}.safetensors"
        text = json.dumps(entries).encode()
        files[f"model-{i + 1:05}-of-{count:05}.safetensors"] = struct.pack("<Q", len(text)) + text + data
    files["model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": places}).encode()
    return files


REPOSITORIES = {
    NAME: {**FOLDER, "README.md": b"# tiny\n", "original/consolidated.00.pth": b"x" * 100, "onnx/model.onnx": b"y" * 100,
           "chat_template.jinja": b"{{ messages[0].content }}"},
    "maker/shards": {**{k: v for k, v in FOLDER.items() if k != "model.safetensors"}, **shards_of(WEIGHTS, 3)},
    "maker/one-GGUF": {"tiny-f32.gguf": GGUF, "mmproj-f16.gguf": b"not this", ".gitattributes": b"*"},
    "maker/many-GGUF": {"tiny-f32.gguf": GGUF, "tiny-q8_0.gguf": SMALL_GGUF, "deep/tiny-q4_0.gguf": b"other"},
    "maker/no-model": {"README.md": b"nothing", "pytorch_model.bin": b"no"},
}


class DownloadTest(ProgramTest):
    def setUp(self):
        super().setUp()
        self.hub = FakeHub({name: dict(files) for name, files in REPOSITORIES.items()})
        self.addCleanup(self.hub.close)
        self.cache = self.folder / "hf/hub"
        self.set_environment(
            HF_HOME=str(self.folder / "hf"), HF_ENDPOINT=self.hub.url, SHADOWKV_HUB_PAUSE="0.01",
            SHADOWKV_HUB_RETRIES="3", SHADOWKV_HUB_PART="16K", no_proxy="*", HOME=str(self.folder))

    def set_environment(self, **values):
        """For the programs that this test starts."""
        for name in [*values, *(n for n in os.environ if n.startswith(("HF_", "HUGGING")))]:
            old = os.environ.pop(name, None)
            self.addCleanup(lambda name=name, old=old: os.environ.__setitem__(name, old) if old is not None
                            else os.environ.pop(name, None))
        os.environ.update(values)

    def fault(self, *arguments, **named):
        self.hub.faults.append(Fault(*arguments, **named))

    def requests(self, role, method="GET"):
        with self.hub.lock:
            return [r for r in self.hub.requests if r[0] == role and r[1] == method]

    def fetch(self, name=NAME):
        return pathlib.Path(self.succeed("download", name).text.strip())

    def no_model(self, repository=NAME):
        """Nothing in the cache can be taken for the model, or for a part of it."""
        folder = self.cache / ("models--" + repository.replace("/", "--"))
        self.assertEqual([p for p in folder.glob("snapshots/*/*")], [])
        for blob in folder.glob("blobs/*"):
            if "incomplete" not in blob.name and "journal" not in blob.name:
                content = blob.read_bytes()
                self.assertIn(blob.name, (sha256(content), git_id(content)))
        os.environ["HF_HUB_OFFLINE"] = "1"
        self.refuse("generate", "--model", repository, "x", says=[repository, "HF_HUB_OFFLINE"])
        os.environ.pop("HF_HUB_OFFLINE")

    def fails(self, *says, code=2, name=NAME):
        """The download fails in one line, and leaves no model. Its progress may stand before that line."""
        done = subprocess.run([PROGRAM, "download", name], capture_output=True, text=True, timeout=300, check=False)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertEqual(done.stdout, "")
        *progress, line = done.stderr.splitlines()
        self.assertTrue(line.startswith("shadowkv: "), done.stderr)
        for other in progress:
            self.assertTrue(other.startswith("fetching "), done.stderr)
        for part in says:
            self.assertIn(part, line)
        self.no_model(name)


class Fetching(DownloadTest):
    def test_a_folder_is_laid_out_as_huggingface_hub_does(self):
        snapshot = self.fetch()
        repository = self.cache / "models--maker--tiny"
        self.assertEqual(snapshot, repository / "snapshots" / COMMIT)
        wanted = {*FOLDER, "chat_template.jinja"}
        self.assertEqual({path.name for path in snapshot.iterdir()}, wanted)
        for name in wanted:
            content = REPOSITORIES[NAME][name]
            blob = sha256(content) if name.endswith(".safetensors") else git_id(content)
            self.assertEqual(os.readlink(snapshot / name), f"../../blobs/{blob}")
            self.assertEqual((snapshot / name).read_bytes(), content)
        self.assertEqual((repository / "refs/main").read_text(), COMMIT)
        self.assertEqual(sorted(path.name for path in (repository / "blobs").iterdir()),
                         sorted(pathlib.Path(os.readlink(path)).name for path in snapshot.iterdir()))

    def test_generate_runs_from_the_name_and_offline_from_the_cache(self):
        options = ["--prompt-ids", "1,2,3", "-n", "4", "--print-ids", "--dtype", "float32"]
        first = self.succeed("generate", "--model", NAME, *options)
        self.assertEqual(first.text, self.succeed("generate", "--model", GOLDEN / "hf", *options).text)
        self.assertIn(f"fetched {NAME}", first.errors)
        count = len(self.hub.requests)
        os.environ["HF_HUB_OFFLINE"] = "1"
        again = self.succeed("generate", "--model", NAME, *options)
        self.assertEqual(again.text, first.text)
        self.assertNotIn("fetch", again.errors)
        self.assertEqual(len(self.hub.requests), count)

    def test_what_is_there_is_not_fetched_again(self):
        self.fetch()
        before = len(self.requests("cdn"))
        facts = json.loads(self.succeed("download", NAME, "--json").text)
        self.assertEqual((facts["commit"], facts["fetched_bytes"]), (COMMIT, 0))
        self.assertEqual(len(self.requests("cdn")), before)

    def test_large_files_come_in_parts_over_several_connections(self):
        self.assertEqual(self.fetch("maker/one-GGUF").read_bytes(), GGUF)
        ranges = {headers["Range"] for _, _, _, headers in self.requests("cdn")}
        self.assertEqual(len(ranges), -(-len(GGUF) // 16384))

    def test_shards_are_those_of_the_index(self):
        self.hub.repositories["maker/shards"]["model-00009-of-00009.safetensors"] = b"a stray"
        snapshot = self.fetch("maker/shards")
        self.assertEqual(len(list(snapshot.glob("*.safetensors"))), 3)
        self.assertEqual(json.loads(self.succeed("info", "--model", "maker/shards", "--json").text)["model"]["name"],
                         "maker/shards")
        index = json.loads(self.hub.repositories["maker/shards"]["model.safetensors.index.json"])
        index["weight_map"]["more"] = "gone.safetensors"
        self.hub.repositories["maker/other"] = {
            **self.hub.repositories["maker/shards"], "model.safetensors.index.json": json.dumps(index).encode()}
        self.fails("maker/other", "gone.safetensors", name="maker/other")

    def test_one_gguf_of_several_is_chosen_by_name_or_part(self):
        self.assertEqual(self.fetch("maker/many-GGUF").name, "tiny-q8_0.gguf")
        self.assertEqual(self.fetch("maker/many-GGUF:tiny-f32.gguf").read_bytes(), GGUF)
        self.assertEqual(self.fetch("maker/many-GGUF:Q4_0").read_bytes(), b"other")
        self.assertEqual(self.fetch("maker/many-GGUF@v1.0:q8_0").read_bytes(), SMALL_GGUF)
        self.refuse("download", "maker/many-GGUF:tiny", says=["3 GGUF files", "tiny-f32.gguf"])
        self.refuse("download", "maker/many-GGUF:Q5_K", says=["Q5_K", "tiny-f32.gguf"])
        self.refuse("download", f"{NAME}:Q4_0", says=["no GGUF"])

    def test_revisions_are_kept_apart(self):
        self.fetch(f"{NAME}@refs/pr/1")
        self.fetch(f"{NAME}@{COMMIT}")
        refs = self.cache / "models--maker--tiny/refs"
        self.assertEqual([str(p.relative_to(refs)) for p in refs.rglob("*") if p.is_file()], ["refs/pr/1"])

    def test_a_hub_that_says_only_names_is_asked_for_each_file(self):
        self.hub.says_blobs = False
        self.assertEqual((self.fetch() / "model.safetensors").read_bytes(), WEIGHTS)
        self.assertEqual(len(self.requests("hub", "HEAD")), len(FOLDER) + 1)
        self.assertEqual(self.requests("cdn", "HEAD"), [])

    def test_a_path_wins_over_a_name(self):
        (self.folder / "maker").mkdir()
        (self.folder / "maker/tiny").symlink_to(GOLDEN / "hf")
        done = subprocess.run([os.path.abspath(PROGRAM), "info", "--model", NAME, "--json"], capture_output=True, text=True,
                              cwd=self.folder, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.hub.requests, [])

    def test_what_is_no_name_is_not_looked_up(self):
        for name in ("tiny", "a/b/c", "../tiny", "a/..", "a/b.gguf", "/maker/tiny", "a b/c", "a/b@", "a/b@../x", "a/b:",
                     "a/b:../x", "a--b/c"):
            self.refuse("download", name, says=["org/name"])
            self.refuse("info", "--model", name, says=["no file or folder"])
        self.refuse("download", says=["org/name"])
        self.assertEqual(self.hub.requests, [])

    def test_settings_that_cannot_be_are_refused(self):
        for name, value in {"SHADOWKV_HUB_PART": "1", "SHADOWKV_HUB_CONNECTIONS": "0", "SHADOWKV_HUB_RETRIES": "x",
                            "HF_HUB_ETAG_TIMEOUT": "-1", "HF_ENDPOINT": "ftp://x", "HF_TOKEN": "two words"}.items():
            old = os.environ.get(name)
            os.environ[name] = value
            self.refuse("download", NAME, says=[name])
            os.environ.update({name: old}) if old else os.environ.pop(name)


class Tokens(DownloadTest):
    def authorizations(self, role):
        return {headers.get("Authorization") for _, _, _, headers in self.requests(role)}

    def test_a_token_goes_to_the_hub_alone(self):
        os.environ["HF_TOKEN"] = "hf_secret"
        self.fetch()
        self.assertEqual(self.authorizations("hub"), {"Bearer hf_secret"})
        self.assertEqual(self.authorizations("cdn"), {None})

    def test_a_token_is_gone_for_good_when_a_redirect_leaves(self):
        os.environ["HF_TOKEN"] = "hf_secret"
        self.fault("/cdn/", lambda handler: handler.answer(302, {"Location": self.hub.url + "/back"}), times=1)
        self.fault("/back", status(500), times=1)
        self.fetch()
        back = [headers for _, _, path, headers in self.requests("hub") if path == "/back"]
        self.assertEqual([headers.get("Authorization") for headers in back], [None])

    def test_the_token_file_is_read(self):
        (self.folder / "hf").mkdir()
        (self.folder / "hf/token").write_text("hf_filed\n")
        self.fetch()
        self.assertEqual(self.authorizations("hub"), {"Bearer hf_filed"})

    def test_a_gated_model_says_where_to_accept_its_terms(self):
        self.fault("/api/", status(403, X_Error_Code="GatedRepo"))
        self.fails("gated", f"{self.hub.url}/{NAME}", "HF_TOKEN")

    def test_files_may_be_gated_where_the_listing_is_not(self):
        self.fault("/resolve/", status(401, X_Error_Code="GatedRepo"))
        self.fails("gated", f"{self.hub.url}/{NAME}", "HF_TOKEN")

    def test_a_private_model_asks_for_a_token_or_another(self):
        self.fault("/api/", status(401))
        self.fails("private", "HF_TOKEN")
        os.environ["HF_TOKEN"] = "hf_wrong"
        self.fails("token", "401")


class Refusals(DownloadTest):
    def test_what_is_not_there_is_named(self):
        self.fails("maker/none", self.hub.url, name="maker/none")
        self.fails("no revision", '"v9"', name=f"{NAME}@v9")
        self.fails("maker/no-model", "config.json", ".gguf", name="maker/no-model")

    def test_names_that_lead_out_of_the_folder_are_refused(self):
        for path in ("../../../escape", "/etc/escape", "a/../../b", "a//b", "./a", "a\\..\\b", "a\nb"):
            with self.subTest(path):
                self.hub.repositories["maker/evil"] = {**REPOSITORIES[NAME], path: b"{}"}
                self.fails("maker/evil", "leads out", name="maker/evil")
        self.assertEqual(list(self.folder.rglob("*escape*")), [])

    def test_checksums_that_are_none_are_refused(self):
        self.hub.lies["config.json"] = {"blobId": "../../../../escape"}
        self.fails("config.json", "checksum")

    def test_listings_that_are_none_are_refused(self):
        for body in (b"", b"<html>", b"[]", b'{"sha": "main"}', b'{"sha": "%s"}' % COMMIT.encode(),
                     b'{"sha": "%s", "siblings": [{}]}' % COMMIT.encode(), b'[' * 5000):
            with self.subTest(body):
                self.hub.faults = [Fault("/api/", lambda handler, body=body: handler.answer(200, {}, body))]
                self.fails("the hub's answer about maker/tiny")

    def test_sizes_that_cannot_be_are_refused(self):
        for size in (-1, 1.5, "12", 2**50, 2**70):
            with self.subTest(size):
                self.hub.lies["config.json"] = {"size": size}
                self.fails("config.json", "bytes")

    def test_a_model_larger_than_the_disk_is_refused_before_it_begins(self):
        self.hub.lies["model.safetensors"] = {"lfs": {"sha256": sha256(WEIGHTS), "size": 2**45}}
        self.fails("32.0 TiB", "HF_HOME")
        self.assertEqual(self.requests("cdn"), [])

    def test_offline_without_a_copy_is_refused_without_the_network(self):
        os.environ["HF_HUB_OFFLINE"] = "1"
        self.refuse("download", NAME, says=[NAME, "HF_HUB_OFFLINE"])
        self.assertEqual(self.hub.requests, [])


class Misbehaviour(DownloadTest):
    def test_cuts_are_taken_up_where_they_were(self):
        os.environ["SHADOWKV_HUB_PART"] = "1M"
        self.fault("/cdn/", change(cut_after=70000), times=2)
        self.assertEqual(self.fetch("maker/one-GGUF").read_bytes(), GGUF)
        begins = [h.get("Range", "bytes=0-").split("-")[0] for _, _, _, h in self.requests("cdn")]
        self.assertEqual(begins, ["bytes=0", "bytes=70000", "bytes=140000"])

    def test_cuts_without_end_fail_and_what_came_is_kept(self):
        os.environ["SHADOWKV_HUB_PART"] = "1M"
        self.fault("/cdn/", change(cut_after=20000))
        self.fails("127.0.0.1", "tried 4 times", code=4, name="maker/one-GGUF")
        self.hub.faults = []
        self.hub.requests = []
        self.assertEqual(self.fetch("maker/one-GGUF").read_bytes(), GGUF)
        self.assertEqual([h["Range"] for _, _, _, h in self.requests("cdn")], [f"bytes=80000-{len(GGUF) - 1}"])

    def test_a_server_without_ranges_sends_all(self):
        self.fault("/cdn/", change(no_range=True))
        self.assertEqual(self.fetch("maker/one-GGUF").read_bytes(), GGUF)

    def test_a_server_without_ranges_that_cuts_sends_all_again(self):
        self.fault("/cdn/", change(no_range=True, cut_after=90000), times=3)
        self.fault("/cdn/", change(no_range=True))
        os.environ["SHADOWKV_HUB_CONNECTIONS"] = "1"
        self.assertEqual(self.fetch("maker/one-GGUF").read_bytes(), GGUF)

    def test_wrong_bytes_are_thrown_away(self):
        damaged = bytes([GGUF[0] ^ 1]) + GGUF[1:]
        self.fault("/cdn/", change(content=damaged))
        self.fails("tiny-f32.gguf", "sha256", sha256(GGUF), sha256(damaged), code=4, name="maker/one-GGUF")
        self.assertEqual([p for p in self.cache.rglob("*incomplete*")], [])
        self.hub.faults = []
        self.assertEqual(self.fetch("maker/one-GGUF").read_bytes(), GGUF)

    def test_wrong_bytes_of_a_small_file_are_thrown_away(self):
        config = FOLDER["config.json"]
        self.fault("config.json", change(content=config.replace(b"1", b"2")))
        self.fails("config.json", "git object id", code=4)

    def test_wrong_sizes_are_refused(self):
        for content in (GGUF + b"more", GGUF[:-7], b""):
            with self.subTest(len(content)):
                self.hub.faults = [Fault("/cdn/", change(content=content))]
                self.fails("tiny-f32.gguf", code=4, name="maker/one-GGUF")

    def test_a_partial_file_that_the_disk_spoilt_is_fetched_anew(self):
        os.environ["SHADOWKV_HUB_PART"] = "1M"
        self.fault("/cdn/", change(cut_after=20000), times=4)
        self.fails(code=4, name="maker/one-GGUF")
        (partial,) = self.cache.rglob("*.shadowkv.incomplete")
        with partial.open("r+b") as file:
            file.write(b"spoilt")
        self.assertEqual(self.fetch("maker/one-GGUF").read_bytes(), GGUF)

    def test_a_loop_of_redirects_ends(self):
        self.fault("/resolve/", lambda handler: handler.answer(302, {"Location": handler.path}))
        self.fails("redirects", code=4)

    def test_redirects_to_other_schemes_are_refused(self):
        self.fault("/resolve/", lambda handler: handler.answer(302, {"Location": "file:///etc/passwd"}))
        self.fails("not as safe", code=4)

    def test_busy_servers_are_waited_for(self):
        self.fault("/api/", status(429, Retry_After=1), times=1)
        self.fault("/cdn/", status(500), times=2)
        self.fault("/resolve/", status(503), times=2)
        start = time.monotonic()
        self.fetch()
        self.assertGreaterEqual(time.monotonic() - start, 1)

    def test_servers_that_stay_busy_are_given_up(self):
        self.fault("/api/", status(503))
        self.fails("503", "tried 4 times", code=4)
        self.hub.faults = [Fault("/api/", status(429, Retry_After=86400))]
        self.fails("429", "86400 s", code=4)

    def test_a_transfer_that_stands_still_is_begun_again(self):
        os.environ["HF_HUB_DOWNLOAD_TIMEOUT"] = "0.3"
        self.fault("/cdn/", silence(5), times=1)
        self.assertEqual(self.fetch("maker/one-GGUF").read_bytes(), GGUF)
        self.hub.faults = [Fault("/api/", silence(5))]
        os.environ |= {"HF_HUB_ETAG_TIMEOUT": "0.3", "SHADOWKV_HUB_RETRIES": "0"}
        self.fails("nearly nothing", code=4)

    def test_a_hub_that_is_gone_leaves_the_copy_in_the_cache(self):
        self.fetch()
        self.hub.close()
        done = self.succeed("download", NAME)
        self.assertIn("shadowkv: note: the hub could not be asked", done.errors)
        self.assertIn(COMMIT, done.text)
        self.fails("127.0.0.1", code=4, name="maker/shards")


class SeveralProcesses(DownloadTest):
    def start(self, name):
        return subprocess.Popen([PROGRAM, "download", name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def sent(self):
        with self.hub.lock:
            return sum(count for path, count in self.hub.sent.items() if "/cdn/" in path)

    def wait_for_bytes(self, process, count):
        while self.sent() < count:
            self.assertIsNone(process.poll(), "the download ended too early")
            time.sleep(0.005)

    def test_what_a_killed_process_left_is_taken_up(self):
        self.fault("/cdn/", change(bytes_per_s=60000))
        process = self.start("maker/one-GGUF")
        self.wait_for_bytes(process, 90000)
        process.kill()
        process.communicate()
        self.no_model("maker/one-GGUF")
        self.hub.faults, self.hub.sent = [], {}
        self.assertEqual(self.fetch("maker/one-GGUF").read_bytes(), GGUF)
        self.assertLess(self.sent(), len(GGUF) - 30000)

    def test_an_interrupted_download_ends_in_one_line(self):
        self.fault("/cdn/", change(bytes_per_s=20000))
        process = self.start("maker/one-GGUF")
        self.wait_for_bytes(process, 20000)
        process.send_signal(signal.SIGINT)
        text, errors = process.communicate(timeout=300)
        self.assertEqual((process.returncode, text), (130, ""), errors)
        self.assertEqual(errors.splitlines()[-1], "shadowkv: interrupted")
        self.no_model("maker/one-GGUF")

    def test_two_at_once_fetch_once(self):
        self.fault("/cdn/", change(bytes_per_s=200000))
        processes = [self.start("maker/one-GGUF") for _ in range(2)]
        results = [process.communicate(timeout=300) for process in processes]
        self.assertEqual([process.returncode for process in processes], [0, 0], results)
        self.assertEqual(results[0][0], results[1][0])
        self.assertEqual(pathlib.Path(results[0][0].strip()).read_bytes(), GGUF)
        self.assertEqual(self.sent(), len(GGUF))
        self.assertIn("waiting for another process", results[0][1] + results[1][1])


@unittest.skipUnless(importlib.util.find_spec("huggingface_hub"), "huggingface_hub is not installed")
class SharedWithHuggingfaceHub(DownloadTest):
    def python(self, script):
        done = subprocess.run([sys.executable, "-c", "import huggingface_hub as h\n" + script], capture_output=True,
                              text=True, timeout=300, check=False, env={**os.environ, "HF_HUB_DISABLE_XET": "1"})
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout.strip()

    def test_what_we_fetch_it_finds(self):
        snapshot = self.fetch()
        for name in FOLDER:
            found = self.python(f"print(h.hf_hub_download({NAME!r}, {name!r}, local_files_only=True))")
            self.assertEqual(found, str(snapshot / name))
        before = len(self.requests("cdn"))
        found = self.python(f"print(h.hf_hub_download({NAME!r}, 'model.safetensors'))")
        self.assertEqual((found, len(self.requests("cdn"))), (str(snapshot / "model.safetensors"), before))
        scanned = self.python("c = h.scan_cache_dir(); print(len(c.repos), len(c.warnings), c.size_on_disk)")
        self.assertEqual(scanned, f"1 0 {sum(p.stat().st_size for p in snapshot.iterdir())}")

    def test_what_it_fetches_we_find(self):
        for name in FOLDER:
            self.python(f"h.hf_hub_download({NAME!r}, {name!r})")
        os.environ["HF_HUB_OFFLINE"] = "1"
        self.assertEqual({p.name for p in self.fetch().iterdir()}, set(FOLDER))
        os.environ.pop("HF_HUB_OFFLINE")
        before = len(self.requests("cdn"))
        self.fetch()
        self.assertEqual(len(self.requests("cdn")), before)


if __name__ == "__main__":
    unittest.main()
