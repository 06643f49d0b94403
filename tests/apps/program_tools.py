#!/usr/bin/env python3
"""Tools in the answers of `shadowkv serve`: a model of noise calls them as it must."""

import json
import unittest

from program import MODEL, ProgramTest
from server import CLOCK, Server, events

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather of a city", "parameters": {
        "type": "object", "properties": {"unit": {"enum": ["celsius", "kelvin"]}, "city": {"$ref": "#/$defs/city"}},
        "required": ["unit", "city"], "$defs": {"city": {"enum": ["Rome", "Oslo"]}}}}}


def heard(stream):
    """Content, calls and the reason of the end that a client puts together of a stream."""
    content, calls, reason = "", [], None
    for event in stream:
        choice = event["choices"][0]
        content += choice["delta"].get("content") or ""
        for piece in choice["delta"].get("tool_calls", []):
            if piece["index"] == len(calls):
                calls.append([piece["function"]["name"], ""])
            calls[piece["index"]][1] += piece["function"]["arguments"]
        reason = choice["finish_reason"]
    return content, calls, reason


class Tools(ProgramTest):
    """A model of noise calls tools as it must, whatever its family's format."""

    def chat(self, server, status=200, **fields):
        body = {"messages": [{"role": "user", "content": "Hi"}], "tools": [WEATHER, CLOCK], "temperature": 1,
                "max_tokens": 300, "seed": 1, **fields}
        got, _, answer = server.ask("POST", "/v1/chat/completions", body)
        self.assertEqual(got, status, answer)
        return answer

    def check_arguments(self, name, text):
        arguments = json.loads(text)
        if name == "clock":
            return self.assertEqual(arguments, {})
        self.assertEqual(list(arguments), ["unit", "city"], "in the schema's order")
        self.assertIn(arguments["unit"], ("celsius", "kelvin"))
        self.assertIn(arguments["city"], ("Rome", "Oslo"))

    def check_server(self, server):
        for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
            for seed in range(3):
                fields = {"tool_choice": choice, "seed": seed, "parallel_tool_calls": False}
                answer = self.chat(server, **fields)["choices"][0]
                self.assertEqual((answer["finish_reason"], answer["message"]["content"]), ("tool_calls", None))
                (call,) = answer["message"]["tool_calls"]
                name, arguments = call["function"]["name"], call["function"]["arguments"]
                self.assertIn(name, ["get_weather"] if isinstance(choice, dict) else ["get_weather", "clock"])
                self.check_arguments(name, arguments)
                stream = events(self.chat(server, stream=True, **fields))
                self.assertEqual(heard(stream), ("", [[name, arguments]], "tool_calls"))

    def test_calls_are_valid_in_every_format(self):
        for form in ("hermes", "llama", "mistral", "glm"):
            with self.subTest(form=form):
                server = Server("--quiet", "--tool-format", form)
                self.addCleanup(server.end)
                self.check_server(server)

    def test_several_calls_and_none(self):
        server = Server("--quiet")
        self.addCleanup(server.end)
        several = [self.chat(server, tool_choice="required", seed=seed)["choices"][0] for seed in range(8)]
        for answer in several:
            for call in answer["message"].get("tool_calls", []):
                self.check_arguments(call["function"]["name"], call["function"]["arguments"])
        self.assertGreater(max(len(answer["message"]["tool_calls"]) for answer in several), 1)
        for fields in ({}, {"tool_choice": "none"}, {"tool_choice": "auto"}):  # noise is no call
            answer = self.chat(server, ignore_eos=True, max_tokens=20, **fields)["choices"][0]
            self.assertNotIn("tool_calls", answer["message"])
            self.assertNotEqual(answer["message"]["content"], "")
            self.assertEqual(answer["finish_reason"], "length")

    def test_tools_calls_and_results_reach_the_template_in_their_order(self):
        source = "{{ tools | tojson }}|{% for m in messages %}{{ m.tool_calls[0].function.arguments | tojson " \
                 "if m.tool_calls else m.role + m.content }}|{% endfor %}"
        server = Server("--quiet", "--chat-template", self.write("all.jinja", source))
        self.addCleanup(server.end)
        arguments = {"unit": "celsius", "city": "Rome"}
        messages = [{"role": "user", "content": "x"},
                    {"role": "assistant", "content": None, "tool_calls": [
                        {"id": "1", "type": "function",
                         "function": {"name": "get_weather", "arguments": json.dumps(arguments)}}]},
                    {"role": "tool", "tool_call_id": "1", "content": "21"}]
        ids = server.ask("POST", "/tokenize", {"messages": messages, "tools": [WEATHER]})[2]["tokens"]
        prompt = server.ask("POST", "/detokenize", {"tokens": ids})[2]["prompt"]
        self.assertEqual(prompt, f"{json.dumps([WEATHER])}|userx|{json.dumps(arguments)}|tool21|")

    def test_refusals_name_the_field(self):
        server = Server("--quiet")
        self.addCleanup(server.end)
        odd = {"type": "function", "function": {"name": "odd", "parameters": {"type": "object", "not": {}}}}
        for fields, part in [({"tools": [{"type": "search"}]}, "tools[0].type"),
                             ({"tool_choice": {"function": {"name": "go"}}}, "none of the tools"),
                             ({"tool_choice": "required", "tools": [odd]}, '"not" is not supported'),
                             ({"tool_choice": "required", "ignore_eos": True}, "ignore-eos")]:
            self.assertIn(part, self.chat(server, status=400, **fields)["error"]["message"])
        for text in ({"prompt": "x"}, {"messages": [{"role": "user", "content": "x"}]}):
            status, _, answer = server.ask("POST", "/tokenize", {**text, "tools": [{"function": {"name": "é"}}]})
            self.assertEqual((status, answer["error"]["param"]), (400, "tools[0].function.name"))
        self.chat(server, tools=[odd], max_tokens=1)  # which nobody has to call
        self.refuse("serve", *MODEL, "--tool-format", "other", says=["other", "hermes"])


if __name__ == "__main__":
    unittest.main()
