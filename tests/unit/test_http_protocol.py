"""What a server reads of a caller before it knows who that is."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.responses import PlainTextResponse

from keymill.http.protocol import MAX_HEAD, MAX_HEADERS, protocol_of


@pytest.fixture
def address() -> Iterator[tuple[str, int]]:
    """A server that answers everything."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        protocol = protocol_of(request_s=1.5, max_connections=20)
        config = uvicorn.Config(PlainTextResponse("ok"), http=protocol, log_config=None, lifespan="off")
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


def until_closed(caller: socket.socket, *parts: bytes, most: int) -> tuple[int, bytes]:
    """Send again and again until the server hangs up, or *most* bytes have gone; how many, and the answer's begin."""
    sent, answer = 0, b""
    caller.settimeout(10)
    try:
        for part in parts:
            while sent < most:
                caller.sendall(part)
                sent += len(part)
                if part is not parts[-1]:
                    break
        answer = caller.recv(64)
    except (ConnectionResetError, BrokenPipeError):
        pass
    return sent, answer


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (b"0\r\n", b"X-Trailer: " + b"y" * 4000 + b"\r\n"),
        (b"0\r\nX: ", b"y" * 4096),
        (b"1;", b"extension" * 400),
        (b"", b"1;a=" + b"b" * 200 + b"\r\nx\r\n"),
    ],
    ids=["trailers", "one endless trailer", "an endless chunk extension", "extensions of tiny chunks"],
)
def test_what_frames_a_body_is_bounded(address: tuple[str, int], begin: bytes, more: bytes) -> None:
    """A chunked body's trailer and chunk heads are no body: nobody reads them, so nobody else would stop them."""
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(address, timeout=10) as caller:
        sent, _ = until_closed(caller, head + begin, more, most=64 << 20)
    assert sent < 16 << 20


def test_a_chunked_body_with_a_small_trailer_passes(address: tuple[str, int]) -> None:
    """Chunks of any size, down to one byte, and what a client may put behind them."""
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    tiny = b"1\r\nx\r\n" * 50_000 + b"0\r\nX-Checksum: 1\r\n\r\n"
    assert exchange(address, head + tiny).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "head",
    [b"X: y\r\n" * (MAX_HEADERS + 1), b"X: " + b"y" * (MAX_HEAD + 10) + b"\r\n", b"X: y\r\n" * 5000],
    ids=["one header too many", "70 KB", "5,000 headers"],
)
def test_a_head_that_comes_in_one_read_is_bounded_alike(address: tuple[str, int], head: bytes) -> None:
    """Its end was read with it, so it would have passed."""
    assert exchange(address, b"GET / HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n").startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nx"]
)
def test_a_message_that_does_not_end_is_given_up(address: tuple[str, int], sent: bytes) -> None:
    """Nothing at all, half a head, half a body; a byte now and then gains no time."""
    with socket.create_connection(address, timeout=10) as caller:
        caller.sendall(sent)
        began = time.monotonic()
        while caller.recv(4096):
            pass
    assert 1.0 < time.monotonic() - began < 6.0


def test_idle_connections_make_room(address: tuple[str, int]) -> None:
    """Whoever comes is served, however many have opened connections and say nothing; the idlest one goes."""
    idle = [socket.create_connection(address, timeout=10) for _ in range(60)]
    try:
        for _ in range(5):
            assert exchange(address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    finally:
        for each in idle:
            each.close()
