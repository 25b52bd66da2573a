"""The test Hub as an HTTP server: bodies, tokens, faults, a note of every request; `routes.py` has routes."""

import json
import re
import secrets
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub.faults import Fault, Faults
from tests.hub.store import Refusal, Store

Route = tuple[str, str, Callable]

_CHUNK = 1 << 16
_CONTROL = "/-/"


@dataclass
class Asked:
    """A request; `status` is 0 where it was hung up on, `known` false where there is no route."""

    method: str
    path: str
    status: int
    authenticated: bool
    range: str
    known: bool


@dataclass
class Answer:
    """An answer: JSON, or a file of the store."""

    content: Any = None
    status: int = 200
    headers: dict[str, str] | None = None
    file: Path | None = None


class Hub(ThreadingHTTPServer):
    """The server.

    Args:
        root: Where repositories are kept.
        port: 0 takes a free one.
        routes: Of each the method and the path, as regular expressions, and what answers.
        tokens: The ones that may write and see private repositories.
        part_size: Least bytes of a part of an upload, 0 for one part whatever its size.
    """

    daemon_threads = True

    def __init__(self, root: Path, port: int, routes: list[Route], tokens: set[str], part_size: int) -> None:
        self.routes = routes
        self.store, self.faults, self.tokens, self.part_size = Store(root), Faults(), tokens, part_size
        self.requests: list[Asked] = []
        self.tickets: dict[str, str] = {}  # of uploads, with the repositories that they are for
        super().__init__(("127.0.0.1", port), Handler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """One connection. Routes are in `routes.py`; here are bodies, tokens and faults."""

    protocol_version = "HTTP/1.1"
    server: Hub

    def handle_any(self) -> None:
        url = urlsplit(self.path)
        self.route, self.query = unquote(url.path), parse_qs(url.query)
        if self.route.startswith(_CONTROL):
            return self.control()
        self.fault = self.server.faults.take(self.command, self.route)
        self.known = self.fault is not None  # one that was met may come before the route is looked for
        try:
            body = self.read_body()
            if self.fault and self.fault.kind == "error":
                raise Refusal(self.fault.status, "", "the test Hub was asked to fail")
            handler, names = self.find_route()
            self.authenticate()
            answer = handler(self, body, **names)
            if self.fault and self.fault.kind == "lost":
                raise Refusal(self.fault.status, "", "the test Hub was asked to lose the answer")
        except Refusal as refusal:
            headers = {"X-Error-Code": refusal.code, "X-Error-Message": refusal.message}
            answer = Answer({"error": refusal.message}, refusal.status, headers)
        except ConnectionError:
            return self.note(0)
        self.send(answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    def find_route(self) -> tuple[Callable, dict[str, str]]:
        for method, pattern, handler in self.server.routes:
            match = re.fullmatch(pattern, self.route)
            if match and re.fullmatch(method, self.command):
                self.known = True
                return handler, match.groupdict()
        raise Refusal(404, "", f"the test Hub knows no {self.command} {self.route}")

    def authenticate(self) -> None:
        """Note whether the request has a token; a wrong one is refused whatever it is for."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.server.tokens:
            raise Refusal(401, "", "Invalid credentials in Authorization header")
        self.authenticated = bool(token)

    def need_token(self) -> None:
        if not self.authenticated:
            raise Refusal(401, "", "Invalid username or password.")

    def readable(self, name: str) -> Any:
        """The repository, where the request may read it."""
        repository = self.server.store.find(name)
        if repository.private and not self.authenticated:
            raise Refusal(401, "RepoNotFound", "Invalid username or password.")
        return repository

    def read_body(self) -> bytes:
        length = int(self.headers.get("Content-Length") or 0)
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "")
        if self.fault and self.fault.kind in ("drop", "reset") and (length or chunked):
            self.rfile.read(min(self.fault.bytes, length or self.fault.bytes))
            self.hang_up(self.fault)
        return self.read_chunks() if chunked else self.rfile.read(length)

    def read_chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def hang_up(self, fault: Fault) -> None:
        """End the connection in the middle, by a reset where the fault is one."""
        self.close_connection = True
        if fault.kind == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        else:
            self.connection.shutdown(socket.SHUT_RDWR)
        raise ConnectionAbortedError

    def send(self, answer: Answer) -> None:
        fault = self.fault
        if fault and fault.kind == "slow":
            time.sleep(fault.seconds)
        body, headers = self.render(answer)
        self.note(answer.status)  # first, so that it is there when the client has its answer
        try:
            self.send_response(answer.status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.send_body(body)
        except ConnectionError:
            self.close_connection = True

    def render(self, answer: Answer) -> tuple[bytes, dict[str, str]]:
        """The bytes of an answer and its headers, with what a fault does to them."""
        headers = dict(answer.headers or {})
        if answer.file is None:
            body = json.dumps(answer.content).encode()
            return body, {**headers, "Content-Type": "application/json", "Content-Length": str(len(body))}
        body = self.damaged(answer.file.read_bytes(), headers)
        total = len(body)
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(match[1])
            body, answer.status = body[start:], 206
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        return body, {**headers, "Content-Length": str(len(body)), "Accept-Ranges": "bytes"}

    def damaged(self, body: bytes, headers: dict[str, str]) -> bytes:
        fault = self.fault
        if fault and fault.kind == "etag":
            headers["ETag"] = headers["X-Linked-Etag"] = f'"{fault.etag}"'
        if fault and fault.kind == "truncate":
            body = body[: fault.bytes]
            headers["X-Linked-Size"] = str(len(body))
        if fault and fault.kind == "tamper":
            body = body[: fault.bytes] + bytes([body[fault.bytes] ^ 0xFF]) + body[fault.bytes + 1 :]
        return body

    def send_body(self, body: bytes) -> None:
        if self.fault and self.fault.kind in ("drop", "reset"):
            self.wfile.write(body[: self.fault.bytes])
            self.wfile.flush()
            if self.fault.kind == "reset":
                time.sleep(0.2)  # a reset throws away what has not been read yet
            self.hang_up(self.fault)
        for start in range(0, len(body), _CHUNK):
            self.wfile.write(body[start : start + _CHUNK])

    def note(self, status: int) -> None:
        asked = Asked(
            self.command,
            self.route,
            status,
            "Authorization" in self.headers,
            self.headers.get("Range", ""),
            self.known,
        )
        self.server.requests.append(asked)

    def control(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.route == "/-/faults":
            self.server.faults.due.append(Fault(**json.loads(body)))
        elif self.route == "/-/reset":
            self.server.faults.due.clear()
            self.server.requests.clear()
        self.fault = None
        content = json.dumps([asdict(asked) for asked in self.server.requests]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def give_ticket(self, name: str, oid: str) -> str:
        """A secret for one upload, as the signature in an upload address of the Hub's is."""
        ticket = f"{oid}{secrets.token_hex(8)}"
        self.server.tickets[ticket] = name
        return ticket

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are kept for the tests instead."""
