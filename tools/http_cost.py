#!/usr/bin/env python3
"""What HTTP costs: processor seconds of a server's own threads for HTTP beside those of the whole server, under
`shadowkv bench serve`.

    python3 tools/http_cost.py --program build/release/shadowkv --model MODEL

Processor seconds hardly change with what else the machine does, unlike times. The threads for HTTP are the first that
the server begins, before it loads the model: two handlers and the one of all sockets. For Linux.
"""

import argparse
import json
import pathlib
import signal
import subprocess

HTTP_THREADS = 3


def seconds_by_thread(pid: int) -> dict:
    """Processor seconds of every thread of a process, by its id, oldest first."""
    found = {}
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        found[int(task.name)] = int((task / "schedstat").read_text().split()[0]) / 1e9
    return dict(sorted(found.items()))


def measure(options) -> dict:
    server = subprocess.Popen([options.program, "serve", "--model", options.model, "--port", "0", "--quiet"],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        url = server.stdout.readline().split(" at ")[1].strip()
        before = seconds_by_thread(server.pid)
        load = [options.program, "bench", "serve", "--url", url, "--json", "-"]
        for name in ("requests", "max_concurrency", "prompt_tokens", "new_tokens"):
            load += ["--" + name.replace("_", "-"), getattr(options, name)]
        report = json.loads(subprocess.run(load, capture_output=True, text=True, check=True).stdout)
        after = seconds_by_thread(server.pid)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
    spent = [seconds - before.get(thread, 0) for thread, seconds in after.items()]
    return {"tokens": report["total_output_tokens"], "whole": sum(spent), "http": sum(spent[1 : 1 + HTTP_THREADS])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--program", default="build/release/shadowkv")
    parser.add_argument("--model", required=True)
    parser.add_argument("--max-concurrency", default="32")
    parser.add_argument("--requests", default="64")
    parser.add_argument("--prompt-tokens", default="64,128")
    parser.add_argument("--new-tokens", default="64")
    one = measure(parser.parse_args())
    print("| tokens answered | the server, processor s | HTTP's threads | us a token | share |")
    print("|---:|---:|---:|---:|---:|")
    print(f"| {one['tokens']:,} | {one['whole']:.2f} | {one['http']:.3f} | {1e6 * one['http'] / one['tokens']:.1f} | "
          f"{100 * one['http'] / one['whole']:.2f} % |")


if __name__ == "__main__":
    main()
