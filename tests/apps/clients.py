#!/usr/bin/env python3
"""`shadowkv serve` with the clients that people have: openai, langchain-openai, curl, and schemathesis over its own
description. Run by ./run test with the Python of tools/fetch_clients.sh.

    SHADOWKV_TEST_MODEL=$(python3 tools/fetch_model.py) SHADOWKV_PROGRAM=build/release/shadowkv \
        $(tools/fetch_clients.sh) tests/apps/clients.py

Without SHADOWKV_TEST_MODEL a tiny model of the tests answers in place of the embedded one.
"""

import asyncio
import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import unittest
from typing import Literal

import openai
import pydantic
from langchain_openai import ChatOpenAI

from program import MODEL
from server import Server

EMBEDDED = os.environ.get("SHADOWKV_TEST_MODEL")
SERVED = ["--model", EMBEDDED] if EMBEDDED else MODEL
CONTEXT = 8192 if EMBEDDED else 4096
KEY = "sesame"
HI = [{"role": "user", "content": "Hi"}]
GREEDY = {"temperature": 0, "max_tokens": 8}
WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather of a city", "parameters": {
        "type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}}}
LONG = {**GREEDY, "extra_body": {"ignore_eos": True}}  # eight tokens, whatever the model says


class Clients(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--served-model-name", "tiny", "--quiet", model=SERVED, env={"SHADOWKV_API_KEY": KEY})
        cls.url = f"http://127.0.0.1:{cls.server.port}"
        cls.client = openai.OpenAI(base_url=f"{cls.url}/v1", api_key=KEY, max_retries=0)
        cls.expected = cls.client.chat.completions.create(model="tiny", messages=HI, **LONG).choices[0].message.content

    @classmethod
    def tearDownClass(cls):
        cls.server.end()


class OpenAi(Clients):
    def test_models(self):
        self.assertEqual([model.id for model in self.client.models.list()], ["tiny"])
        self.assertEqual(self.client.models.retrieve("tiny").owned_by, "shadowkv")

    def test_a_chat_whole_and_in_parts(self):
        answer = self.client.chat.completions.create(model="tiny", messages=HI, logprobs=True, top_logprobs=1, **LONG)
        self.assertEqual(answer.choices[0].message.role, "assistant")
        self.assertEqual(answer.choices[0].finish_reason, "length")
        self.assertEqual(answer.usage.completion_tokens, 8)
        self.assertEqual(len(answer.choices[0].logprobs.content), 8)
        parts = self.client.chat.completions.create(model="tiny", messages=HI, stream=True,
                                                    stream_options={"include_usage": True}, **LONG)
        text, usage = "", None
        for part in parts:
            text += "".join(choice.delta.content or "" for choice in part.choices)
            usage = part.usage or usage
        self.assertEqual(text, self.expected)
        self.assertEqual(usage.total_tokens, answer.usage.total_tokens)

    def test_structured_output(self):
        class Verdict(pydantic.BaseModel):
            verdict: bool
            judges: Literal[1, 2, 3]

        answer = self.client.chat.completions.parse(model="tiny", messages=HI, response_format=Verdict, max_tokens=300)
        self.assertIn(answer.choices[0].message.parsed.judges, (1, 2, 3))
        self.assertEqual(list(json.loads(answer.choices[0].message.content)), ["verdict", "judges"])

    def call(self, **fields):
        return self.client.chat.completions.create(model="tiny", messages=HI, tools=[WEATHER], max_tokens=300, **fields)

    def test_a_tool_is_called_and_its_result_sent_back(self):
        for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
            answer = self.call(tool_choice=choice, parallel_tool_calls=False).choices[0]
            self.assertEqual(answer.finish_reason, "tool_calls")
            (call,) = answer.message.tool_calls
            self.assertEqual(call.function.name, "get_weather")
            self.assertIn(json.loads(call.function.arguments)["city"], ("Rome", "Oslo"))
        result = {"role": "tool", "tool_call_id": call.id, "content": "21 degrees"}
        after = self.client.chat.completions.create(model="tiny", messages=[*HI, answer.message, result],
                                                    tools=[WEATHER], **LONG)
        self.assertEqual(after.usage.completion_tokens, 8)
        alone = self.client.chat.completions.create(model="tiny", messages=HI, **LONG)
        self.assertGreater(after.usage.prompt_tokens, alone.usage.prompt_tokens + 100, "the model hears of all that")

    def test_a_call_is_streamed(self):
        whole = self.call(tool_choice="required", parallel_tool_calls=False, temperature=0).choices[0]
        name, arguments, pieces, reason = None, "", 0, None
        for part in self.call(tool_choice="required", parallel_tool_calls=False, temperature=0, stream=True):
            for piece in part.choices[0].delta.tool_calls or []:
                if piece.function.name:
                    self.assertEqual(arguments, "")
                    name = piece.function.name
                    self.assertTrue(piece.id)
                arguments += piece.function.arguments
                pieces += 1
            reason = part.choices[0].finish_reason
        self.assertEqual((name, arguments), (whole.message.tool_calls[0].function.name,
                                             whole.message.tool_calls[0].function.arguments))
        self.assertEqual(reason, "tool_calls")
        self.assertGreater(pieces, 3)

    def test_a_call_of_a_pydantic_class(self):
        class Weather(pydantic.BaseModel):
            """The weather of a city."""

            city: Literal["Rome", "Oslo"]
            days: list[Literal[1, 2]] = pydantic.Field(max_length=2)

        answer = self.client.chat.completions.parse(
            model="tiny", messages=HI, tools=[openai.pydantic_function_tool(Weather)], tool_choice="required",
            parallel_tool_calls=False, max_tokens=400)
        self.assertIn(answer.choices[0].message.tool_calls[0].function.parsed_arguments.city, ("Rome", "Oslo"))

    def test_a_completion(self):
        answer = self.client.completions.create(model="tiny", prompt="Call me", n=2, seed=3, temperature=1, max_tokens=5)
        self.assertEqual(len(answer.choices), 2)
        best = self.client.completions.create(model="tiny", prompt="Call me", best_of=2, seed=3, temperature=1, max_tokens=5)
        self.assertIn(best.choices[0].text, [choice.text for choice in answer.choices])
        self.assertEqual(best.usage.total_tokens, answer.usage.total_tokens)

    def test_many_at_a_time_and_one_that_leaves(self):
        async def ask():
            client = openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=KEY, max_retries=0)
            leaving = await client.chat.completions.create(model="tiny", messages=HI, stream=True, max_tokens=3000)
            await leaving.__anext__()
            await leaving.close()
            wanted = [client.chat.completions.create(model="tiny", messages=HI, **LONG) for _ in range(16)]
            return [answer.choices[0].message.content for answer in await asyncio.gather(*wanted)]

        self.assertEqual(asyncio.run(ask()), [self.expected] * 16)

    def test_errors_are_the_clients_own(self):
        with self.assertRaisesRegex(openai.BadRequestError, "temperature"):
            self.client.chat.completions.create(model="tiny", messages=HI, temperature=5)
        with self.assertRaisesRegex(openai.NotFoundError, "other"):
            self.client.chat.completions.create(model="other", messages=HI)
        with self.assertRaises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{self.url}/v1", api_key="wrong", max_retries=0).models.list()
        with self.assertRaisesRegex(openai.BadRequestError, str(CONTEXT)):
            self.client.completions.create(model="tiny", prompt=[5] * (CONTEXT + 1))


