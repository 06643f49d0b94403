#!/usr/bin/env python3
"""`shadowkv serve`, over real sockets."""

import concurrent.futures
import contextlib
import http.client
import json
import re
import signal
import socket
import subprocess
import time
import unittest

from program import MODEL, PROGRAM, ROOT, ProgramTest
from server import CLOCK, GREEDY, PATIENCE, PROMPT, Server, events


class Serve(ProgramTest):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--served-model-name", "tiny", "--max-body", "1M", "--request-timeout", "2")

    @classmethod
    def tearDownClass(cls):
        cls.server.end()

    def post(self, path, body, status=200):
        got, answer, parsed = self.server.ask("POST", path, body)
        self.assertEqual(got, status, parsed)
        self.assertTrue(answer.getheader("x-request-id"))
        return parsed

    def complete(self, status=200, **fields):
        return self.post("/v1/completions", {"prompt": PROMPT, **GREEDY, **fields}, status)

    def chat(self, status=200, **fields):
        messages = [{"role": "user", "content": "Hi"}]
        return self.post("/v1/chat/completions", {"messages": messages, **GREEDY, **fields}, status)

    def refused(self, path, body, part, status=400, param=None):
        error = self.post(path, body, status)["error"]
        self.assertIn(part, error["message"])
        self.assertEqual(error["type"], "invalid_request_error")
        if param:
            self.assertEqual(error["param"], param)

    # ---- answers

    def test_a_completion_is_what_generate_answers(self):
        alone = self.succeed("generate", *MODEL, "-n", "12", "--ignore-eos", PROMPT).text[:-1]
        answer = self.complete()
        self.assertEqual(answer["choices"][0]["text"], alone)
        self.assertEqual(answer["choices"][0]["finish_reason"], "length")
        self.assertEqual((answer["object"], answer["model"]), ("text_completion", "tiny"))
        tokens = len(self.succeed("tokenize", *MODEL, PROMPT).text.split())
        self.assertEqual(answer["usage"]["prompt_tokens"], tokens)
        self.assertEqual(answer["usage"]["completion_tokens"], 12)
        self.assertEqual(self.complete(echo=True)["choices"][0]["text"], PROMPT + alone)

    def test_a_chat_is_what_generate_answers(self):
        alone = self.succeed("generate", *MODEL, "-n", "12", "--ignore-eos", "--chat", "Hi").text[:-1]
        answer = self.chat()
        message = answer["choices"][0]["message"]
        self.assertEqual((message["role"], message["content"]), ("assistant", alone))
        self.assertEqual(answer["object"], "chat.completion")
        parts = [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]
        self.assertEqual(self.chat(messages=parts)["choices"][0]["message"]["content"], alone)
        self.assertEqual(self.chat(max_tokens=None, max_completion_tokens=3)["usage"]["completion_tokens"], 3)

    def test_a_stream_is_the_whole_in_parts(self):
        whole = self.chat()["choices"][0]["message"]["content"]
        stream = events(self.chat(stream=True, stream_options={"include_usage": True}))
        self.assertEqual(stream[0]["choices"][0]["delta"]["role"], "assistant")
        self.assertEqual({e["object"] for e in stream}, {"chat.completion.chunk"})
        self.assertEqual(len({e["id"] for e in stream}), 1)
        texts = [e["choices"][0]["delta"].get("content", "") for e in stream if e["choices"]]
        self.assertEqual("".join(texts), whole)
        self.assertEqual(stream[-2]["choices"][0]["finish_reason"], "length")
        self.assertEqual((stream[-1]["choices"], stream[-1]["usage"]["completion_tokens"]), ([], 12))
        text = "".join(e["choices"][0]["text"] for e in events(self.complete(stream=True)))
        self.assertEqual(text, self.complete()["choices"][0]["text"])

    def test_several_answers_differ_and_their_seed_repeats_them(self):
        drawn = {"n": 3, "temperature": 1, "seed": 7}
        first = [c["text"] for c in self.complete(**drawn)["choices"]]
        self.assertEqual(len(set(first)), 3)
        self.assertEqual(first, [c["text"] for c in self.complete(**drawn)["choices"]])
        stream = events(self.complete(stream=True, **drawn))
        for i in range(3):
            of_one = [e["choices"][0]["text"] for e in stream if e["choices"][0]["index"] == i]
            self.assertEqual("".join(of_one), first[i])
        answer = self.complete(prompt=[PROMPT, "x"], n=2)
        self.assertEqual([c["index"] for c in answer["choices"]], [0, 1, 2, 3])
        self.assertEqual(answer["choices"][0]["text"], answer["choices"][1]["text"])

    def test_the_best_of_several_answers_is_the_likeliest_by_token(self):
        drawn = {"n": 4, "temperature": 1, "seed": 7, "ignore_eos": False, "max_tokens": 30}
        made = self.complete(logprobs=0, **drawn)
        scores = [sum(c["logprobs"]["token_logprobs"]) / len(c["logprobs"]["token_logprobs"]) for c in made["choices"]]
        ranked = [made["choices"][i]["text"] for i in sorted(range(4), key=lambda i: -scores[i])]
        self.assertEqual(len(set(ranked)), 4)
        for n in (1, 2, 4):
            best = self.complete(**{**drawn, "n": n, "best_of": 4})
            expected = ranked[:n] if n < 4 else [c["text"] for c in made["choices"]]
            self.assertEqual([c["text"] for c in best["choices"]], expected)
            self.assertEqual([(c["index"], c["logprobs"]) for c in best["choices"]], [(i, None) for i in range(n)])
            self.assertEqual(best["usage"], made["usage"], "what was made counts, shown or not")
        self.refused("/v1/completions", {"prompt": "x", "best_of": 2, "stream": True}, "stream", param="best_of")
        self.refused("/v1/completions", {"prompt": "x", "best_of": 2, "n": 3}, "n = 3", param="best_of")
        self.refused("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "best_of": 2},
                     "not supported", param="best_of")

    def test_a_stop_text_ends_the_answer_and_is_not_shown(self):
        whole = self.complete(max_tokens=40)["choices"][0]["text"]
        stop = whole[5:7]
        cut = self.complete(max_tokens=40, stop=stop)["choices"][0]
        self.assertEqual((cut["text"], cut["finish_reason"]), (whole[: whole.index(stop)], "stop"))
        stream = events(self.complete(max_tokens=40, stop=[stop], stream=True))
        self.assertEqual("".join(e["choices"][0]["text"] for e in stream), cut["text"])

    def test_an_answer_takes_the_form_that_it_must(self):
        schema = {"type": "object", "properties": {"yes": {"type": "boolean"}, "n": {"enum": [1, 2, 3]}},
                  "required": ["yes", "n"], "additionalProperties": False}
        wanted = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
                  "ignore_eos": False, "max_tokens": 200, "temperature": 1}
        for seed in range(5):
            answer = self.chat(seed=seed, **wanted)["choices"][0]
            value = json.loads(answer["message"]["content"])
            self.assertEqual((set(value), value["n"] in (1, 2, 3), type(value["yes"])), ({"yes", "n"}, True, bool))
            self.assertEqual(answer["finish_reason"], "stop")
        text = self.chat(response_format={"type": "json_object"}, ignore_eos=False)["choices"][0]["message"]["content"]
        self.assertEqual(text.lstrip()[0], "{")
        for form, part in [({"type": "xml"}, "json_object"), ({"type": "json_schema"}, "schema is missing"),
                           ({"type": "json_schema", "json_schema": {"schema": {"type": "thing"}}}, "thing")]:
            self.refused("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}],
                                                  "response_format": form}, part)

    def test_members_come_in_the_order_of_the_schema(self):
        names = ["zeta", "alpha", "mid", "beta"]
        schema = {"type": "object", "properties": {name: {"type": "boolean"} for name in names}, "required": names}
        answer = self.chat(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
                           ignore_eos=False, max_tokens=400)
        self.assertEqual(list(json.loads(answer["choices"][0]["message"]["content"])), names)

    def test_objects_of_many_members_are_refused_or_read_in_time(self):
        many = {f"m{i}": {} for i in range(100_000)}
        ask = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
        form = {"type": "json_schema", "json_schema": {"schema": {"type": "object", "properties": many}}}
        arguments = json.dumps(many)
        calls = [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}]
        server = Server("--quiet")  # whose bodies may be large
        self.addCleanup(server.end)
        for fields, status in [({"response_format": form}, 400), ({"logit_bias": many}, 400), (many, 200),
                               ({"chat_template_kwargs": many}, 400),
                               ({"response_format": form, "tools": [CLOCK]}, 400),
                               ({"tools": [{"function": {"name": "f", "strict": True, "parameters": many}}]}, 400),
                               ({"messages": ask["messages"] + calls}, 400)]:
            begun = time.monotonic()
            got, _, answer = server.ask("POST", "/v1/chat/completions", {**ask, **fields})
            self.assertEqual(got, status, answer)
            self.assertLess(time.monotonic() - begun, 20 * PATIENCE)

    def test_log_probabilities_come_with_each_token(self):
        scored = self.chat(logprobs=True, top_logprobs=2, max_tokens=4)["choices"][0]["logprobs"]["content"]
        self.assertEqual(len(scored), 4)
        for entry in scored:
            self.assertEqual(len(entry["top_logprobs"]), 2)
            self.assertLessEqual(entry["logprob"], 0)
            self.assertEqual(entry["logprob"], entry["top_logprobs"][0]["logprob"], "greedy takes the likeliest")
        flat = self.complete(logprobs=1, max_tokens=4)["choices"][0]["logprobs"]
        self.assertEqual(len(flat["tokens"]), 4)
        self.assertEqual(len(flat["token_logprobs"]), 4)

    def test_many_clients_get_what_each_gets_alone(self):
        prompts = [f"{PROMPT} {i}" for i in range(24)]
        alone = [self.complete(prompt=p)["choices"][0]["text"] for p in prompts]
        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            together = list(pool.map(lambda p: self.complete(prompt=p)["choices"][0]["text"], prompts))
        self.assertEqual(together, alone)

    def test_texts_and_ids(self):
        ids = [int(i) for i in self.succeed("tokenize", *MODEL, PROMPT).text.split()]
        answer = self.post("/tokenize", {"prompt": PROMPT})
        self.assertEqual((answer["tokens"], answer["count"]), (ids, len(ids)))
        self.assertEqual(answer["max_model_len"], 4096)
        self.assertEqual(self.post("/tokenize", {"content": PROMPT})["tokens"], ids)
        self.assertEqual(self.post("/detokenize", {"tokens": ids})["prompt"], PROMPT)
        self.assertEqual(self.complete(prompt=ids)["choices"], self.complete()["choices"])
        chat = self.post("/tokenize", {"messages": [{"role": "user", "content": "Hi"}]})
        self.assertEqual(chat["count"], self.chat()["usage"]["prompt_tokens"])

    # ---- facts

    def test_facts_of_model_and_server(self):
        _, _, models = self.server.ask("GET", "/v1/models")
        self.assertEqual([m["id"] for m in models["data"]], ["tiny"])
        self.assertEqual(self.server.ask("GET", "/v1/models/tiny")[2]["max_model_len"], 4096)
        self.assertEqual(self.server.ask("GET", "/v1/models/other")[0], 404)
        self.assertEqual(self.server.ask("GET", "/health")[2], {"status": "ok"})
        self.assertIn("version", self.server.ask("GET", "/version")[2])
        described = self.server.ask("GET", "/openapi.json")[2]
        self.assertIn("/v1/chat/completions", described["paths"])
        for path, methods in described["paths"].items():
            for method in methods:
                status, _, _ = self.server.ask(method.upper(), path.replace("{model}", "tiny"), "{}" if method == "post" else None)
                self.assertIn(str(status), methods[method]["responses"], (method, path))

    def test_the_page_comes_under_a_policy_of_its_own_and_without_a_key(self):
        nonces = set()
        server = Server("--quiet", env={"SHADOWKV_API_KEY": "sesame"})
        self.addCleanup(server.end)
        for _ in range(2):
            status, answer, page = server.ask("GET", "/")
            self.assertEqual((status, answer.getheader("Content-Type")), (200, "text/html; charset=utf-8"))
            nonce, = re.findall(r"script-src 'nonce-([0-9a-f]{48})'", answer.getheader("Content-Security-Policy"))
            self.assertIn(f'<script nonce="{nonce}">', page)
            self.assertEqual(answer.getheader("X-Content-Type-Options"), "nosniff")
            self.assertEqual(answer.getheader("Referrer-Policy"), "no-referrer")
            nonces.add(nonce)
        self.assertEqual(len(nonces), 2)
        self.assertEqual(server.ask("HEAD", "/")[0], 200)
        self.assertEqual(server.ask("POST", "/", "{}")[0], 405)

    def test_metrics_count_what_was_answered(self):
        def counts():
            text = self.server.ask("GET", "/metrics")[2]
            rows = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
            return {name.replace('model_name="tiny"', ""): float(value) for name, value in rows}

        before = counts()
        self.complete()
        after = counts()
        self.assertEqual(after['vllm:generation_tokens_total{,engine="0"}']
                         - before['vllm:generation_tokens_total{,engine="0"}'], 12)
        self.assertEqual(after["shadowkv_time_to_first_token_seconds_count{}"]
                         - before["shadowkv_time_to_first_token_seconds_count{}"], 1)
        self.assertEqual(after['shadowkv_requests{,state="running"}'], 0)
        last = {}
        for name, value in after.items():  # buckets only grow
            if "_bucket{" in name:
                histogram = name.split("_bucket{")[0]
                self.assertGreaterEqual(value, last.get(histogram, 0), name)
                last[histogram] = value
        self.assertGreater(len(last), 10)

    def test_metrics_tell_how_requests_ended_and_how_long_they_took(self):
        server = Server("--quiet")
        self.addCleanup(server.end)

        def values():
            text = server.ask("GET", "/metrics")[2].replace('model_name="f32",engine="0"', "")
            rows = [line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("vllm:")]
            return {name.removeprefix("vllm:"): float(value) for name, value in rows}

        def ended():
            return [values()[f'request_success_total{{,finished_reason="{reason}"}}']
                    for reason in ("stop", "length", "abort", "error")]

        self.assertEqual(ended(), [0, 0, 0, 0])
        begun = time.monotonic()
        whole = server.ask("POST", "/v1/completions", {"prompt": PROMPT, **GREEDY})[2]
        stop = whole["choices"][0]["text"][5:7]
        server.ask("POST", "/v1/completions", {"prompt": [5] * 30, **GREEDY, "n": 2, "stream": True})
        cut = server.ask("POST", "/v1/completions", {"prompt": PROMPT, **GREEDY, "stop": stop})[2]
        took = time.monotonic() - begun
        self.assertEqual(ended(), [1, 3, 0, 0], "each of several answers is a request")
        now = values()
        prompt = whole["usage"]["prompt_tokens"]
        sums = {"request_prompt_tokens": 2 * prompt + 60,
                "request_generation_tokens": 36 + cut["usage"]["completion_tokens"]}
        for name, value in sums.items():
            self.assertEqual((now[name + "_sum{}"], now[name + "_count{}"]), (value, 4), name)
        self.assertEqual(now['request_generation_tokens_bucket{,le="10"}'],
                         1 if cut["usage"]["completion_tokens"] <= 10 else 0)

        def seconds(name):
            self.assertEqual(now[name + "_seconds_count{}"], 4)
            return now[name + "_seconds_sum{}"]

        whole_s, inference = seconds("e2e_request_latency"), seconds("request_inference_time")
        self.assertGreater(whole_s, 0)
        self.assertLess(whole_s, 2 * took, "at most two at a time")
        self.assertAlmostEqual(whole_s, seconds("request_queue_time") + inference)
        self.assertAlmostEqual(inference, seconds("request_prefill_time") + seconds("request_decode_time"))
        self.assertGreater(seconds("request_time_per_output_token"), 0)

        body = json.dumps({"prompt": PROMPT, "max_tokens": 4000, "ignore_eos": True, "stream": True}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
            client.sendall(head + body)
            self.assertIn(b"200 OK", client.recv(4096))
        until = time.monotonic() + 20 * PATIENCE
        while ended() != [1, 3, 1, 0] and time.monotonic() < until:
            time.sleep(0.05)
        self.assertEqual(ended(), [1, 3, 1, 0], "who leaves is counted, too")
        self.assertEqual(values()["e2e_request_latency_seconds_count{}"], 4, "without its time")

    def test_the_dashboard_shows_what_is_exported(self):
        metric = r"(?:shadowkv_|vllm:)\w+"
        dashboard = json.loads((ROOT / "examples/deploy/grafana.json").read_text())
        targets = [target for panel in dashboard["panels"] for target in panel["targets"]]
        text = self.server.ask("GET", "/metrics")[2]
        exported = {}
        for line in text.splitlines():
            if not line.startswith("#"):
                exported.setdefault(line.split("{")[0], []).append(line)
        shown = set()
        for target in targets:
            expression = target["expr"]
            self.assertEqual(expression.count("("), expression.count(")"))
            names = re.findall(metric, expression)
            self.assertTrue(names, expression)
            for name in names:
                self.assertIn(name, exported, expression)
            for label, value in re.findall(r'(\w+)="(\w+)"', expression):
                self.assertTrue(any(f'{label}="{value}"' in line for name in names for line in exported[name]), expression)
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                self.assertTrue(all(f'{label}="' in line for line in exported[names[0]]), target)
            shown |= {re.sub("_(bucket|sum|count)$", "", name) for name in names}
        declared = dict(re.findall(r"^# TYPE (shadowkv_\w+) (\w+)$", text, re.MULTILINE))
        self.assertGreater(len(declared), 40)
        left_out = {name for name in declared if name not in shown}
        self.assertEqual(left_out, {"shadowkv_cache_config_info"}, "which does not change")

    def test_the_guide_names_what_is_exported(self):
        guide = (ROOT / "docs/SERVING.md").read_text()
        named = set(re.findall(r"`(?:\.\.\.|shadowkv)(_\w+)`", guide))
        declared = re.findall(r"^# TYPE shadowkv(_\w+) ", self.server.ask("GET", "/metrics")[2], re.MULTILINE)
        self.assertLessEqual(named, set(declared))
        rest = {name for name in set(declared) - named if f"`{name[1:]}`" not in guide}
        self.assertFalse(rest)

    def test_panels_of_the_dashboard_lie_side_by_side(self):
        panels = json.loads((ROOT / "examples/deploy/grafana.json").read_text())["panels"]
        self.assertEqual(len({panel["id"] for panel in panels}), len(panels))
        places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
        self.assertEqual(len(set(places)), len(places))
        self.assertTrue(all(x in (0, 12) and y % 8 == 0 for x, y in places), places)

    def test_a_clients_request_id_comes_back(self):
        _, answer, _ = self.server.ask("GET", "/health", headers={"x-request-id": "abc-1"})
        self.assertEqual(answer.getheader("x-request-id"), "abc-1")

    # ---- refusals

    def test_refusals_name_the_field(self):
        for field, value, part in [("temperature", 3, "from 0 to 2"), ("temperature", "hot", "must be a number"),
                                   ("top_p", 0, "(0, 1]"), ("n", 0, "from 1 to"), ("n", 2.5, "whole number"),
                                   ("stream", 1, "true or false"), ("max_tokens", 0, "from 1"),
                                   ("stop", 5, "string or a list"), ("seed", "x", "whole number"),
                                   ("logit_bias", {"x": 1}, "no token id"), ("suffix", "x", "not supported"),
                                   ("include_stop_str_in_output", True, "not supported"),
                                   ("return_token_ids", True, "not supported"),
                                   ("skip_special_tokens", False, "not supported"),
                                   ("skip_special_tokens", 1, "true or false")]:
            with self.subTest(field=field, value=value):
                self.refused("/v1/completions", {"prompt": "x", field: value}, part)
        self.complete(skip_special_tokens=True, include_stop_str_in_output=False, return_token_ids=None)  # as it is
        self.refused("/v1/completions", {}, "prompt is missing", param="prompt")
        self.refused("/v1/completions", {"prompt": [1, "x"]}, "token ids")
        self.refused("/v1/completions", {"prompt": [10**6]}, "vocabulary")
        self.refused("/v1/completions", {"prompt": ""}, "empty")
        self.refused("/v1/chat/completions", {"messages": []}, "messages", param="messages")
        self.refused("/v1/chat/completions", {"messages": [{"content": "x"}]}, "messages[0].role")
        self.refused("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
                     "only text")
        self.refused("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "top_logprobs": 3},
                     "logprobs is not true")
        self.refused("/v1/completions", {"prompt": "x", "model": "other"}, "is served", status=404, param="model")

    def test_a_context_that_is_too_long_is_refused_with_both_numbers(self):
        error = self.complete(prompt=[5] * 5000, status=400)["error"]
        self.assertIn("5000", error["message"])
        self.assertIn("4096", error["message"])

    def test_limits_are_options(self):
        server = Server("--quiet", "--max-prompt", 8, "--max-output", 4, "--max-header", "2K")
        self.addCleanup(server.end)
        for fields, param, parts in [({"prompt": [5] * 9}, "prompt", ("9 tokens", "8")),
                                     ({"prompt": [5], "max_tokens": 5}, "max_tokens", ("5", "from 1 to 4"))]:
            status, _, answer = server.ask("POST", "/v1/completions", fields)
            self.assertEqual((status, answer["error"]["param"]), (400, param))
            for part in parts:
                self.assertIn(part, answer["error"]["message"])
        usage = server.ask("POST", "/v1/completions", {"prompt": [5] * 8, "ignore_eos": True})[2]["usage"]
        self.assertEqual((usage["prompt_tokens"], usage["completion_tokens"]), (8, 4))
        chat = {"messages": [{"role": "user", "content": "x" * 100}]}
        self.assertEqual(server.ask("POST", "/v1/chat/completions", chat)[2]["error"]["param"], "messages")
        self.assertEqual(server.ask("GET", "/health", headers={"x": "y" * 3000})[0], 431)

    def test_what_is_no_json_is_refused_with_the_place(self):
        for body, part in [("{", "line 1"), (b"\xff\xfe", "line 1"), ("[1]", "object"), ("[" * 500, "deep"), ("", "line 1")]:
            with self.subTest(body=body):
                error = self.post("/v1/completions", body, 400)["error"]
                self.assertIn(part, error["message"])

    def test_other_paths_and_methods_are_refused(self):
        self.assertEqual(self.server.ask("GET", "/nothing")[0], 404)
        self.assertEqual(self.server.ask("GET", "/v1/completions")[0], 405)
        self.assertEqual(self.server.ask("DELETE", "/v1/models")[0], 405)

    # ---- hostile clients

    def test_what_is_no_http_ends_its_connection_alone(self):
        for data, part in [(b"NONSENSE\r\n\r\n", "400"), (b"GET / HTTP/9.9\r\n\r\n", "400"),
                           (b"POST /v1/completions HTTP/1.1\r\nContent-Length: -5\r\n\r\n", "400"),
                           (b"GET / HTTP/1.1\r\nx: " + b"y" * 100_000 + b"\r\n\r\n", "431"),
                           (b"POST / HTTP/1.1\r\nContent-Length: 2000000\r\n\r\n" + b"x" * 2_000_000, "413")]:
            with self.subTest(data=data[:40]):
                back = self.server.raw(data)
                self.assertTrue(back.startswith(f"HTTP/1.1 {part} "), back[:80])
                self.assertIn('"error"', back)
        self.assertEqual(self.server.ask("GET", "/health")[0], 200)

    def test_a_slow_request_is_dropped_in_time(self):
        begun = time.monotonic()
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=30) as slow:
            slow.sendall(b"POST /v1/completions HTTP/1.1\r\n")
            for _ in range(20):
                try:
                    slow.sendall(b"x-a: b\r\n")
                except OSError:
                    break
                time.sleep(0.3)
            slow.settimeout(10)
            with contextlib.suppress(ConnectionError):
                self.assertEqual(slow.recv(1), b"")
        self.assertLess(time.monotonic() - begun, 20)

    def test_requests_in_one_go_are_answered_in_order(self):
        one = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
        last = b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        back = self.server.raw(one * 3 + last)
        self.assertEqual(back.count("HTTP/1.1 200"), 4)
        self.assertIn("version", back.rsplit("HTTP/1.1", 1)[1])

    def test_a_client_that_leaves_gives_everything_back(self):
        body = json.dumps({"prompt": PROMPT, "max_tokens": 4000, "ignore_eos": True, "stream": True}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=30) as client:
            client.sendall(head + body)
            self.assertIn(b"200 OK", client.recv(4096))
        until = time.monotonic() + 20
        while self.server.busy() > 0 and time.monotonic() < until:
            time.sleep(0.05)
        self.assertEqual(self.server.busy(), 0)


