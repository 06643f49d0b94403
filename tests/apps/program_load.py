#!/usr/bin/env python3
"""`shadowkv serve` under load, and `bench serve`, which makes one."""

import contextlib
import json
import os
import pathlib
import re
import socket
import subprocess
import threading
import time
import unittest

from program import PROGRAM, SHAPE, ProgramTest
from server import GREEDY, PATIENCE, PROMPT, Server


class Load(ProgramTest):
    def open_stream(self, server, **fields):
        body = json.dumps({"prompt": PROMPT, "stream": True, "temperature": 0, "ignore_eos": True, **fields}).encode()
        plain = socket.create_connection(("127.0.0.1", server.port), timeout=120)
        self.addCleanup(plain.close)
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        plain.sendall(head.encode() + body)
        return plain

    @staticmethod
    def read(plain):
        back = b""
        while part := plain.recv(65536):
            back += part
        return back.decode("utf-8", "replace")  # which may be cut

    @staticmethod
    def most_bytes(server):
        """That the server has ever held of the machine's memory."""
        status = pathlib.Path(f"/proc/{server.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s*(\d+) kB", status).group(1)) * 1024

    def test_a_thousand_streams_at_a_time_in_bounded_memory(self):
        server = Server("--quiet")
        self.addCleanup(server.end)
        self.assertEqual(server.ask("POST", "/v1/completions", {"prompt": PROMPT, **GREEDY})[0], 200)
        before = self.most_bytes(server)
        for _ in range(3):  # who comes later takes no more
            streams = [self.open_stream(server, max_tokens=4) for _ in range(1000)]
            begun = time.monotonic()
            self.assertEqual(server.ask("GET", "/health")[0], 200)
            self.assertLess(time.monotonic() - begun, 10, "the server is not held up by those that wait")
            texts = [self.read(plain) for plain in streams]
            for text in texts:
                self.assertIn("[DONE]", text)
                self.assertIn('"finish_reason":"length"', text)
        if PATIENCE == 1:  # a sanitizer keeps what was freed
            self.assertLess(self.most_bytes(server) - before, 1000 * 32 * 1024, "32 KiB a stream; 9 were seen")

    def test_a_stream_that_waits_says_so(self):
        server = Server("--quiet", "--comment-every", "1", "--max-running", "1")
        self.addCleanup(server.end)
        before = self.open_stream(server, max_tokens=4000, n=8)  # some seconds
        self.assertTrue(before.recv(1))
        waits = self.open_stream(server, max_tokens=4)
        back = b""
        while b": still at it\n\n" not in back:
            part = waits.recv(65536)
            self.assertTrue(part, back)
            back += part

    def test_who_reads_slowly_slows_nobody_and_is_dropped(self):
        server = Server("--quiet", "--write-timeout", "3")
        self.addCleanup(server.end)
        # 15 MB each, which nobody reads: more than lies in the sockets' buffers.
        slow = [self.open_stream(server, max_tokens=4000, logprobs=20, n=8) for _ in range(2)]
        begun = time.monotonic()
        for _ in range(5):
            self.assertEqual(server.ask("POST", "/v1/completions", {"prompt": PROMPT, **GREEDY})[0], 200)
        self.assertLess(time.monotonic() - begun, 30)
        until = time.monotonic() + 120
        while server.busy() > 0:
            self.assertLess(time.monotonic(), until)
            time.sleep(0.2)
        time.sleep(4)
        for plain in slow:
            with contextlib.suppress(ConnectionError):
                self.assertFalse("[DONE]" in self.read(plain))