class LangChain(Clients):
    def test_invoke_and_stream(self):
        chat = ChatOpenAI(base_url=f"{self.url}/v1", api_key=KEY, model="tiny", temperature=0, max_tokens=8,
                          extra_body={"ignore_eos": True})
        self.assertEqual(chat.invoke("Hi").content, self.expected)
        self.assertEqual("".join(part.content for part in chat.stream("Hi")), self.expected)

    def test_tools_are_called_whole_and_in_parts(self):
        chat = ChatOpenAI(base_url=f"{self.url}/v1", api_key=KEY, model="tiny", temperature=0, max_tokens=300)
        bound = chat.bind_tools([WEATHER], tool_choice="get_weather")
        (call,) = bound.invoke("Hi").tool_calls
        self.assertEqual(call["name"], "get_weather")
        self.assertIn(call["args"]["city"], ("Rome", "Oslo"))
        whole = None
        for part in bound.stream("Hi"):
            whole = part if whole is None else whole + part
        self.assertEqual(whole.tool_calls[0]["args"], call["args"])


class Curl(Clients):
    def test_a_stream(self):
        body = json.dumps({"messages": HI, "stream": True, "temperature": 0, "max_tokens": 8, "ignore_eos": True})
        done = subprocess.run(["curl", "-sN", f"{self.url}/v1/chat/completions", "-H", f"Authorization: Bearer {KEY}",
                               "-H", "Content-Type: application/json", "-d", body],
                              capture_output=True, text=True, timeout=60, check=True)
        parts = [line[len("data: "):] for line in done.stdout.splitlines() if line.startswith("data: ")]
        self.assertEqual(parts.pop(), "[DONE]")
        deltas = [json.loads(part)["choices"][0]["delta"].get("content", "") for part in parts]
        self.assertEqual("".join(deltas), self.expected)