class Ends(ProgramTest):
    def test_it_says_that_it_loads_and_ends_when_told(self):
        command = [PROGRAM, "serve", "--shape", "smollm2-135m", "--port", "0", "--host", "127.0.0.1"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=120)
        self.assertIn(process.returncode, (130, -signal.SIGTERM), out)

    def test_answers_that_began_are_finished_and_others_refused(self):
        server = Server("--quiet")
        body = {"prompt": PROMPT, "max_tokens": 3000, "ignore_eos": True, "temperature": 0}
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            answer = pool.submit(server.ask, "POST", "/v1/completions", body)
            while "num_requests_running{model_name=\"f32\",engine=\"0\"} 1" not in server.ask("GET", "/metrics")[2]:
                time.sleep(0.01)
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
            if not answer.done():
                self.assertEqual(server.ask("GET", "/health")[0], 503)
                self.assertEqual(server.ask("POST", "/v1/completions", {"prompt": "x"})[0], 503)
            self.assertEqual(answer.result()[2]["usage"]["completion_tokens"], 3000)
        code, errors = server.end(None)
        self.assertEqual(code, 0, errors)
        self.assertIn("ending: 1 ", errors)

    def test_the_same_signal_again_cuts_what_is_left(self):
        for signum in (signal.SIGTERM, signal.SIGINT):
            server = Server("--quiet")
            body = {"prompt": PROMPT, "max_tokens": 4000, "n": 16, "ignore_eos": True, "temperature": 0}  # some seconds
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                answer = pool.submit(server.ask, "POST", "/v1/completions", body)
                while server.busy() == 0:
                    time.sleep(0.01)
                server.process.send_signal(signum)
                while server.ask("GET", "/health")[0] != 503:
                    time.sleep(0.01)
                self.assertEqual(server.end(signum)[0], -signum)
                self.assertIsInstance(answer.exception(), (ConnectionError, http.client.HTTPException))

    def test_each_request_is_a_line_without_its_texts(self):
        server = Server()
        self.assertEqual(server.ask("POST", "/v1/completions", {"prompt": PROMPT, **GREEDY})[0], 200)
        code, errors = server.end()
        self.assertEqual(code, 0, errors)
        line = json.loads(next(line for line in errors.splitlines() if line.startswith("{")))
        self.assertEqual((line["path"], line["status"], line["new_tokens"]), ("/v1/completions", 200, 12))
        self.assertEqual(line["outcome"], "length")
        self.assertNotIn("Ishmael", errors)

    def test_too_many_that_wait_are_told_to_come_again(self):
        server = Server("--max-running", "1", "--max-waiting", "1", "--quiet")
        self.addCleanup(server.end)
        body = {"prompt": PROMPT, "max_tokens": 3000, "ignore_eos": True}
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda _: server.ask("POST", "/v1/completions", body), range(6)))
        by_status = sorted(status for status, _, _ in answers)
        self.assertEqual(by_status[0], 200)
        self.assertEqual(by_status[-1], 429)
        busy = next(answer for status, answer, _ in answers if status == 429)
        self.assertEqual(busy.getheader("Retry-After"), "5")


if __name__ == "__main__":
    unittest.main()
