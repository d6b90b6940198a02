"""Policies from the command line: read from their topic, changed and assigned through the logs."""

import time
import uuid
from collections.abc import Iterator
from typing import TypeVar

import msgspec
from confluent_kafka import Message

from keymill import telemetry
from keymill.core.assignment import assignable, check_tracks
from keymill.core.bodies import policy_request_id_of
from keymill.core.policy_changes import request_hash
from keymill.core.policy_records import all_policies, requested
from keymill.errors import InvalidRecord, Reject, UnknownKey
from keymill.kafka.admin import end_offsets, require_topics
from keymill.kafka.scan import scan_partition
from keymill.ops.credentials import existing
from keymill.ops.results import WAIT_S, result_of
from schemas import topics
from schemas.codec import decode
from schemas.events import AssetEvent, PolicyAssigned, PolicyChange, PolicyCreated, PolicyUpdated
from schemas.ids import asset_key, check_asset, scoped_key
from schemas.records import AssetRecord, PolicyRecord
from schemas.topics import Topic
from schemas.values import LogPosition, Record

R = TypeVar("R", bound=Record)
log = telemetry.logger("ops.policies")


def policies(bootstrap: str, organization: str) -> list[PolicyRecord]:
    """Every policy of an organization by id, policy 0 among them; raises `UnknownKey` for no organization."""
    existing(bootstrap, organization)
    newest: dict[int, PolicyRecord] = {}
    for record in _records(bootstrap, topics.POLICIES, scoped_key(organization, ""), PolicyRecord):
        held = newest.get(record.policy_id)
        if held is None or held.applied <= record.applied:  # as every view does, never a zombie's late write
            newest[record.policy_id] = record
    return all_policies(organization, newest.values())


def policy(bootstrap: str, organization: str, policy_id: int) -> PolicyRecord:
    """A policy; raises `UnknownKey`."""
    found = next((each for each in policies(bootstrap, organization) if each.policy_id == policy_id), None)
    if found is None:
        message = f"organization {organization} has no policy {policy_id}"
        raise UnknownKey(message, field="policy_id", code="policy_unknown")
    return found


def change(
    bootstrap: str,
    organization: str,
    body: PolicyCreated | PolicyUpdated,
    idempotency_key: str | None = None,
    *,
    wait_s: float = WAIT_S,
) -> PolicyRecord:
    """
    Change an organization's policies; returns the record that the processor wrote.

    Raises:
        Reject: the processor refused the change.
        Unavailable: no result in time; again with the same idempotency key it has no second effect.
    """
    existing(bootstrap, organization)
    drawn = f"r-{uuid.uuid4().hex}"
    request_id = drawn if idempotency_key is None else policy_request_id_of(organization, idempotency_key)
    asked = PolicyChange(organization=organization, request_id=request_id, event_time=_now_ms(), body=body)
    asked = msgspec.structs.replace(asked, request_hash=request_hash(asked))
    prefix = scoped_key(organization, "")

    def look(message: Message, at: LogPosition) -> PolicyRecord | None:
        record = _read(message, prefix, PolicyRecord)
        if record is None or record.applied < at:
            return None
        changed = isinstance(body, PolicyUpdated) and record.policy_id == body.policy_id
        return record if changed or requested(record, request_id) else None

    on = (topics.POLICY_CHANGES, organization.encode("ascii"))
    return result_of(bootstrap, asked, on=on, result=(topics.POLICIES, prefix), look=look, wait_s=wait_s)


def assign(bootstrap: str, organization: str, asset: str, policy_id: int, *, wait_s: float = WAIT_S) -> AssetRecord:
    """
    Give an asset another policy; returns its record with it.

    Raises:
        UnknownKey: no such asset.
        Reject: `policy_unknown`, `policy_deleted`, `tracks_not_named`; or the processor refused the event.
        Unavailable: no result in time; assigning again changes nothing more.
    """
    record_key = asset_key(organization, check_asset(asset))
    stored = {each.policy_id: each for each in policies(bootstrap, organization)}
    content = assignable(organization, policy_id, stored.get(policy_id))
    records = _records(bootstrap, topics.KEYS, record_key, AssetRecord)
    held = max(records, key=lambda record: record.applied, default=None)
    if held is None:
        raise UnknownKey(f"organization {organization} has no asset {asset}", field="asset", code="unknown_asset")
    try:
        check_tracks(policy_id, content, held)
    except InvalidRecord as error:  # nothing that was given breaks its format
        raise Reject(str(error), field=error.field, code=error.code) from None
    body = PolicyAssigned(policy_id=policy_id)
    event = AssetEvent(organization=organization, asset=asset, event_time=_now_ms(), body=body)

    def look(message: Message, at: LogPosition) -> AssetRecord | None:
        record = _read(message, record_key, AssetRecord)
        return record if record is not None and record.applied >= at else None

    on = (topics.ASSETS, record_key)
    return result_of(bootstrap, event, on=on, result=(topics.KEYS, record_key), look=look, wait_s=wait_s)


def _records(bootstrap: str, topic: Topic, record_key: bytes, kind: type[R]) -> Iterator[R]:
    """What a compacted topic holds under a record key, or under all that begin with one that ends in `/`."""
    partition = topics.partition_of(topic, record_key, require_topics(bootstrap, [topic.name])[topic.name].partitions)
    end = end_offsets(bootstrap, topic.name)[partition]
    for message in scan_partition(bootstrap, topic.name, partition, end=end):
        if (record := _read(message, record_key, kind)) is not None:
            yield record


def _read(message: Message, record_key: bytes, kind: type[R]) -> R | None:
    key, value = message.key() or b"", message.value()
    mine = key.startswith(record_key) if record_key.endswith(b"/") else key == record_key
    if not mine or value is None:
        return None
    try:
        return decode(value, kind)
    except InvalidRecord as error:
        log.warning("record refused", topic=message.topic(), offset=message.offset(), reason=str(error))
        return None


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