class RawSockets(Clients):
    def send(self, data):
        """The status of the answer; none where the server just hangs up."""
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=60) as plain:
            plain.sendall(data)
            plain.shutdown(socket.SHUT_WR)
            back = b""
            with contextlib.suppress(ConnectionError):
                while part := plain.recv(65536):
                    back += part
        return int(back.split()[1]) if back else None

    def test_what_is_no_request_is_refused_and_disturbs_no_stream(self):
        stream = self.client.chat.completions.create(model="tiny", messages=HI, stream=True, temperature=0,
                                                     max_tokens=64, extra_body={"ignore_eos": True})
        pieces = [next(stream)]
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n".encode()
        for data in (b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00",
                     head + b"Content-Length: none\r\n\r\n", head + b"Content-Length: 5\r\n\r\n{\xff\xfe}}",
                     head + b"Content-Length: 4000\r\n\r\n" + b"[" * 4000,
                     head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"):
            self.assertIn(self.send(data), (None, 400, 505), data[:40])
        self.assertEqual(self.send(head + b"X: " + b"x" * (1 << 20) + b"\r\n\r\n"), 431)
        pieces += stream
        text = "".join(choice.delta.content or "" for piece in pieces for choice in piece.choices)
        alone = self.client.chat.completions.create(model="tiny", messages=HI, temperature=0, max_tokens=64,
                                                    extra_body={"ignore_eos": True})
        self.assertEqual(text, alone.choices[0].message.content)


class Description(unittest.TestCase):
    def test_the_server_does_what_its_description_says(self):
        server = Server("--quiet", "--default-max-tokens", 8, "--max-output", 16, model=SERVED)
        self.addCleanup(server.end)
        # Some requests of the right form are refused for what they mean: a model of another name, no stream for
        # its options.
        command = [str(pathlib.Path(sys.executable).parent / "schemathesis"), "run",
                   f"http://127.0.0.1:{server.port}/openapi.json", "--max-examples", "15", "--generation-deterministic",
                   "--exclude-checks", "positive_data_acceptance", "--request-timeout", "30", "--no-color"]
        with tempfile.TemporaryDirectory() as folder:  # it keeps what it found in the folder it runs in
            done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=folder)
        self.assertEqual(done.returncode, 0, done.stdout[-6000:] + done.stderr)
        self.assertEqual(server.ask("GET", "/health")[0], 200)


if __name__ == "__main__":
    unittest.main()
