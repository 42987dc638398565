"""A web server on this machine that fails on demand: cut connections, changed files, refusals."""

import contextlib
import http.server
import random
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

BODY = random.Random(0).randbytes(3_000_000)
ETAG = '"one"'


@dataclass
class Page:
    """What the server sends at one path, and how it fails."""

    body: bytes = BODY
    etag: str | None = ETAG
    modified: str | None = None
    ranges: bool = True
    honours_if_range: bool = True
    cuts: list[int] = field(default_factory=list)  # bytes sent before each cut, one per request
    errors: list[int] = field(default_factory=list)  # statuses of the requests after the cuts
    redirect: str | None = None
    status: int = 200
    kind: str = "application/octet-stream"
    encoding: str | None = None
    pace: float = 0.0  # seconds between chunks of 64 kB
    chunked: bool = False
    asked: list[dict[str, str]] = field(default_factory=list)  # headers of each request


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    def do_GET(self) -> None:
        page = self.server.pages.get(self.path.split("?")[0], Page(status=404, body=b"no"))
        page.asked.append(dict(self.headers))
        if page.redirect:
            self._head(302, {"Location": page.redirect, "Content-Length": "0"})
        elif page.errors and not page.cuts:
            self._head(page.errors.pop(0), {"Content-Length": "0", "Retry-After": "7"})
        elif page.status != 200:
            self._head(page.status, {"Content-Length": str(len(page.body))})
            self.wfile.write(page.body)
        else:
            self._give(page)

    def _give(self, page: Page) -> None:
        first = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        same = self.headers.get("If-Range") in (None, page.etag, page.modified)
        ranged = bool(first and page.ranges and (same or not page.honours_if_range))
        start = int(first[1]) if ranged else 0
        size = len(page.body)
        headers = {"Content-Type": page.kind}
        headers |= {"ETag": page.etag} if page.etag else {}
        headers |= {"Last-Modified": page.modified} if page.modified else {}
        headers |= {"Content-Encoding": page.encoding} if page.encoding else {}
        if start >= size and ranged:
            self._head(416, headers | {"Content-Range": f"bytes */{size}", "Content-Length": "0"})
            return
        if ranged:
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        if page.chunked:
            self._head(200, headers | {"Transfer-Encoding": "chunked"})
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (size, page.body))
            return
        self._head(206 if ranged else 200, headers | {"Content-Length": str(size - start)})
        end = start + page.cuts.pop(0) if page.cuts else size
        for at in range(start, min(end, size), 65536):
            with contextlib.suppress(OSError):
                self.wfile.write(page.body[at : min(at + 65536, end)])
                time.sleep(page.pace)
        if end < size:
            self.close_connection = True
            self.connection.close()

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    pages: dict[str, Page]

    def handle_error(self, request, client_address) -> None:
        """Ignore errors: cut connections are intended."""

    def put(self, path: str, **how) -> Page:
        self.pages[path] = Page(**how)
        return self.pages[path]

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A server that runs inside the block; its threads end with it."""
    running = Server(("127.0.0.1", 0), Handler)
    running.pages = {}
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield running
    finally:
        running.shutdown()
        thread.join()
        running.server_close()
