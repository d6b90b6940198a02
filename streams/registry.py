"""
Schemas of Confluent-framed asset events, from a schema registry: fetched once per id, in bounded time and size.

A processor fetches what a run needs before it decides it (`SchemaRegistry.prepare`), without holding up its event loop,
and decides over what is `cached`. What the registry says for good refuses the event: no such id, an answer that is too
large or holds no schema, any other 4xx. What says nothing of the id is waited out: no answer, 3xx, 5xx, 429, and what
is about our own credentials, 401, 403 and 407. Nothing here says the registry's address, which may hold a password.
"""

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, Protocol

from keymill.errors import InvalidRecord, Misconfigured, Reject, Unavailable, UnknownKey
from keymill.telemetry import logger
from schemas.framing import Registry, schema_id_of
from streams.runs import RawRecord

TIMEOUT_S: Final = 5.0
"""For a whole answer, however slowly it comes."""
ANSWER_MAX: Final = 1024 * 1024
"""Bytes; Avro schemas of large systems have some 100 KB."""
CACHE_MAX: Final = 64 * 1024 * 1024
"""Characters of schemas that are kept, beyond those of the run at hand."""
ENTRIES_MAX: Final = 10_000
"""Answers that are kept: an ingest system has a handful; the bound keeps hostile ids from filling memory."""
REFUSED_FOR_S: Final = 60.0
"""How long a refusal is believed: a schema may be registered a moment after its first event."""
PAUSE_S: Final = 0.5
PAUSE_MAX_S: Final = 15.0
"""Between two tries at a registry that does not answer: the first, and the longest."""
NOT_ABOUT_THE_ID: Final = frozenset({401, 403, 407, 408, 425, 429})
"""Of the 4xx, those that tell of us or of the moment."""

log = logger("streams.registry")


class SchemaMissing(Unavailable):
    """A schema that was not prepared, or is forgotten again: prepare, and decide afresh."""


class Schemas(Protocol):
    """What has the schemas ready that records need."""

    async def prepare(self, records: Iterable[RawRecord]) -> None:
        """Return when every schema that these records name is there, or refused for good."""
        ...


class NoSchemas:
    """For processors without a registry: nothing is to be prepared."""

    trouble: str | None = None

    async def prepare(self, records: Iterable[RawRecord]) -> None:
        """See `Schemas`."""


NO_SCHEMAS: Final = NoSchemas()


class SchemaRegistry:
    """
    A client of the registry with that base URL; for one event loop.

    `trouble` says why runs wait, for people; None while they do not.
    """

    def __init__(self, url: str) -> None:
        if not url.startswith(("http://", "https://")):
            raise Misconfigured("registry_url must start with http:// or https://")
        self.trouble: str | None = None
        self._base = url.rstrip("/")
        self._known: OrderedDict[int, str | tuple[Reject, float]] = OrderedDict()

    def cached(self, schema_id: int) -> str:
        """A `Registry` over what is there; raises `SchemaMissing`, or the `Reject` of an id that is refused."""
        match self._known.get(schema_id):
            case None:
                raise SchemaMissing(f"schema {schema_id} is not there yet")
            case (Reject() as refusal, _):
                raise refusal
            case str() as text:
                return text
            case other:
                raise TypeError(f"not an answer: {other!r}")

    def ask(self, schema_id: int) -> str:
        """A `Registry` for commands: asks where it must, once; raises `Unavailable` when there is no answer."""
        if not self._fresh(schema_id):
            asyncio.run(self._fetch([schema_id]))
        return self.cached(schema_id)

    async def prepare(self, records: Iterable[RawRecord]) -> None:
        """See `Schemas`; tries for as long as it takes."""
        named = (schema_id_of(each.value, each.headers) for each in records if each.value)
        wanted = list(dict.fromkeys(each for each in named if each is not None))
        pause_s = PAUSE_S
        while missing := [each for each in wanted if not self._fresh(each)]:
            try:
                await self._fetch(missing)
            except Unavailable as error:
                if self.trouble is None:
                    log.warning("asset events wait for the schema registry", reason=str(error))
                self.trouble = f"asset events wait: {error}"
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_MAX_S)
        if self.trouble is not None:
            self.trouble = None
            log.info("the schema registry answers again")
        self._forget(set(wanted))

    def _fresh(self, schema_id: int) -> bool:
        known = self._known.get(schema_id)
        return known is not None and (isinstance(known, str) or time.monotonic() < known[1])

    def _forget(self, wanted: set[int]) -> None:
        """Keep what the run at hand needs, and of the rest the newest within bounds."""
        for schema_id in wanted:
            self._known.move_to_end(schema_id)
        size = sum(len(each) for each in self._known.values() if isinstance(each, str))
        while len(self._known) > len(wanted) and (len(self._known) > ENTRIES_MAX or size > CACHE_MAX):
            _, oldest = self._known.popitem(last=False)
            size -= len(oldest) if isinstance(oldest, str) else 0

    async def _fetch(self, schema_ids: Iterable[int]) -> None:
        import aiohttp  # noqa: PLC0415 commands that decode no frame do without it

        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        try:
            async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False, trust_env=False) as session:
                for schema_id in schema_ids:
                    url, headers = f"{self._base}/schemas/ids/{schema_id}", {"accept-encoding": "identity"}
                    async with session.get(url, headers=headers, allow_redirects=False) as answer:
                        body = await _bounded(answer.content)
                        self._known[schema_id] = _judged(schema_id, answer.status, body)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:  # their texts name the address
            raise Unavailable(f"the schema registry does not answer: {type(error).__name__}") from None


class _Stream(Protocol):
    async def read(self, n: int) -> bytes: ...


async def _bounded(content: _Stream) -> bytes | None:
    """The body; None when it is too large, and then no more of it is read."""
    body = bytearray()
    while chunk := await content.read(65_536):
        body += chunk
        if len(body) > ANSWER_MAX:
            return None
    return bytes(body)


def _judged(schema_id: int, status: int, body: bytes | None) -> str | tuple[Reject, float]:
    """A schema, or why every event that names it is refused; raises `Unavailable` for what says nothing of the id."""
    until = time.monotonic() + REFUSED_FOR_S
    if status == 404:
        return UnknownKey(f"the schema registry has no schema {schema_id}", field="value"), until
    if 400 <= status < 500 and status not in NOT_ABOUT_THE_ID:
        return InvalidRecord(f"schema {schema_id}: the schema registry answers {status}", field="value"), until
    if status != 200:
        raise Unavailable(f"the schema registry answers {status}")
    if body is None:
        message = f"schema {schema_id}: the schema registry's answer has more than {ANSWER_MAX} bytes"
        return InvalidRecord(message, field="value"), until
    try:
        text = json.loads(body)["schema"]
    except (ValueError, KeyError, TypeError, RecursionError):
        text = None
    if not isinstance(text, str):
        message = f"schema {schema_id}: the schema registry's answer holds no schema"
        return InvalidRecord(message, field="value"), until
    return text


def registry_lookup(url: str) -> Registry | None:
    """A look-up by schema id for commands; None when no registry is configured."""
    return SchemaRegistry(url).ask if url else None
