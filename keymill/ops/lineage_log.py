"""The part of a lineage that only the log holds: events, claims, and who asked, from the audit topic."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Final, Self, TypeVar

import msgspec
from confluent_kafka import Message

from keymill.config import ProcessorSettings
from keymill.core.claim_log import folded, winner
from keymill.core.folding import DEFAULT_POLICY
from keymill.errors import Corrupt, InvalidRecord, KeymillError, Reject
from keymill.kafka.admin import end_offsets, require_topics
from keymill.kafka.cluster import offsets_since
from keymill.kafka.scan import Scanner, headers_of
from keymill.ops.address import bootstrap_of
from keymill.ops.lineage import Answered, ClaimTold, EventTold, Place, PolicyTold
from keymill.ops.moment import shown
from keymill.ops.progress import Advance
from keymill.ops.telling import answered, claim_told, policy_told
from keymill.telemetry import REQUEST_ID_HEADER
from schemas import topics
from schemas.access import Entitlement
from schemas.audit import AuditEvent
from schemas.codec import decode
from schemas.events import PolicyChange
from schemas.framing import decode_event
from schemas.ids import claim_key, scoped_key
from schemas.records import Claim, PolicyRecord
from schemas.values import Record
from streams.registry import registry_lookup

STEP: Final = 10_000
"""Records between two steps of the progress."""
T = TypeVar("T", bound=Record)
Matches = Callable[[AuditEvent], bool]


class Log:
    """The brokers of a data folder, asked in order. A context manager."""

    def __init__(self, settings: ProcessorSettings) -> None:
        self.bootstrap = bootstrap_of(settings)
        self._scanner = Scanner(self.bootstrap)
        self._generations: dict[str, int] = {}
        self._decode = partial(decode_event, registry=registry_lookup(settings.registry_url))

    def event(self, event: EventTold) -> EventTold:
        """
        The event, with what the log says of it; one that is gone, or that cannot be read, says so.

        Raises:
            Interrupted: what keeps it from being read is not the event's fault.
        """
        generation = self._generation(event.topic)
        if generation != event.generation:
            # Offsets started over with the topic: what stands at this one now has nothing to do with the event.
            why = f"{event.topic} was created again since: it is generation {generation}"
            return msgspec.structs.replace(event, found=False, error=why)
        try:
            message = self.at(event.topic, event.partition or 0, event.offset)
        except Corrupt as error:
            return msgspec.structs.replace(event, found=False, error=str(error))
        if message is None:
            return msgspec.structs.replace(event, found=False)
        request = dict(headers_of(message)).get(REQUEST_ID_HEADER, b"").decode("ascii", "replace") or None
        found = msgspec.structs.replace(event, found=True, recorded=shown(message.timestamp()[1]), request_id=request)
        try:
            return self._read(found, message)
        except Reject as error:
            return msgspec.structs.replace(found, error=str(error))
        except KeymillError as error:
            raise Interrupted(error, msgspec.structs.replace(found, error=str(error))) from None

    def _read(self, event: EventTold, message: Message) -> EventTold:
        raw = message.value() or b""
        if event.topic == topics.ENTITLEMENTS.name:  # whose it is, and of which product, is its record key
            whose = (message.key() or b"").decode("ascii", "replace")
            withdrawn = not raw or decode(raw, Entitlement).deleted
            return msgspec.structs.replace(event, kind="Withdrawal" if withdrawn else "Entitlement", event_id=whose)
        if event.topic == topics.POLICY_CHANGES.name:
            change = decode(raw, PolicyChange)
            kind, name, when = type(change.body).__name__, change.request_id, change.event_time
        else:
            told = self._decode(raw, headers_of(message))
            kind, name, when = type(told.body).__name__, told.event_id, told.event_time
        return msgspec.structs.replace(event, kind=kind, event_id=name, event_time=shown(when))

    def _generation(self, topic: str) -> int:
        if topic not in self._generations:
            self._generations[topic] = require_topics(self.bootstrap, [topic])[topic].generation
        return self._generations[topic]

    def at(self, topic: str, partition: int, offset: int) -> Message | None:
        """The record at these coordinates; None when none stands there. Raises `Corrupt` when it was deleted."""
        return next(self._scanner.read(topic, partition, start=offset, end=offset + 1), None)

    def claim(self, organization: str, kid: bytes) -> ClaimTold | None:
        """The claim that won a KID: the first. Reads one partition of the claims."""
        return self.claims([organization], kid).get(organization)

    def claims(self, organizations: Sequence[str], kid: bytes) -> dict[str, ClaimTold]:
        """The claim that has a KID, of each organization that has one. Reads the partitions of these claims."""
        topic, ends = topics.CLAIMS, end_offsets(self.bootstrap, topics.CLAIMS.name)
        wanted = {claim_key(name, kid): name for name in organizations}
        places = {topics.partition_of(topic, record_key, len(ends)) for record_key in wanted}
        standing: dict[str, tuple[Claim, ClaimTold]] = {}
        with Advance("reading claims", sum(ends[number] for number in places)) as advance:
            for number in sorted(places):
                for message in _counted(self._scanner.read(topic.name, number, end=ends[number]), advance):
                    name = wanted.get(message.key() or b"")
                    claim = None if name is None else _decoded(message.value() or b"", Claim)
                    if name is None or claim is None or claim_key(claim.organization, claim.kid) != message.key():
                        continue  # what nobody can read wins nothing, as with the processors
                    held = standing.get(name)
                    if folded(held[0] if held else None, claim) is claim:
                        place = Place(topic=topic.name, partition=number, offset=message.offset() or 0)
                        standing[name] = claim, claim_told(claim, place, message.timestamp()[1])
        return {name: told for name, (claim, told) in standing.items() if winner(claim) is not None}

    def policy(self, organization: str, policy_id: int, version: int) -> PolicyTold:
        """A policy in that version, while the compacted topic keeps it: a week at least. Reads one partition."""
        record_key, topic = scoped_key(organization, str(policy_id)), topics.POLICIES
        if (policy_id, version) == (DEFAULT_POLICY, 0):
            return policy_told(policy_id, None, None)
        ends = end_offsets(self.bootstrap, topic.name)
        partition = topics.partition_of(topic, record_key, len(ends))
        for message in self._scanner.read(topic.name, partition, end=ends[partition]):
            record = _decoded(message.value() or b"", PolicyRecord) if message.key() == record_key else None
            if record is not None and record.version == version:
                place = Place(topic=topic.name, partition=partition, offset=message.offset() or 0)
                return policy_told(policy_id, record, place)
        return PolicyTold(id=policy_id, version=version, name="compacted away")

    def audit(self, since_ms: int, needles: Sequence[bytes], matches: Matches) -> list[Answered]:
        """
        The audit events since then that match, oldest first, each once.

        Args:
            needles: bytes of which one stands in the value of every event that can match; only those are decoded.
        """
        topic = topics.AUDIT.name
        require_topics(self.bootstrap, [topic])
        ends, starts = end_offsets(self.bootstrap, topic), offsets_since(self.bootstrap, topic, since_ms)
        spans = {number: (starts.get(number, end), end) for number, end in ends.items()}
        found: dict[tuple[str, str, int], tuple[AuditEvent, Place]] = {}
        with Advance("reading the audit topic", sum(max(0, end - start) for start, end in spans.values())) as advance:
            for number, (start, end) in spans.items():
                reading = self._scanner.read(topic, number, start=start, end=end) if start < end else ()
                for message in _counted(reading, advance):
                    value = message.value() or b""
                    if (
                        any(needle in value for needle in needles)
                        and (event := _decoded(value, AuditEvent))
                        and matches(event)
                    ):
                        place = Place(topic=topic, partition=number, offset=message.offset() or 0)
                        found.setdefault((event.program, event.instance, event.sequence), (event, place))
        ordered = sorted(found.values(), key=lambda each: (each[0].at, each[0].instance, each[0].sequence))
        return [answered(event, place) for event, place in ordered]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._scanner.close()


class Interrupted(Exception):
    """The log cannot be asked any further; `told` is what is known of the event at hand."""

    def __init__(self, error: KeymillError, told: EventTold) -> None:
        super().__init__(str(error))
        self.error = error
        self.told = told


def _decoded(value: bytes, kind: type[T]) -> T | None:
    try:
        return decode(value, kind)
    except InvalidRecord:
        return None  # a later release's, or nobody's


def _counted(messages: Iterable[Message], advance: Advance) -> Iterator[Message]:
    count = 0
    for count, message in enumerate(messages, 1):
        if count % STEP == 0:
            advance.step(STEP)
        yield message
    advance.step(count % STEP)
