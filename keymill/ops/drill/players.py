"""Players: a steady load of ClearKey licenses from one proxy, each answer checked, failures kept."""

import asyncio
import threading
import time
from collections import Counter
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

from keymill.errors import Unavailable

TIMEOUT_S: Final = 5.0
KEPT: Final = 20
"""Failures that are told one by one."""


class Players:
    """
    A context manager: from enter to exit, *rate* licenses a second are asked for, in turn for *wishes*.

    Args:
        wishes: URL of each license with the body that asks for it, and the keys that must come back by KID (both as
            ClearKey spells them); an empty value stands for a key that is not known beforehand, and is from then on.
    """

    def __init__(self, wishes: list[tuple[str, bytes, dict[str, str]]], *, rate: int) -> None:
        self._wishes = wishes
        self._rate = rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._ask()), name="players", daemon=True)
        self.asked = 0
        self.failures: Counter[str] = Counter()
        self.examples: list[str] = []
        self.slowest_ms = 0.0

    @property
    def failed(self) -> int:
        """Licenses that were refused, wrong or late."""
        return self.failures.total()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        asking = self._thread.is_alive()
        self._stop.set()
        self._thread.join(TIMEOUT_S * 2)
        if kind is None and not asking:
            raise Unavailable("the players gave up before everything was lost and found: their reason stands above")
        if kind is None and self._thread.is_alive():
            raise Unavailable("the players do not stop")

    async def _ask(self) -> None:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session, asyncio.TaskGroup() as asking:
            began, number = time.monotonic(), 0
            while not self._stop.is_set():
                asking.create_task(self._license(session, *self._wishes[number % len(self._wishes)]))
                number += 1
                await asyncio.sleep(max(0.0, began + number / self._rate - time.monotonic()))

    async def _license(self, session: aiohttp.ClientSession, url: str, body: bytes, expected: dict[str, str]) -> None:
        self.asked += 1
        began = time.monotonic()
        try:
            async with session.post(url, data=body) as answer:
                verdict = _wrong(await answer.json(content_type=None), expected) if answer.status == 200 else None
                if answer.status != 200:
                    verdict = f"HTTP {answer.status}"
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            verdict = type(error).__name__
        except (KeyError, TypeError):
            verdict = "no license"
        self.slowest_ms = max(self.slowest_ms, (time.monotonic() - began) * 1000)
        if verdict:
            self.failures[verdict] += 1
            if len(self.examples) < KEPT:
                self.examples.append(f"{verdict}: {url.partition('?')[0]}")


def _wrong(license_: Any, expected: dict[str, str]) -> str | None:
    keys = {key["kid"]: key["k"] for key in license_["keys"]}
    for kid, known in expected.items():
        if kid not in keys:
            return "a key is missing"
        if known and keys[kid] != known:
            return "a key has changed"
        expected[kid] = keys[kid]
    return None
