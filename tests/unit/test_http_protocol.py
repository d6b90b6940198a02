"""What a server reads of a caller before it knows who that is."""

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.responses import PlainTextResponse

from keymill.http.protocol import MAX_HEAD, BoundedProtocol


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    """A server that answers everything."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        config = uvicorn.Config(PlainTextResponse("ok"), http=BoundedProtocol, log_config=None, lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[bound])))
        thread.start()
        yield bound.getsockname()
        server.should_exit = True
        thread.join(10)


def exchange(address: tuple[str, int], *parts: bytes) -> bytes:
    """Send, and read the answer's first line."""
    with socket.create_connection(address, timeout=10) as caller:
        for part in parts:
            caller.sendall(part)
        return caller.recv(64).split(b"\r\n")[0]


def test_an_endless_head_is_refused(address: tuple[str, int]) -> None:
    """Neither one long header nor many short ones fill the memory."""
    begin = b"POST / HTTP/1.1\r\nHost: x\r\n"
    for filler in (b"X: " + b"y" * MAX_HEAD, b"X: y\r\n" * (MAX_HEAD // 5)):
        assert exchange(address, begin, filler).startswith(b"HTTP/1.1 431 ")


def test_large_bodies_and_usual_heads_pass(address: tuple[str, int]) -> None:
    """The limit counts the head of each request alone, on a connection that is used again too."""
    one = b"POST / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 20_000 + b"\r\nContent-Length: 200000\r\n\r\n" + b"b" * 200_000
    with socket.create_connection(address, timeout=10) as caller:
        for _ in range(5):
            caller.sendall(one)
            answer = b""
            while not answer.endswith(b"ok"):
                answer += caller.recv(4096)
            assert answer.startswith(b"HTTP/1.1 200 ")
