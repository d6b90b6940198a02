"""
The HTTP parser's limits: what a caller may send, and how slowly, before anybody has asked who it is.

A message's framing is all of it but its body: head, chunk sizes and extensions, trailer. It is bounded until the
message is complete, since the parser keeps a line until its end and shows headers one by one.
"""

import asyncio
import resource
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD: Final = 65_536
"""Bytes of a request line and its headers: a player's query may have 8 KiB, cookies as much; uvicorn sets no limit."""
MAX_HEADERS: Final = 256
"""Headers of one request, trailers among them: a browser sends some twenty."""
FRAMING_PER_BYTE: Final = 8
"""Framing that each byte of a body may bring: a chunk of one byte has five of it."""
REQUEST_S: Final = 60.0
"""From a message's first byte to its last; shorter than load balancers wait, longer than a slow uplink needs."""
RESERVED: Final = 128
"""Descriptors that are kept for files, pipes, brokers and license servers."""
MOST_CONNECTIONS: Final = 10_000
LEAST_CONNECTIONS: Final = 16


def _answer(status: bytes, code: bytes) -> bytes:
    number = status.split(b" ")[0]
    body = b'{"type":"urn:keymill:problem:%b","status":%b,"code":"%b"}' % (code, number, code)
    return (
        b"HTTP/1.1 %b\r\ncontent-type: application/problem+json\r\naccess-control-allow-origin: *\r\n"
        b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (status, len(body), body)
    )


_TOO_LARGE: Final = _answer(b"431 Request Header Fields Too Large", b"head_too_large")
_TOO_SLOW: Final = _answer(b"408 Request Timeout", b"request_timeout")


def connections_allowed() -> int:
    """Return how many connections this process may have open: its descriptors without a reserve."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    return max(LEAST_CONNECTIONS, min(soft - RESERVED, MOST_CONNECTIONS))


class _TooLarge(Exception):
    """Ends the parser's work on a message."""


class BoundedProtocol(HttpToolsProtocol):
    """
    uvicorn's protocol with limits.

    A head that grows too large is 431, a message that takes too long 408, both hang up; a trailer or chunk framing that
    grows too large hangs up. One connection more than allowed takes the place of the one that has been idle longest.
    """

    request_s: float = REQUEST_S
    max_connections: int = connections_allowed()

    _in_head = True
    _framing = 0
    _body = 0
    _count = 0
    _size = 0
    _since = 0.0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection; the idlest one goes where there are too many."""
        self._since = self.loop.time()
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            idle = [each for each in self.connections if isinstance(each, BoundedProtocol) and each._is_idle()]
            if idle:
                min(idle, key=lambda each: each._since).transport.abort()
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what is not body, before and after the parser has seen it."""
        self._framing += len(data)
        self._since = self.loop.time()
        self._start_timer()
        super().data_received(data)
        if self._framing > MAX_HEAD + FRAMING_PER_BYTE * self._body and not self.transport.is_closing():
            self._refuse(_TOO_LARGE)

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head, self._body, self._count, self._size = True, 0, 0, 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the request line."""
        self._size += len(url)
        if self._size > MAX_HEAD:
            raise _TooLarge
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header of the head, or of the trailer."""
        self._count += 1
        self._size += len(name) + len(value)
        if self._count > MAX_HEADERS or self._size > MAX_HEAD:
            raise _TooLarge
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._in_head = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body, which is bounded by whoever reads it."""
        self._framing -= len(body)
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The message is whole; the next one counts from here."""
        self._in_head, self._framing, self._body = True, 0, 0
        self._stop_timer()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser gave up: 431 where we made it do so."""
        if self._count > MAX_HEADERS or self._size > MAX_HEAD:
            self._refuse(_TOO_LARGE)
        else:
            super().send_400_response(msg)

    def _is_idle(self) -> bool:
        return self.cycle is None or bool(self.cycle.response_complete)

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(self.request_s, self._refuse, _TOO_SLOW)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, answer: bytes) -> None:
        """Hang up; with an answer where none is under way."""
        self._stop_timer()
        if not self.transport.is_closing():
            if self._in_head and self._is_idle():
                self.transport.write(answer)
            self.transport.close()


def protocol_of(request_s: float, max_connections: int) -> type[BoundedProtocol]:
    """Return the protocol with these limits; 0 connections are as many as the process's descriptors allow."""
    limits: dict[str, Any] = {"request_s": request_s, "max_connections": max_connections or connections_allowed()}
    return type("ConfiguredProtocol", (BoundedProtocol,), limits)
