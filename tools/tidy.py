#!/usr/bin/env python3
"""Runs clang-tidy-16 over the sources of src/ and apps/ that a build compiles, on all cores.

    python3 tools/tidy.py build/release

A source that passed is not checked again until it, a header of ours that it names, its command line or .clang-tidy
changes: what a header is found to have, is found in a source that names it. Needs Python 3.9 alone. Exit code 1 when
anything is found.
"""

import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
CHECKED = ("src/", "apps/")
INCLUDE = re.compile(rb'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)


def with_named_headers(source: pathlib.Path) -> dict:
    """path -> content of a source and of the headers of ours that it names."""
    found = {source: source.read_bytes()}
    for name in INCLUDE.findall(found[source]):
        for folder in (ROOT / "src", ROOT / "include", ROOT, source.parent):
            header = (folder / name.decode()).resolve()
            if header.is_file():
                found[header] = header.read_bytes()
                break
    return found


def fingerprint(source: pathlib.Path, command: str) -> str:
    found = with_named_headers(source)
    digest = hashlib.sha256((ROOT / ".clang-tidy").read_bytes() + command.encode())
    for path in sorted(found):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + hashlib.sha256(found[path]).digest())
    return digest.hexdigest()


def without_compiler_cache(entry: dict) -> dict:
    """clang-tidy takes the first word of a command for the compiler."""
    words = entry["command"].split(" ")
    if pathlib.Path(words[0]).name == "ccache":
        words = words[1:]
    return {**entry, "command": " ".join(words)}


def check(source: pathlib.Path, database: pathlib.Path) -> str:
    done = subprocess.run(["clang-tidy-16", "--quiet", "-p", str(database), str(source)],
                          capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


def main() -> int:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    build = pathlib.Path(sys.argv[1]).resolve()
    stamps = build / "tidy"
    stamps.mkdir(parents=True, exist_ok=True)
    entries = [without_compiler_cache(entry) for entry in json.loads((build / "compile_commands.json").read_text())]
    (stamps / "compile_commands.json").write_text(json.dumps(entries))
    stale = {}
    for entry in entries:
        source = pathlib.Path(entry["file"]).resolve()
        if str(source.relative_to(ROOT)).startswith(CHECKED) and source.suffix == ".cc":
            stamp = stamps / fingerprint(source, entry["command"])
            if not stamp.exists():
                stale[source] = stamp
    print(f"clang-tidy: {len(stale)} of {len(entries)} sources to check", flush=True)
    bad = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {pool.submit(check, source, stamps): source for source in stale}
        for job in concurrent.futures.as_completed(jobs):
            if job.result():
                bad += 1
                print(f"{jobs[job].relative_to(ROOT)}\n{job.result()}", flush=True)
            else:
                stale[jobs[job]].touch()
    if bad:
        print(f"clang-tidy: {bad} sources with findings", file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
