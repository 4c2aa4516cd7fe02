"""A small file server on the loopback address, whose answers each test decides."""

from __future__ import annotations

import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from archives import BODY

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Sends the answers of a path one after the other, and then repeats the last one."""

    server: Server

    def do_GET(self):
        self.server.requests.append((self.path, self.headers.get("Range")))
        self.server.agents.add(self.headers.get("User-Agent"))
        answers = self.server.answers[self.path]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        answer(self)

    def reply(self, status: int, body: bytes = b"", **headers: object) -> None:
        self.send_response(status)
        for name, value in ({"Content_Length": len(body)} | headers).items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, str | None]] = []
        self.agents: set[str | None] = set()
        self.answers: defaultdict[str, list[Answer]] = defaultdict(lambda: [status(404)])

    def url(self, path: str = "/file") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


def plain(body: bytes = BODY, **headers: object) -> Answer:
    """Send the whole file, whatever range was requested."""
    return lambda handler: handler.reply(200, body, **headers)


def ranged(body: bytes = BODY) -> Answer:
    """Send the requested range, as figshare's storage does."""

    def answer(handler: Handler) -> None:
        if not (asked := handler.headers.get("Range")):
            return handler.reply(200, body)
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
        if start >= len(body):
            return handler.reply(416, Content_Range=f"bytes */{len(body)}")
        return handler.reply(206, body[start:], Content_Range=f"bytes {start}-{len(body) - 1}/{len(body)}")

    return answer


def cut(after: int) -> Answer:
    """Announce the whole file, send the first bytes and close the connection."""
    return lambda handler: handler.reply(200, BODY[:after], Content_Length=len(BODY))


def status(code: int) -> Answer:
    return lambda handler: handler.reply(code, b"sorry")


def redirect(to: str) -> Answer:
    return lambda handler: handler.reply(302, Location=to)


@contextmanager
def serving() -> Iterator[Server]:
    """Run a server in a thread."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
