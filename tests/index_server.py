"""A package index on the loopback interface whose faults the tests choose."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def make_wheel(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Index:
    """What is served, how it fails, and the requests seen as (path, range, authorization)."""

    filename: str
    content: bytes
    project: str
    as_json: bool = True
    tell_hash: bool = True
    ranges: bool = True
    cut_after: list[int] = field(default_factory=list)  # bytes sent before each break
    status: int | None = None  # answer files with this status
    endless: bool = False  # a file that never comes to its end
    requests: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    others: list[Index] = field(default_factory=list)  # further wheels of this index
    url: str = ""

    @property
    def sha256(self) -> str:
        return sha256(self.content)

    @property
    def file_requests(self) -> list[str | None]:
        return [wanted for path, wanted, _ in self.requests if path.startswith("/files/")]


@contextmanager
def serve(index: Index) -> Iterator[Index]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            index.requests.append((self.path, wanted, self.headers.get("Authorization")))
            for wheel in (index, *index.others):
                if self.path == f"/simple/{wheel.project}/":
                    self._page(wheel)
                    break
                if self.path == f"/files/{wheel.filename}":
                    self._file(wheel, wanted)
                    break
            else:
                self.send_error(404)

        def _page(self, index: Index) -> None:
            digest = sha256(index.content) if index.tell_hash else None
            if index.as_json:
                kind = "application/vnd.pypi.simple.v1+json"
                file = {"filename": index.filename, "url": f"../../files/{index.filename}"}
                file["hashes"] = {"sha256": digest} if digest else {}
                body = json.dumps({"files": [file]})
            else:
                kind = "text/html"
                mark = f"#sha256={digest}" if digest else ""
                body = f'<a href="/files/{index.filename}{mark}">{index.filename}</a>'
            self._send(200, body.encode(), kind)

        def _file(self, index: Index, wanted: str | None) -> None:
            if index.status is not None:
                self.send_error(index.status)
                return
            if index.endless:
                self._send_endlessly()
                return
            start = 0
            if wanted and index.ranges:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= len(index.content):
                    self.send_error(416)
                    return
            body = index.content[start:]
            status = 206 if wanted and index.ranges else 200
            self._send(status, body, "application/zip", index.cut_after)

        def _send_endlessly(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(1 << 30))
            self.end_headers()
            with suppress(OSError):  # the other side leaves
                while True:
                    self.wfile.write(b"x" * (1 << 16))
                    time.sleep(0.01)

        def _send(
            self, status: int, body: bytes, kind: str, cut_after: list[int] | None = None
        ) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if cut_after:
                body = body[: cut_after.pop(0)]
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    index.url = f"http://127.0.0.1:{server.server_address[1]}/simple"
    try:
        yield index
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
