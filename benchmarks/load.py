"""A small HTTP load generator: keep-alive connections, prepared requests, nothing parsed but where an answer ends."""

import asyncio
import time
from collections import deque
from dataclasses import dataclass, field
from typing import cast


@dataclass
class Load:
    """What a run saw. Latencies in seconds; of an open run from the moment a request was due."""

    seconds: float
    answers: int = 0
    refused: int = 0
    latencies: list[float] = field(default_factory=list)

    def rate(self) -> float:
        """Answers per second."""
        return self.answers / self.seconds

    def percentile_ms(self, share: float) -> float:
        """A latency percentile, ms."""
        ordered = sorted(self.latencies)
        return round(ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1000, 3)


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._buffer = b""
        self._due = 0.0
        self.busy = False
        self.transport: asyncio.Transport | None = None
        self.idle = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from it

    def ask(self, request: bytes, due: float) -> None:
        assert self.transport is not None
        self.busy, self._due = True, due
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        at = head.index(b"content-length:") + 15
        size = int(head[at : head.find(b"\r", at) if head.find(b"\r", at) > 0 else len(head)])
        if len(self._buffer) < end + 4 + size:
            return
        self._load.latencies.append(time.perf_counter() - self._due)
        self._load.answers += 1
        self._load.refused += self._buffer[9:12] != b"200"
        self._buffer, self.busy = b"", False
        self.done()

    def done(self) -> None:
        """What follows an answer; the runs say."""


async def _connect(host: str, port: int, load: Load, count: int) -> list[Connection]:
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(lambda: Connection(load), host, port))[1] for _ in range(count)]


async def closed(host: str, port: int, requests: list[bytes], *, connections: int, seconds: float) -> Load:
    """As fast as it goes: every connection asks again as soon as it is answered."""
    load = Load(seconds)
    members = await _connect(host, port, load, connections)
    end = time.perf_counter() + seconds
    upcoming = iter(range(10**9))

    def again(member: Connection) -> None:
        now = time.perf_counter()
        if now < end:
            member.ask(requests[next(upcoming) % len(requests)], now)

    for member in members:
        member.done = lambda member=member: again(member)  # type: ignore[method-assign, misc]
        again(member)
    await asyncio.sleep(seconds + 0.2)
    for member in members:
        assert member.transport is not None
        member.transport.close()
    return load


async def open_loop(
    host: str, port: int, requests: list[bytes], *, rate: float, connections: int, seconds: float
) -> Load:
    """At a fixed rate, whatever the server does: a request that finds no connection free waits, and its wait counts."""
    load = Load(seconds)
    members = await _connect(host, port, load, connections)
    free, waiting = deque(members), deque[tuple[bytes, float]]()

    def freed(member: Connection) -> None:
        if waiting:
            member.ask(*waiting.popleft())
        else:
            free.append(member)

    for member in members:
        member.done = lambda member=member: freed(member)  # type: ignore[method-assign, misc]
    begin = time.perf_counter()
    for number in range(int(rate * seconds)):
        due = begin + number / rate
        while (left := due - time.perf_counter()) > 0:
            await asyncio.sleep(left if left > 0.002 else 0)
        if free:
            free.popleft().ask(requests[number % len(requests)], due)
        else:
            waiting.append((requests[number % len(requests)], due))
    await asyncio.sleep(0.5)
    for member in members:
        assert member.transport is not None
        member.transport.close()
    return load
