#!/usr/bin/env python3
"""Keys of `shadowkv serve`, and what it keeps of prompts for each of them."""

import socket
import time
import unittest

from program import MODEL, ProgramTest
from server import GREEDY, Server


class Keys(ProgramTest):
    def test_a_prompt_that_begins_like_another_is_read_from_there(self):
        keys = self.write("keys", "first\nsecond\n")
        server = Server("--api-key-file", keys, "--open-metrics", "--quiet")
        self.addCleanup(server.end)

        def cached(prompt, key="first", **fields):
            headers = {"Authorization": f"Bearer {key}"}
            status, _, answer = server.ask("POST", "/v1/completions", {"prompt": prompt, **GREEDY, **fields}, headers)
            self.assertEqual(status, 200, answer)
            texts.append(answer["choices"][0]["text"])
            return answer["usage"]["prompt_tokens_details"]["cached_tokens"]

        texts, prompt = [], list(range(3, 203))
        self.assertEqual(cached(prompt), 0)
        self.assertEqual(cached(prompt), 192)
        self.assertEqual(texts[0], texts[1])
        self.assertEqual(cached(prompt[:100] + prompt, n=2), 64, "read once for both")
        self.assertEqual(cached(prompt, key="second"), 0, "another tenant's")
        self.assertEqual(cached(prompt, cache_salt="x"), 0)
        self.assertEqual(cached(prompt, cache_salt="x"), 192)
        metrics = server.ask("GET", "/metrics")[2]
        for name, tokens in {"queries": 5 * 200 + 300, "hits": 192 + 64 + 192}.items():
            self.assertIn(f'vllm:prefix_cache_{name}_total{{model_name="f32",engine="0"}} {tokens}\n', metrics)

    def test_what_was_read_outlives_the_server(self):
        folder = self.folder / "kept"
        prompt, texts = list(range(3, 203)), []

        def cached(server):
            answer = server.ask("POST", "/v1/completions", {"prompt": prompt, **GREEDY})[2]
            texts.append(answer["choices"][0]["text"])
            return answer["usage"]["prompt_tokens_details"]["cached_tokens"]

        def metric(server, name):
            lines = [line for line in server.ask("GET", "/metrics")[2].splitlines() if line.startswith(name + "{")]
            return float(lines[0].rsplit(" ", 1)[1])

        first = Server("--prefix-cache-dir", folder, "--quiet")
        self.addCleanup(first.end)
        self.assertEqual([cached(first), cached(first)], [0, 192])
        while metric(first, "shadowkv_prefix_files") == 0:  # which is when nobody is answered
            time.sleep(0.05)
        first.end()
        second = Server("--prefix-cache-dir", folder, "--quiet")
        self.addCleanup(second.end)
        self.assertEqual(cached(second), 192)
        self.assertEqual(texts, texts[:1] * 3)
        self.assertEqual(metric(second, "shadowkv_prefix_disk_tokens_total"), 192)
        self.assertEqual(metric(second, "shadowkv_prefix_file_bytes"),
                         sum(file.stat().st_size for file in folder.rglob("*.prefix")))
        self.refuse("serve", *MODEL, "--prefix-cache", "0", "--prefix-cache-dir", folder,
                    says=["--prefix-cache-dir", "keeps nothing"])

    def test_what_is_kept_is_listed_and_changed_by_its_key_alone(self):
        server = Server("--prefix-cache-dir", self.folder / "kept", "--api-key-file", self.write("keys", "first\nsecond\n"),
                        "--quiet")
        self.addCleanup(server.end)

        def ask(method, path="", key="first"):
            headers = {"Authorization": f"Bearer {key}"}
            return server.ask(method, "/v1/conversations" + path, None, headers)[::2]

        prompt = {"prompt": list(range(3, 203)), **GREEDY}
        server.ask("POST", "/v1/completions", prompt, {"Authorization": "Bearer first"})
        status, listed = ask("GET")
        self.assertEqual(status, 200)
        kept, = listed["data"]
        self.assertEqual((kept["tokens"], kept["where"], kept["pinned"]), (192, "device", False))
        self.assertEqual(ask("GET", key="second"), (200, {"object": "list", "data": []}))
        at = "/" + kept["id"]
        self.assertEqual(ask("DELETE", at, key="second")[0], 404)
        self.assertTrue(ask("POST", at + "/pin")[1]["pinned"])
        self.assertFalse(ask("POST", at + "/unpin")[1]["pinned"])
        self.assertEqual(ask("POST", at + "/save")[0], 200)
        while ask("GET")[1]["data"][0]["file_bytes"] == 0:
            time.sleep(0.05)
        self.assertEqual(ask("POST", at + "/restore")[1]["where"], "device")
        self.assertEqual(ask("POST", at + "/eat")[0], 404)
        for method, path, allowed in (("POST", at, "DELETE"), ("OPTIONS", at, "DELETE"), ("DELETE", at + "/pin", "POST")):
            status, answer, _ = server.ask(method, "/v1/conversations" + path, None, {"Authorization": "Bearer first"})
            self.assertEqual((status, answer.getheader("Allow")), (405, allowed))
        self.assertEqual(server.ask("GET", "/v1/conversations")[0], 401)
        self.assertEqual(ask("DELETE", at), (200, {"id": kept["id"], "object": "conversation", "deleted": True}))
        self.assertEqual(ask("DELETE", at)[0], 404)
        self.assertEqual(ask("GET")[1]["data"], [])
        self.assertEqual(list((self.folder / "kept").rglob("*.prefix")), [])

    def test_a_folder_that_cannot_be_used_costs_a_line(self):
        server = Server("--prefix-cache-dir", self.write("file", "no folder"), "--quiet")
        self.addCleanup(server.end)
        self.assertEqual(server.ask("POST", "/v1/completions", {"prompt": [5, 6, 7], **GREEDY})[0], 200)
        self.assertEqual(server.end()[1].count("no prompts are kept in"), 1)

    def test_nothing_is_kept_where_nothing_may_be(self):
        server = Server("--prefix-cache", "0", "--quiet")
        self.addCleanup(server.end)
        for _ in range(2):
            answer = server.ask("POST", "/v1/completions", {"prompt": list(range(3, 203)), **GREEDY})[2]
            self.assertEqual(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
        self.refuse("serve", *MODEL, "--prefix-cache", "some", says=["--prefix-cache", "some", "6GiB"])

    def test_a_key_is_asked_for_everywhere_but_at_health(self):
        keys = self.write("keys", "# those of the house\nfirst\n\nsecond\n")
        server = Server("--api-key-file", keys, "--quiet", env={"SHADOWKV_API_KEY": "third"})
        self.addCleanup(server.end)
        for path in ("/v1/models", "/metrics", "/openapi.json"):
            self.assertEqual(server.ask("GET", path)[0], 401)
            self.assertEqual(server.ask("GET", path, headers={"Authorization": "Bearer firs"})[0], 401)
            for key in ("first", "second", "third"):
                self.assertEqual(server.ask("GET", path, headers={"Authorization": f"Bearer {key}"})[0], 200)
        status, _, body = server.ask("POST", "/v1/completions", {"prompt": "x"})
        self.assertEqual((status, body["error"]["type"]), (401, "authentication_error"))
        self.assertEqual(server.ask("GET", "/health")[0], 200)

    def test_without_a_key_other_machines_are_kept_out(self):
        self.refuse("serve", *MODEL, "--host", "0.0.0.0", says=["--allow-without-key", "--api-key-file"])
        self.refuse("serve", *MODEL, "--api-key-file", self.folder / "none", says=["cannot be read"])
        self.refuse("serve", *MODEL, "--api-key-file", self.write("empty", "\n#\n"), says=["holds no key"])
        self.refuse("serve", *MODEL, "--host", "nowhere", "--allow-without-key", says=["nowhere", "127.0.0.1"])

    def test_a_port_that_is_taken_is_named(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            self.refuse("serve", *MODEL, "--port", port, says=[str(port), "--port"], code=4)


if __name__ == "__main__":
    unittest.main()
