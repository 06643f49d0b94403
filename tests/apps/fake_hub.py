"""A hub on loopback that speaks huggingface.co's endpoints over files in memory, and misbehaves where it is told to.

Small files are served by the hub itself, large ones (.gguf, .safetensors) by a second server, as a content network
would: another origin, to which no token may go.
"""

import hashlib
import http.server
import json
import re
import threading
import time
import urllib.parse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def git_id(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


class Fault:
    """What happens to requests whose path holds `where`: `act(handler)`, for `times` of them. It answers itself, or
    returns False after it has changed how the usual answer is given."""

    def __init__(self, where, act, times=10**9, method="GET"):
        self.where, self.act, self.times, self.method = where, act, times, method


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cut_after = None  # bytes of the body, then the connection ends
    bytes_per_s = None
    no_range = False
    declared = None  # Content-Length, if not the true one
    content = None

    def log_message(self, *_):
        pass

    @property
    def hub(self):
        return self.server.hub

    def do_HEAD(self):
        self.serve()

    def do_GET(self):
        self.serve()

    def serve(self):
        for name in ("cut_after", "bytes_per_s", "no_range", "declared", "content"):
            self.__dict__.pop(name, None)
        with self.hub.lock:
            self.hub.requests.append((self.server.role, self.command, self.path, dict(self.headers)))
            fault = next((f for f in self.hub.faults
                          if f.where in self.path and f.times > 0 and f.method == self.command), None)
            if fault:
                fault.times -= 1
        try:
            if fault is None or fault.act(self) is False:
                self.usual()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def usual(self):
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        if self.server.role == "cdn":
            self.send_content(self.hub.blobs[path.rsplit("/", 1)[1]], {})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
            self.send_listing(*found.groups())
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([0-9a-f]{40}|[^/]+)/(.+)", path):
            self.send_file(*found.groups())
        else:
            self.answer(404)

    def commit_of(self, repository, revision):
        """The commit; None after an answer that says why there is none."""
        if repository not in self.hub.repositories:
            return self.answer(404, {"X-Error-Code": "RepoNotFound"})
        if revision not in ("main", "v1.0", "refs/pr/1", COMMIT):
            return self.answer(404, {"X-Error-Code": "RevisionNotFound"})
        return COMMIT

    def send_listing(self, repository, revision):
        if not self.commit_of(repository, revision):
            return
        siblings = []
        for path, content in self.hub.repositories[repository].items():
            entry = {"rfilename": path}
            if self.hub.says_blobs:
                entry |= {"size": len(content), "blobId": git_id(content)}
                if self.hub.is_large(path):
                    entry["lfs"] = {"sha256": sha256(content), "size": len(content), "pointerSize": 131}
            siblings.append(entry | self.hub.lies.get(path, {}))
        body = json.dumps({"id": repository, "sha": COMMIT, "siblings": siblings}).encode()
        self.answer(200, {"Content-Type": "application/json"}, body)

    def send_file(self, repository, revision, path):
        if not self.commit_of(repository, revision):
            return
        content = self.hub.repositories[repository].get(path)
        if content is None:
            return self.answer(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        if self.hub.is_large(path):
            linked = {"X-Repo-Commit": COMMIT, "X-Linked-Size": str(len(content)),
                      "X-Linked-ETag": f'"{sha256(content)}"', "Location": f"{self.hub.cdn_url}/cdn/{sha256(content)}"}
            return self.answer(302, linked)
        self.send_content(content, {"X-Repo-Commit": COMMIT, "ETag": f'"{git_id(content)}"'})

    def send_content(self, content, headers):
        content = self.content if self.content is not None else content
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if found is None or self.no_range:
            return self.answer(200, headers, content)
        begin, end = int(found[1]), min(int(found[2]) + 1, len(content))
        if begin >= end:
            return self.answer(416, {"Content-Range": f"bytes */{len(content)}"})
        self.answer(206, headers | {"Content-Range": f"bytes {begin}-{end - 1}/{len(content)}"}, content[begin:end])

    def answer(self, status, headers=(), body=b""):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(self.declared if self.declared is not None else len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.send_body(body)

    def send_body(self, body):
        end = len(body) if self.cut_after is None else min(self.cut_after, len(body))
        step = 4096 if self.bytes_per_s else 1 << 20
        for at in range(0, end, step):
            if self.bytes_per_s:
                time.sleep(step / self.bytes_per_s)
            piece = body[at : min(at + step, end)]
            self.wfile.write(piece)
            with self.hub.lock:
                self.hub.sent[self.path] = self.hub.sent.get(self.path, 0) + len(piece)
        if end < len(body):
            self.close_connection = True


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, hub, role):
        super().__init__(("127.0.0.1", 0), Handler)
        self.hub, self.role = hub, role
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def handle_error(self, *_):
        pass


class FakeHub:
    def __init__(self, repositories):
        self.repositories = repositories  # name -> path -> content
        self.blobs = {sha256(c): c for files in repositories.values() for c in files.values()}
        self.lock = threading.Lock()
        self.requests = []  # (server, method, path, headers)
        self.sent = {}  # path -> bytes of bodies
        self.faults = []
        self.lies = {}  # path -> fields of its entry in the listing
        self.says_blobs = True
        self.cdn, self.server = Server(self, "cdn"), Server(self, "hub")
        self.cdn_url, self.url = self.cdn.url, self.server.url

    def is_large(self, path):
        return path.endswith((".gguf", ".safetensors"))

    def close(self):
        for server in (self.server, self.cdn):
            server.shutdown()
            server.server_close()


def status(code, **headers):
    """An answer of that status alone."""
    named = {name.replace("_", "-"): str(value) for name, value in headers.items()}
    return lambda handler: handler.answer(code, named)


def change(**fields):
    """The usual answer, but for fields of the handler: cut_after, bytes_per_s, no_range, declared, content."""
    def act(handler):
        handler.__dict__.update(fields)
        return False
    return act


def silence(seconds):
    """Headers, the first bytes, then nothing for that long."""
    def act(handler):
        handler.send_response(200 if "Range" not in handler.headers else 206)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        time.sleep(seconds)
        handler.close_connection = True
    return act
