"""The HTTP parser's limit: a request's head is bounded before anybody is asked who sends it."""

from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD: Final = 65_536
"""Bytes of a request line and its headers: a player's query may have 8 KiB, cookies as much; uvicorn sets no limit."""
_BODY: Final = b'{"type":"urn:keymill:problem:head_too_large","status":431,"code":"head_too_large"}'
_ANSWER: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/problem+json\r\n"
    b"access-control-allow-origin: *\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b" % (len(_BODY), _BODY)
)


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which answers 431 and hangs up when a head grows too large."""

    _in_head = True
    _head = 0

    def data_received(self, data: bytes) -> None:
        """Count what comes before the end of a head."""
        if self._in_head:
            self._head += len(data)
        super().data_received(data)
        if self._in_head and self._head > MAX_HEAD and not self.transport.is_closing():
            self.transport.write(_ANSWER)
            self.transport.close()

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._in_head, self._head = False, 0
        super().on_headers_complete()