class LoadBench(ProgramTest):
    """`shadowkv bench serve` against a server."""

    def bench(self, server, *options):
        return self.succeed("bench", "serve", "--url", f"http://127.0.0.1:{server.port}", "--json", "-", *options)

    def test_it_counts_what_the_server_counts(self):
        server = Server("--quiet")
        self.addCleanup(server.end)
        shape = ["--requests", "12", "--prompt-tokens", "20,40", "--new-tokens", "8", "--seed", "5"]
        for options in (["--max-concurrency", "3"], ["--request-rate", "100"]):
            report = json.loads(self.bench(server, *shape, *options, "--goodput", "e2el:60000").text)
            self.assertEqual((report["completed"], report["failed"], report["total_output_tokens"]), (12, 0, 96))
            self.assertAlmostEqual(report["request_goodput"], report["request_throughput"])
            self.assertLess(20 * 12, report["total_input_tokens"])
            for name in ("ttft", "itl", "e2el"):  # an answer may come in one piece, without gaps in it
                self.assertGreaterEqual(report[f"mean_{name}_ms"], 0 if name == "itl" else 1e-3)
                self.assertLessEqual(report[f"median_{name}_ms"], report[f"p99_{name}_ms"])
            self.assertAlmostEqual(report["mean_tpot_ms"] * 7, report["mean_e2el_ms"] - report["mean_ttft_ms"], 3)
        metrics = server.ask("GET", "/metrics")[2]
        self.assertIn(f'shadowkv_prompt_tokens_total{{model_name="f32"}} {2 * report["total_input_tokens"]}\n', metrics)
        text = self.succeed("bench", "serve", "--url", f"http://127.0.0.1:{server.port}/", "--requests", "2",
                            "--prompt-tokens", "5", "--new-tokens", "4").text
        self.assertIn("Successful requests:                     2", text)
        self.assertIn("P99 E2EL (ms):", text)

    def test_a_server_without_a_tokenizer_is_timed_by_its_events(self):
        server = Server("--quiet", model=SHAPE)
        self.addCleanup(server.end)
        report = json.loads(self.bench(server, "--requests", "2", "--prompt-tokens", "10", "--new-tokens", "8",
                                       "--max-concurrency", "1").text)
        self.assertEqual((report["completed"], report["failed"]), (2, 0), report)
        self.assertEqual((report["total_input_tokens"], report["total_output_tokens"]), (20, 16))
        self.assertLess(report["mean_ttft_ms"], report["mean_e2el_ms"], "tokens are told of as they come")
        self.assertGreater(report["mean_itl_ms"], 0)

    def test_a_stream_of_nothing_is_no_answer(self):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            def answer():
                client, _ = listener.accept()
                with client:
                    client.recv(65536)
                    body = b"data: [DONE]\n\n"
                    client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            thread = threading.Thread(target=answer)
            thread.start()
            self.refuse("bench", "serve", "--url", f"http://127.0.0.1:{listener.getsockname()[1]}", "--requests", "1",
                        "--prompt-tokens", "5", "--new-tokens", "4", says=["no event", '"choices"', "another server"],
                        code=4)
            thread.join()

    def test_what_fails_is_said(self):
        server = Server("--quiet", "--max-running", "1", "--max-waiting", "1", env={"SHADOWKV_API_KEY": "k"})
        self.addCleanup(server.end)
        url = f"http://127.0.0.1:{server.port}"
        self.refuse("bench", "serve", "--url", url, "--requests", "2", says=["401", "API key"], code=4)
        self.refuse("bench", "serve", "--url", "http://127.0.0.1:1", "--requests", "2", says=["no connection"], code=4)
        self.refuse("bench", "serve", "--url", "https://x", says=["http://"])
        self.refuse("bench", "serve", "--goodput", "itl:3", says=["--goodput"])
        done = subprocess.run([PROGRAM, "bench", "serve", "--url", url, "--requests", "8", "--new-tokens", "500",
                               "--prompt-tokens", "8", "--json", "-"], env={**os.environ, "SHADOWKV_API_KEY": "k"},
                              capture_output=True, text=True, timeout=120, check=True)
        report = json.loads(done.stdout)
        self.assertGreater(report["failed"], 0, "only two have room")
        self.assertTrue(report["first_error"].startswith("429"), report["first_error"])


if __name__ == "__main__":
    unittest.main()
