"""A server that runs, for the tests of `shadowkv serve` and of its clients. Needs Python's standard library alone."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess

from program import MODEL, PROGRAM

PROMPT = "Call me Ishmael."
GREEDY = {"temperature": 0, "max_tokens": 12, "ignore_eos": True}
PATIENCE = int(os.environ.get("SHADOWKV_TEST_PATIENCE", "1"))  # how many times longer this build may take
CLOCK = {"type": "function", "function": {"name": "clock"}}


class Server:
    """A server of the tiny model, at a free port unless one is named."""

    def __init__(self, *options, model=MODEL, env=None, port=0):
        command = [PROGRAM, "serve", *model, "--port", str(port), "--threads", "2", *map(str, options)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        env={**os.environ, **(env or {})})
        line = self.process.stdout.readline()
        if not line.startswith("serving "):
            raise AssertionError(line + self.process.stderr.read())
        self.port = int(line.rsplit(":", 1)[1])

    def ask(self, method, path, body=None, headers=None):
        """Status, headers and body, parsed where it is JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        with contextlib.closing(connection):
            data = body if body is None or isinstance(body, (bytes, str)) else json.dumps(body)
            connection.request(method, path, data, headers or {})
            answer = connection.getresponse()
            text = answer.read().decode()
            is_json = answer.getheader("Content-Type", "").startswith("application/json")
            return answer.status, answer, json.loads(text) if is_json else text

    def busy(self):
        """How many requests have not ended."""
        lines = [line for line in self.ask("GET", "/metrics")[2].splitlines() if line.startswith("shadowkv_requests{")]
        assert len(lines) == 4, lines
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def raw(self, data, wait=True):
        """What comes back over a bare socket until the server closes it."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as plain:
            plain.sendall(data)
            back = b""
            while wait and (part := plain.recv(65536)):
                back += part
            return back.decode("utf-8", "replace")

    def end(self, signum=signal.SIGTERM):
        """Exit code and log, after a signal; None: one was sent."""
        if signum and self.process.poll() is None:
            self.process.send_signal(signum)
        _, errors = self.process.communicate(timeout=120)
        return self.process.returncode, errors


def events(text):
    """The JSON of a stream's events, the last of which says [DONE]."""
    parts = [part[len("data: "):] for part in text.split("\n\n") if part.startswith("data: ")]
    assert parts[-1] == "[DONE]", text
    return [json.loads(part) for part in parts[:-1]]
