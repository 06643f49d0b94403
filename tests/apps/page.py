#!/usr/bin/env python3
"""The page of `shadowkv serve`, in headless Chromium. Run by ./run test with the Python of tools/fetch_clients.sh.

    SHADOWKV_PROGRAM=build/release/shadowkv $(tools/fetch_clients.sh) tests/apps/page.py

With SHADOWKV_PAGE_IMAGES naming a folder and SHADOWKV_TEST_MODEL a model of chats, the pictures of the documents are made
there instead, with Debian's fonts-inter and fonts-jetbrains-mono and packed by its pngquant, where those are installed.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import time
import unittest

from playwright.sync_api import expect, sync_playwright

from program import PROGRAM, ROOT
from server import Server

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
IMAGES = os.environ.get("SHADOWKV_PAGE_IMAGES")
WAIT_MS = 600_000  # for what must come at last, however busy the machine is
KEY = "sesame"

HOSTILE = """<script>window.hit = 1</script> <img src=x onerror="window.hit = 2">

[run](javascript:window.hit=3) [run](JaVaScRiPt:window.hit=4) [run](data:text/html,<script>window.hit=5</script>)
[run]( javascript:window.hit=6 ) ![x](javascript:window.hit=7) <a href="javascript:window.hit=8">x</a> [x](//elsewhere.example)
[x](https://good.example/"onmouseover="window.hit=9) [run](java&#115;cript:window.hit=10) [run](vbscript:x)

| <b onclick="window.hit=11">cell</b> | [run](javascript:window.hit=12) |
|---|---|
| <iframe srcdoc="<script>parent.hit=13</script>"></iframe> | <svg onload="window.hit=14"> |

```html"><script>window.hit=15</script>
</code></pre><script>window.hit = 16</script>
```

<style>* { display: none }</style><meta http-equiv="refresh" content="0;url=https://elsewhere.example">
<form action="https://elsewhere.example"><button>x</button></form><base href="https://elsewhere.example">
"""

MARKDOWN = """# Title

A line with **bold**, *italics*, ***both***, ~~struck~~, `a * b`, snake_case_name and 2 * 3 * 4.
See [the paper](https://arxiv.org/abs/2410.21465 "title") or https://example.org/a_(b). \\*plain\\*

1. first
   - inner one
   - inner two
2. second

> quoted
> further

| name | bytes |
|:---|---:|
| `a|b` | 12 |

---

```cpp
int main() { return 1 < 2; }
```
"""

# Relative luminance of two custom properties of the page, as WCAG counts it.
CONTRAST = """(names) => {
  const probe = document.body.appendChild(document.createElement("i"));
  const light = names.map((name) => {
    probe.style.color = `var(${name})`;
    const parts = getComputedStyle(probe).color.match(/[\\d.]+/g).slice(0, 3).map((c) => c / 255);
    const linear = parts.map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  });
  probe.remove();
  return (Math.max(...light) + 0.05) / (Math.min(...light) + 0.05);
}"""


class PageTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.playwright = sync_playwright().start()
        cls.addClassCleanup(cls.playwright.stop)
        cls.chromium = cls.playwright.chromium.launch(executable_path=CHROMIUM, args=["--disable-dev-shm-usage"],
                                                      timeout=WAIT_MS)
        cls.addClassCleanup(cls.chromium.close)
        expect.set_options(timeout=WAIT_MS)

    def serve(self, *options, **fields):
        server = Server("--quiet", *options, **fields)
        self.addCleanup(server.end)
        return server

    def open(self, server, **options):
        """The page in a browser of its own; what goes wrong in its scripts fails the test."""
        context = self.chromium.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        self.addCleanup(context.close)
        page = context.new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(f"http://127.0.0.1:{server.port}/")
        return page

    def setUp(self):
        self.complaints = []
        self.addCleanup(lambda: self.assertEqual(self.complaints, []))

    def ask(self, page, text):
        page.get_by_label("Message", exact=True).fill(text)
        page.keyboard.press("Enter")

    def answered(self, page, number):
        """Text of the last of so many answers, once it is whole."""
        expect(page.locator(".message.assistant[aria-busy=false]")).to_have_count(number)
        return page.locator(".answer").last.inner_text()

    def set_settings(self, page, **fields):
        page.get_by_role("button", name="Settings").click()
        for label, value in fields.items():
            page.get_by_label(label.replace("_", " ")).fill(str(value))
        page.get_by_role("button", name="Done").click()

    def answers_with(self, page, text):
        """Lets the server seem to answer with a text."""
        events = [{"choices": [{"index": 0, "delta": {"content": part}, "finish_reason": None}]}
                  for part in re.findall(r"(?s).{1,40}", text)]
        events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
        page.route("**/v1/chat/completions", lambda route: route.fulfill(content_type="text/event-stream", body=body))

    def busy(self, server):
        """Requests that are not over."""
        states = ("waiting", "reading", "running", "paused")
        return sum(self.metrics(server)[f'shadowkv_requests{{state="{state}"}}'] for state in states)

    def metrics(self, server):
        rows = [line.rsplit(" ", 1) for line in server.ask("GET", "/metrics")[2].splitlines() if not line.startswith("#")]
        return {re.sub(r'model_name="[^"]*",?', "", name).replace("{}", ""): float(value) for name, value in rows}

    def until(self, condition):
        end = time.monotonic() + WAIT_MS / 1000
        while not condition():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.02)


@unittest.skipIf(IMAGES, "pictures are made")
class Page(PageTest):
    def test_a_conversation_goes_on_after_a_reload(self):
        server = self.serve("--served-model-name", "tiny")
        page = self.open(server)
        expect(page.locator("#status")).to_have_text("tiny")
        self.set_settings(page, Temperature=0, Longest_answer=12, System_prompt="Be brief.")
        bodies = []
        page.on("request", lambda request: bodies.append(request.post_data_json) if request.method == "POST" else None)
        self.ask(page, "Hi there")
        self.answered(page, 1)
        expect(page.locator(".facts").last).to_contain_text("12 written")
        self.ask(page, "And\nthen?")
        self.answered(page, 2)
        self.assertEqual([m["role"] for m in bodies[1]["messages"]], ["system", "user", "assistant", "user"])
        self.assertEqual((bodies[1]["temperature"], bodies[1]["max_tokens"]), (0, 12))
        whole = server.ask("POST", "/v1/chat/completions", {**bodies[1], "stream": False, "stream_options": None})[2]
        kept = page.evaluate("JSON.parse(localStorage['shadowkv.conversation.' + localStorage['shadowkv.open']])")
        self.assertEqual(kept["messages"][3]["content"], whole["choices"][0]["message"]["content"])

        before = page.locator("#messages").inner_text()
        page.reload()
        expect(page.locator(".message")).to_have_count(4)
        self.assertEqual(page.locator("#messages").inner_text(), before)
        expect(page.locator("#title")).to_have_text("Hi there")
        self.ask(page, "Once more")
        self.answered(page, 3)
        page.get_by_role("button", name="New conversation").click()
        expect(page.locator(".message")).to_have_count(0)
        self.ask(page, "Another matter")
        self.answered(page, 1)
        expect(page.locator("#list .open")).to_have_text(["Another matter", "Hi there"])
        page.locator("#list .open").nth(1).click()
        expect(page.locator(".message")).to_have_count(6)

    def test_a_server_that_ends_and_comes_back(self):
        server = Server("--quiet")
        self.addCleanup(server.end)
        page = self.open(server)
        self.set_settings(page, Longest_answer=5)
        self.ask(page, "First")
        self.answered(page, 1)
        server.end()
        expect(page.locator("#status")).to_have_text("not reachable")
        self.ask(page, "Second")
        expect(page.locator(".trouble").last).to_contain_text("cannot be reached")
        self.serve("--served-model-name", "again", port=server.port)
        expect(page.locator("#status")).to_have_text("again")
        page.get_by_role("button", name="Try again").click()
        expect(page.locator(".trouble").last).to_be_hidden()
        self.answered(page, 2)
        expect(page.locator(".message")).to_have_count(4)

    def test_escape_stops_an_answer_and_frees_it(self):
        server = self.serve("--max-running", "1")
        page = self.open(server)

        def many(route):  # sixteen long answers, one after the other, so that there is time to stop them
            body = {**route.request.post_data_json, "n": 16, "max_tokens": 3900, "ignore_eos": True}
            route.continue_(post_data=json.dumps(body))

        page.route("**/v1/chat/completions", many)
        for stop in (lambda: page.keyboard.press("Escape"), page.get_by_role("button", name="Stop the answer").click):
            before = self.metrics(server)
            page.get_by_role("button", name="New conversation").click()
            self.ask(page, "Go on and on")
            expect(page.locator(".answer.waiting").last).not_to_be_empty()
            stop()
            expect(page.get_by_text("Stopped.").last).to_be_visible()
            self.until(lambda: not self.busy(server))
            after = self.metrics(server)
            ended = {how: after[name] - before[name] for how in ("finished", "cancelled")
                     for name in [f'shadowkv_requests_ended_total{{outcome="{how}"}}']}
            self.assertEqual(sum(ended.values()), 16)
            self.assertGreater(ended["cancelled"], 0)
        expect(page.locator(".answer").last).not_to_be_empty()  # what came is kept
        page.get_by_role("button", name="New conversation").click()
        self.ask(page, "Cut by a reload")
        expect(page.locator(".answer.waiting").last).not_to_be_empty()
        page.reload()
        expect(page.get_by_text("The page was left before the answer's end.")).to_be_visible()
        self.until(lambda: not self.busy(server))

    def test_hostile_text_does_nothing(self):
        page = self.open(self.serve())
        self.answers_with(page, HOSTILE)
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.ask(page, HOSTILE)
        text = self.answered(page, 1)
        self.assertIn("<script>window.hit = 1</script>", text)
        self.assertIn("[run](javascript:window.hit=3)", text)
        for found in page.locator("#messages *").all():
            for event in ("mouseover", "focus", "load", "error"):
                found.dispatch_event(event)
        for link in page.locator(".answer a").all():
            self.assertRegex(link.get_attribute("href"), "^https://(good|elsewhere).example/")
            self.assertIsNone(link.get_attribute("onmouseover"))
        self.assertEqual(page.locator("#messages :is(script, img, iframe, svg, style, meta, form, base, object)").count(), 0)
        page.reload()
        self.answered(page, 1)
        self.assertIsNone(page.evaluate("window.hit ?? null"))
        self.assertFalse([url for url in asked if "127.0.0.1" not in url], asked)

    def test_its_policy_keeps_out_what_is_not_its_own(self):
        page = self.open(self.serve())
        page.evaluate("""() => {
          const script = document.createElement("script");
          try { script.textContent = "window.hit = 1"; document.body.append(script); } catch {}
          try { document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.hit = 2'>"); } catch {}
          try { document.body.setAttribute("onclick", "window.hit = 3"); document.body.click(); } catch {}
        }""")
        self.assertEqual(page.evaluate("fetch('http://localhost:1/').then(() => 'asked', (e) => e.name)"), "TypeError")
        self.assertIsNone(page.evaluate("window.hit ?? null"))
        self.assertEqual(page.locator("img").count(), 0)

    def test_odd_texts_are_shown_in_time(self):
        page = self.open(self.serve())
        odd = ["*a " * 20000, "[" * 50000, "`" * 3001 + "a" + "`" * 2999, "> " * 5000 + "x", "- " * 5000 + "x",
               "_a" * 30000, "|" * 20000 + "\n" + "|-" * 10000, "\n" * 50000 + "- a" + "\n" * 50000, "![](" * 20000,
               "  - a\n" * 5000, "# " + " #" * 30000, "**" * 30000, "https://" * 10000,
               "https://%%%" * 10000, "\\" * 50000, "a|b\n" + " " * 50000 + "|x", "```" + "a" * 50000 + "`",
               "# " + " " * 50000 + "\u2028x", "[x](" + " " * 50000, '[x](u "' * 10000, "https://a.b/" + ").," * 15000]
        for text in odd:
            page.unroute_all()
            self.answers_with(page, text)
            page.get_by_role("button", name="New conversation").click()
            self.ask(page, "x")
            self.answered(page, 1)
            self.assertGreater(page.locator(".answer > *").count(), 0)

    def test_markdown(self):
        page = self.open(self.serve(), permissions=["clipboard-read", "clipboard-write"])
        self.answers_with(page, MARKDOWN)
        self.ask(page, "x")
        self.answered(page, 1)
        answer = page.locator(".answer")
        for selector, texts in {
                "h3": ["Title"], "strong": ["bold", "both"], "em": ["italics", "both"], "s": ["struck"],
                "p > code": ["a * b"], "a": ["the paper", "https://example.org/a_(b)"], "ol > li > ul > li": ["inner one", "inner two"],
                "th": ["name", "bytes"], "td": ["a|b", "12"], "td.end": ["12"],
                "pre code": ["int main() { return 1 < 2; }"], ".code-head span": ["cpp"]}.items():
            expect(answer.locator(selector)).to_have_text(texts)
        expect(answer.locator("ol > li")).to_have_count(2)
        expect(answer.locator("hr")).to_have_count(1)
        expect(answer.locator("blockquote")).to_contain_text("quoted")
        expect(answer.locator("p").first).to_contain_text("snake_case_name and 2 * 3 * 4.")
        expect(answer.locator("p").first).to_contain_text("*plain*")
        answer.get_by_role("button", name="Copy").click()
        expect(answer.get_by_role("button", name="Copied")).to_be_visible()
        self.assertEqual(page.evaluate("navigator.clipboard.readText()"), "int main() { return 1 < 2; }")

    def test_a_key_is_asked_for_and_kept_for_the_tab(self):
        server = self.serve("--served-model-name", "tiny", env={"SHADOWKV_API_KEY": KEY})
        page = self.open(server)
        expect(page.locator("#status")).to_have_text("needs an API key")
        self.ask(page, "Hi")
        expect(page.locator(".trouble")).to_contain_text("a valid API key is needed")
        page.get_by_role("button", name="Enter it").click()
        page.get_by_label("API key").fill(KEY)
        page.get_by_label("Longest answer").fill("5")
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Try again").click()
        self.answered(page, 1)
        expect(page.locator("#status")).to_have_text("tiny")
        page.reload()
        expect(page.locator("#status")).to_have_text("tiny")
        self.assertNotIn(KEY, page.evaluate("JSON.stringify(localStorage)"))

    def test_conversations_are_renamed_deleted_saved_and_restored(self):
        page = self.open(self.serve())
        self.set_settings(page, Longest_answer=5)
        self.ask(page, "To be kept")
        self.answered(page, 1)
        page.locator("#list li").hover()
        page.get_by_role("button", name="Rename To be kept").click()
        page.get_by_label("Title").fill("Kept <b>well</b>")
        page.get_by_label("Title").press("Enter")
        expect(page.locator("#list .open")).to_have_text(["Kept <b>well</b>"])
        with page.expect_download() as download:
            page.get_by_role("button", name="Save to a file").click()
        before = page.locator("#messages").inner_text()
        with tempfile.TemporaryDirectory() as folder:
            kept = pathlib.Path(folder) / "kept.json"
            download.value.save_as(kept)
            page.get_by_role("button", name="Delete Kept").click()
            page.get_by_role("button", name="Keep", exact=True).click()
            expect(page.locator("#list li")).to_have_count(1)
            page.get_by_role("button", name="Delete Kept").click()
            page.get_by_role("button", name="Delete", exact=True).click()
            expect(page.locator("#list li")).to_have_count(0)
            wrong = pathlib.Path(folder) / "wrong.json"
            wrong.write_text('{"format": "shadowkv-conversations", "version": 1, "conversations": [{"id": "../x"}]}')
            page.locator("#import-file").set_input_files(wrong)
            expect(page.get_by_text("This file holds no conversations.")).to_be_visible()
            page.locator("#import-file").set_input_files(kept)
            page.locator("#list .open").click()
        expect(page.locator("#title")).to_have_text("Kept <b>well</b>")
        self.assertEqual(page.locator("#messages").inner_text(), before)

    def test_damaged_memories_of_the_browser_are_passed_over(self):
        page = self.open(self.serve())
        page.evaluate("""() => {
          localStorage["shadowkv.conversation.aa"] = "{";
          localStorage["shadowkv.conversation.bb"] = '{"id": "bb", "title": 3, "messages": []}';
          localStorage["shadowkv.settings"] = "[";
          localStorage["shadowkv.open"] = "aa";
        }""")
        page.reload()
        expect(page.locator("#empty")).to_be_visible()
        expect(page.locator("#list li")).to_have_count(0)

    def test_the_engine_is_seen(self):
        server = self.serve()
        page = self.open(server)
        self.set_settings(page, Longest_answer=40)
        self.ask(page, "Hi")
        self.answered(page, 1)
        weights = self.metrics(server)['shadowkv_device_memory_bytes{purpose="weights"}']
        expect(page.locator("#device-legend li", has_text="weights")).to_contain_text(f"{weights / 1024:.3g} KiB")
        self.assertGreater(page.locator("#device-bar div").count(), 0)
        expect(page.locator("#first")).to_contain_text(re.compile(r"\d"))
        expect(page.locator("#attended")).to_contain_text(re.compile(r"\d+ of \d+ tokens"))
        expect(page.locator("#requests")).to_have_text("0 run, 0 wait")
        expect(page.locator("#answered-plot .curve")).to_have_count(1)
        expect(page.locator("#busy-legend li")).to_have_count(4)
        expect(page.locator("#weights-read")).to_have_text(re.compile(r"^[1-9][\d.]* (B|KiB|MiB|GiB) a second$"))
        expect(page.locator("#link")).to_have_text(re.compile(r"^\d[\d.]* (B|KiB|MiB) a second$"))
        before = self.metrics(server)["shadowkv_prefix_hit_tokens_total"]
        text = "Call me Ishmael. " * 40
        for _ in range(2):  # the second conversation finds what the first left
            page.get_by_role("button", name="New conversation").click()
            self.ask(page, text)
            self.answered(page, 1)
        self.assertGreater(self.metrics(server)["shadowkv_prefix_hit_tokens_total"], before)
        expect(page.locator("#kept")).to_have_text(re.compile(r"^[1-9]\d* %$"))

    def test_a_narrow_screen(self):
        page = self.open(self.serve(), viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
        self.answers_with(page, MARKDOWN + "\n" + "x" * 300 + "\n\n```\n" + "y" * 300 + "\n```\n")
        self.ask(page, "z" * 300)
        self.answered(page, 1)
        self.assertLessEqual(page.evaluate("document.documentElement.scrollWidth"), 360)
        self.assertLessEqual(page.evaluate("document.querySelector('#log').scrollWidth"), 360)
        expect(page.locator("#engine")).to_be_hidden()
        expect(page.locator("#shelf")).to_be_hidden()
        page.get_by_role("button", name="The engine").tap()
        expect(page.locator("#engine")).to_be_in_viewport()
        page.locator("#hide-engine").tap()
        expect(page.locator("#engine")).to_be_hidden()
        page.get_by_role("button", name="Conversations", exact=True).tap()
        page.get_by_role("button", name="New conversation").tap()
        expect(page.locator("#shelf")).to_be_hidden()
        expect(page.locator(".message")).to_have_count(0)
        expect(page.get_by_label("Message", exact=True)).to_be_in_viewport()

    def test_light_and_dark_can_be_read(self):
        server = self.serve()
        grounds = []
        for scheme in ("light", "dark"):
            page = self.open(server, color_scheme=scheme)
            grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            for pair in (["--text", "--ground"], ["--quiet", "--ground"], ["--quiet", "--panel"], ["--text", "--tint"],
                         ["--on-accent", "--accent"], ["--accent", "--ground"], ["--bad", "--ground"], ["--text", "--code"]):
                self.assertGreaterEqual(page.evaluate(CONTRAST, pair), 4.5, (scheme, pair))
        self.assertNotEqual(*grounds)

    def tab_to(self, page, name):
        """Presses Tab until what has that name is reached."""
        for _ in range(40):
            page.keyboard.press("Tab")
            at = page.evaluate("""() => document.activeElement.ariaLabel || document.activeElement.labels?.[0]?.textContent ||
                                        document.activeElement.textContent""")
            if at.strip().startswith(name):
                return
        self.fail(f"Tab does not reach {name}")

    def test_the_keyboard_alone(self):
        page = self.open(self.serve())
        expect(page.get_by_label("Message", exact=True)).to_be_focused()
        self.tab_to(page, "Settings")
        page.keyboard.press("Enter")
        self.tab_to(page, "Longest answer")
        page.keyboard.type("5")
        page.keyboard.press("Escape")
        expect(page.get_by_role("button", name="Settings")).to_be_focused()
        self.tab_to(page, "Message")
        if page.evaluate("document.activeElement.id") != "prompt":  # the list of messages comes before
            self.tab_to(page, "Message")
        page.keyboard.type("One")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("two")
        page.keyboard.press("Enter")
        self.answered(page, 1)
        self.assertEqual(page.locator(".message.user .text").inner_text(), "One\ntwo")
        expect(page.locator("#spoken p")).not_to_have_count(0)
        self.tab_to(page, "Rename One")
        page.keyboard.press("Enter")
        page.keyboard.type("Renamed")
        page.keyboard.press("Enter")
        expect(page.locator("#title")).to_have_text("Renamed")
        self.tab_to(page, "Delete Renamed")
        page.keyboard.press("Enter")
        self.tab_to(page, "Delete")
        page.keyboard.press("Enter")
        expect(page.locator("#list li")).to_have_count(0)
        nameless = page.evaluate("""() => [...document.querySelectorAll("button, input, textarea, nav, aside, [role=img]")]
          .filter((one) => !one.ariaLabel && !one.labels?.length && !one.textContent.trim()).map((one) => one.outerHTML)""")
        self.assertEqual(nameless, [])


@unittest.skipUnless(IMAGES, "SHADOWKV_PAGE_IMAGES names no folder")
class Pictures(PageTest):
    """Of a real model that reads the beginning of a story while four other clients are served."""

    def test_light_and_dark(self):
        server = self.serve("--served-model-name", "SmolLM2-135M", "--exact-below", "512",
                            model=["--model", os.environ["SHADOWKV_TEST_MODEL"]])
        page = self.open(server, color_scheme="light", viewport={"width": 1240, "height": 790})
        self.set_settings(page, Temperature=0, Longest_answer=100)
        for question in ("Name three rivers of Europe.", "What is a key-value cache?"):
            self.ask(page, question)
            self.answered(page, 1)
            page.get_by_role("button", name="New conversation").click()
        story = (ROOT / "data/a_scandal_in_bohemia.txt").read_text()[:9000]
        self.set_settings(page, Longest_answer=14)
        self.ask(page, story + "\n\nWhat is the name of the woman in this story?")
        self.answered(page, 1)
        self.set_settings(page, Longest_answer=110)
        self.ask(page, "Write a Python function that adds two numbers.")
        self.answered(page, 2)
        load = subprocess.Popen([PROGRAM, "bench", "serve", "--url", f"http://127.0.0.1:{server.port}", "--requests", "2000",
                                 "--max-concurrency", "4", "--prompt-tokens", "520,640", "--new-tokens", "100,200"],
                                stdout=subprocess.DEVNULL)
        self.addCleanup(load.wait)
        self.addCleanup(load.kill)
        self.until(lambda: page.locator("#requests-plot .curve").first.get_attribute("d").count("L") > 70)
        self.until(lambda: page.locator("#requests").inner_text().startswith(("3", "4")))
        pathlib.Path(IMAGES).mkdir(parents=True, exist_ok=True)
        for scheme in ("light", "dark"):
            picture = pathlib.Path(IMAGES) / f"page-{scheme}.png"
            page.emulate_media(color_scheme=scheme)
            page.screenshot(path=picture)
            if shutil.which("pngquant"):
                subprocess.run(["pngquant", "--force", "--output", picture, picture], check=True)


if __name__ == "__main__":
    unittest.main()
