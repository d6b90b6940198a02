"""
From a run of raw records to what must be published: decode, fold, derive, wrap, encode.

No I/O of its own: what is held comes from a `Lookup`, keys from a `Keyring`. Each record ends in `Decided`:
key records, then the asset record as it stands after the run, or a dead letter.
"""

import hashlib
from collections.abc import Callable
from typing import Final, Protocol

from keymill.core.folding import Coordinates, fold
from keymill.core.provisioning import Keys, make_key_record, needed
from keymill.errors import InvalidRecord, Misconfigured, Reject, UnknownKey
from keymill.kms.keyring import Keyring
from keymill.telemetry import REQUEST_ID_HEADER
from schemas.codec import encode
from schemas.events import AssetEvent
from schemas.ids import asset_key
from schemas.partition import partition_for
from schemas.records import AssetRecord, DeadLetter
from schemas.values import LogPosition
from streams.runs import RawRecord, Run

Decoder = Callable[[bytes, tuple[tuple[str, bytes | None], ...]], AssetEvent]

MAX_MESSAGE: Final = 500
"""Characters of a reason that a dead letter keeps."""
MAX_FIELD: Final = 128
"""Characters of a field's name that it keeps: in JSON the sender chose the name, and may have chosen a megabyte."""


class Lookup(Protocol):
    """What is already written, as far as this processor knows."""

    def asset(self, organization: str, asset: str) -> AssetRecord | None:
        """The asset record, or None."""
        ...

    def has(self, record_key: bytes) -> bool:
        """Whether the key record exists."""
        ...


class Decided:
    """What a run calls for: values by record key, in the order in which they must be published."""

    def __init__(self, run: Run, generation: int) -> None:
        self.run = run
        self.generation = generation
        self.assets: dict[bytes, AssetRecord] = {}
        self.key_records: dict[bytes, bytes] = {}
        self.dead_letters: list[DeadLetter] = []
        self.request_ids: dict[bytes, str] = {}

    def dead_letter(self, record: RawRecord, error: Reject, event: AssetEvent | None) -> None:
        """Refuse one record, naming where it stands and why; never its content."""
        value = record.value or b""
        self.dead_letters.append(
            DeadLetter(
                topic=record.topic,
                partition=record.partition,
                generation=self.generation,
                offset=record.offset,
                timestamp=record.timestamp_ms,
                reason=error.code,
                field=error.field[:MAX_FIELD],
                message=str(error)[:MAX_MESSAGE],
                organization=event.organization if event else None,
                asset=event.asset if event else None,
                event_id=event.event_id if event else None,
                request_id=request_id_of(record) or None,
                value_size=len(value),
                value_sha256=hashlib.sha256(value).digest(),
            )
        )


class Decider:
    """
    Decides run by run. A function of the run, of what *lookup* holds and of the KMS.

    Args:
        partitions: of the asset topic, for the check that an event stands where its key belongs.
        generation: of the asset topic, counted by `keymill topics adopt`.
    """

    def __init__(self, keyring: Keyring, decoder: Decoder, *, partitions: int, generation: int) -> None:
        self._keyring = keyring
        self._decode = decoder
        self._partitions = partitions
        self._generation = generation

    def begin(self, run: Run) -> Decided:
        """An empty decision for *run*; give it each record in order."""
        return Decided(run, self._generation)

    def record(self, record: RawRecord, decided: Decided, lookup: Lookup) -> None:
        """Decide one record. Raises only what is not the record's fault."""
        event: AssetEvent | None = None
        try:
            event = self._event_of(record)
            self._event(event, record, decided, lookup)
        except Reject as error:
            decided.dead_letter(record, error, event)

    def _event_of(self, record: RawRecord) -> AssetEvent:
        if record.key is None:
            raise InvalidRecord("the record has no key: use organization/asset", field="key", code="null_key")
        right = partition_for(record.key, self._partitions)
        if right != record.partition:
            message = f"the record stands on partition {record.partition}, its key belongs on {right}: use murmur2"
            raise InvalidRecord(message, field="partition", code="wrong_partition")
        if record.value is None:
            raise InvalidRecord(
                "the record has no value: assets are revoked, never deleted", field="value", code="null_value"
            )
        event = self._decode(record.value, record.headers)
        if asset_key(event.organization, event.asset) != record.key:
            raise InvalidRecord(
                "the record key is not organization/asset of its event", field="key", code="key_mismatch"
            )
        return event

    def _event(self, event: AssetEvent, record: RawRecord, decided: Decided, lookup: Lookup) -> None:
        record_key = asset_key(event.organization, event.asset)
        held = decided.assets.get(record_key) or lookup.asset(event.organization, event.asset)
        at = Coordinates(
            partition=record.partition,
            position=LogPosition(generation=self._generation, offset=record.offset),
            timestamp=record.timestamp_ms,
        )
        folded = fold(event, at=at, held=held, root_version=self._root_version(event, record, held))
        for need in needed(folded.asset, event):
            if need.record_key in decided.key_records or lookup.has(need.record_key):
                continue
            keys = self._keys(event, need.root_version)
            decided.key_records[need.record_key] = encode(make_key_record(folded.asset, need, keys))
            decided.request_ids[need.record_key] = request_id_of(record)
        if folded.changed:
            decided.assets[record_key] = folded.asset
            decided.request_ids[record_key] = request_id_of(record)

    def _root_version(self, event: AssetEvent, record: RawRecord, held: AssetRecord | None) -> int:
        try:
            return self._keyring.root_version_at(event.organization, record.timestamp_ms)
        except UnknownKey as error:
            if held is not None:
                raise _lost(error, event) from None
            raise UnknownKey(str(error), field="organization", code="unknown_organization") from None

    def _keys(self, event: AssetEvent, root_version: int) -> Keys:
        try:
            return self._keyring.keys_for(event.organization, root_version)
        except UnknownKey as error:
            raise _lost(error, event) from None


def _lost(error: UnknownKey, event: AssetEvent) -> Misconfigured:
    """The keys were here once: an old copy of them is no fault of the event, which must wait and not be refused."""
    return Misconfigured(f"asset {event.organization}/{event.asset}: {error}; restore the newest backup of the keys")


def request_id_of(record: RawRecord) -> str:
    """The request id that the record's header carries, at most 128 characters; empty without one."""
    for name, value in record.headers:
        if name == REQUEST_ID_HEADER:
            return (value or b"")[:128].decode("ascii", "replace")
    return ""
