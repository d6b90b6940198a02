"""
Requests to license servers: one HTTP client per worker, with a pool of connections to each server.

A request has a deadline that every attempt counts into. It is sent again only when nothing of it can have arrived, or
when the server itself said 502, 503 or 504: a license that was made twice may count twice somewhere. Redirects are not
followed, compression is not offered, an answer is read up to a limit.
"""

import asyncio
import math
import re
import ssl
import time
from collections.abc import Mapping
from typing import Final

import aiohttp

from keymill import telemetry
from keymill.proxy.request import Refusal
from keymill.proxy.upstream import breaker as circuit
from keymill.proxy.upstream import outcomes
from keymill.proxy.upstream.outcomes import Lost, Outcome, Reply
from keymill.upstream_settings import Upstream

PAUSES_S: Final = (0.05, 0.2)
"""Before each further attempt: a server that restarts behind its balancer is back within this, or not soon."""
KEEP_ALIVE_S: Final = 15.0
"""Idle connections are closed before usual servers and balancers would, so that no request meets a closing one."""
OCTETS: Final = "application/octet-stream"
_HEADERS: Final = {"User-Agent": "keymill"}
_NOT_SENT: Final = ("Accept-Encoding", "User-Agent")
_CONTENT_TYPE: Final = re.compile(r"[\x20-\x7e]{1,128}")
log = telemetry.logger("proxy.upstream")


class Client:
    """The connections of one worker. Make it inside the event loop; close it when the worker stops."""

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_S),  # each `Server` has its limit
            timeout=aiohttp.ClientTimeout(),
            headers=_HEADERS,
            skip_auto_headers=_NOT_SENT,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,  # keys go to the server that the settings name, through no proxy of the environment
        )

    def server(self, name: str, settings: Upstream) -> "Server":
        """The server of one table."""
        return Server(self._session, name, settings)

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()


class Server:
    """One license server: its address, its limits, and how it has been doing."""

    def __init__(self, session: aiohttp.ClientSession, name: str, settings: Upstream) -> None:
        self.name = name
        self._session = session
        self._url = settings.url
        self._deadline_s = settings.deadline_s
        self._timeout = aiohttp.ClientTimeout(sock_connect=settings.connect_timeout_s)
        self._limit = settings.max_response_bytes
        self._places = asyncio.Semaphore(settings.max_connections)
        self._tls: ssl.SSLContext | bool = True
        if settings.ca_file is not None:
            self._tls = ssl.create_default_context(cafile=settings.ca_file)
        self._breaker = circuit.CLOSED
        telemetry.UPSTREAM_OPEN.labels(name).set(0)

    async def post(self, body: bytes, headers: Mapping[str, str]) -> Reply | Refusal:
        """
        The answer to *body*, or what the player is told.

        1. The breaker admits it.
        2. Within the deadline: wait for a place, send, and again where that is safe.
        3. The breaker and the metrics learn what became of it.
        """
        begun = time.monotonic()
        # (1)
        state, era = circuit.admit(self._breaker, begun, self._deadline_s)
        self._breaker = state
        if era is None:
            telemetry.UPSTREAM_REQUESTS.labels(self.name, Lost.HELD_BACK.value).inc()
            return outcomes.refused(Lost.HELD_BACK, math.ceil((state.held_until or begun) - begun))
        # (2)
        outcome: Outcome = Lost.DEADLINE
        try:
            async with asyncio.timeout(self._deadline_s), self._places:
                outcome = await self._send(body, headers)
        except TimeoutError:
            pass
        # (3)
        self._learn(era, outcome)
        telemetry.UPSTREAM_SECONDS.labels(self.name).observe(time.monotonic() - begun)
        return outcomes.accepted(outcome)

    async def _send(self, body: bytes, headers: Mapping[str, str]) -> Outcome:
        outcome = await self._attempt(body, headers)
        for pause_s in PAUSES_S:
            if not outcomes.may_repeat(outcome):
                break
            await asyncio.sleep(pause_s)
            outcome = await self._attempt(body, headers)
        return outcome

    async def _attempt(self, body: bytes, headers: Mapping[str, str]) -> Outcome:
        """One request. aiohttp repeats no POST by itself; its connector errors come before a byte of it is sent."""
        try:
            async with self._session.post(
                self._url, data=body, headers=headers, allow_redirects=False, ssl=self._tls, timeout=self._timeout
            ) as response:
                return await self._read(response)
        except aiohttp.ConnectionTimeoutError:
            return Lost.CONNECT_TIMEOUT
        except aiohttp.ClientConnectorError as error:
            log.warning("license server cannot be reached", upstream=self.name, error=type(error).__name__)
            return Lost.NOT_CONNECTED
        except (aiohttp.ClientError, OSError) as error:  # its text may repeat what the server sent
            log.warning("license server broke off", upstream=self.name, error=type(error).__name__)
            return Lost.BROKEN

    async def _read(self, response: aiohttp.ClientResponse) -> Outcome:
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            response.close()
            return Lost.COMPRESSED
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > self._limit:
                response.close()
                return Lost.TOO_LARGE
        return Reply(status=response.status, content_type=_content_type(response), body=bytes(body))

    def _learn(self, era: int, outcome: Outcome) -> None:
        before = self._breaker
        if outcomes.is_sign_of_life(outcome):
            self._breaker = circuit.answered(before, era)
        else:
            self._breaker = circuit.failed(before, era, time.monotonic())
        telemetry.UPSTREAM_REQUESTS.labels(self.name, outcomes.label(outcome)).inc()
        if before.closed and not self._breaker.closed:
            log.error("license server failed repeatedly and is given a rest", upstream=self.name)
        if before.closed != self._breaker.closed:
            telemetry.UPSTREAM_OPEN.labels(self.name).set(0 if self._breaker.closed else 1)


def _content_type(response: aiohttp.ClientResponse) -> str:
    given = response.headers.get("Content-Type", "")
    return given if _CONTENT_TYPE.fullmatch(given) else OCTETS
