"""
Repair: what a replay found missing is asked for of the owners of its partitions, one record key of a source at a time.

A request names every accepted event, or policy change, of the record key, and those whose dead letters are gone; the
owner decides them again from nothing, so it cannot change a key.
"""

import time
import uuid
from collections.abc import Iterator, Mapping
from itertools import takewhile
from typing import Final

from keymill.errors import Misconfigured
from keymill.kafka.outgoing import Outgoing
from keymill.ops.changes import Changes
from keymill.ops.lacking import Lacking, Lacks
from keymill.ops.source import Source
from keymill.telemetry import REQUEST_ID_HEADER
from schemas import topics
from schemas.codec import encode
from schemas.operations import OwnerRequest, RepairRequest, RequestKind

WHY: Final = "repairs to ask for"
MAX_REQUEST: Final = 64_000
"""Bytes; below the topic's 64 KiB. An event takes three of them where its log has two million."""


class Told:
    """What was asked for: `request_ids` by partition. `too_large` are record keys of which no request names all."""

    def __init__(self) -> None:
        self.assets = 0
        self.organizations = 0
        self.letters = 0
        self.request_ids: dict[int, set[str]] = {}
        self.too_large: list[str] = []

    @property
    def requests(self) -> int:
        """How many there are."""
        return sum(map(len, self.request_ids.values()))

    def add(self, request: OwnerRequest | RepairRequest, topic: str, partition: int) -> None:
        """Count one."""
        self.request_ids.setdefault(partition, set()).add(request.request_id)
        self.assets += topic == topics.ASSETS.name and bool(request.offsets)
        self.organizations += topic == topics.POLICY_CHANGES.name and bool(request.offsets)
        self.letters += len(request.refused) if isinstance(request, RepairRequest) else 0


def ask(changes: Changes, sources: Mapping[str, Source], lacking: Lacking, partitions: int) -> Told:
    """
    Hand over a request for every record key of a source that lacks something.

    Args:
        sources: by topic.
        partitions: of the topic of requests; each source has as many.
    """
    told = Told()
    for (topic, partition), lacks in lacking.items():
        if sources[topic].partitions != partitions:
            message = f"{topic} has {sources[topic].partitions} partitions, {topics.REQUESTS.name} {partitions}"
            raise Misconfigured(f"{message}: one owner cannot be asked about the other's")
        for record_key, request in _requests(sources[topic], partition, lacks):
            value = encode(request)
            if len(value) > MAX_REQUEST:
                told.too_large.append((record_key or b"").decode("utf-8", "replace"))
                continue
            told.add(request, topic, partition)
            changes.make(_outgoing(request, record_key, value, partition), WHY)
    return told


def _outgoing(
    request: OwnerRequest | RepairRequest, record_key: bytes | None, value: bytes, partition: int
) -> Outgoing:
    place = f"{request.topic}/{request.partition}".encode() if isinstance(request, RepairRequest) else record_key
    return Outgoing(
        topic=topics.REQUESTS.name, record_key=place or b"", value=value, partition=partition,
        headers=((REQUEST_ID_HEADER, request.request_id.encode()),),
    )  # fmt: skip


def _requests(
    source: Source, partition: int, lacks: Lacks
) -> Iterator[tuple[bytes | None, OwnerRequest | RepairRequest]]:
    now = int(time.time() * 1000)
    for record_key, (accepted, refused) in _named(source, partition, lacks).items():
        request_id, generation = f"repair-{uuid.uuid4().hex}", source.adopted.generation
        if source.pair.source is topics.ASSETS and record_key and not refused:  # older processors execute it too
            organization, _, asset = record_key.decode("ascii").partition("/")
            yield record_key, OwnerRequest(
                organization=organization, asset=asset, kind=RequestKind.REPAIR, generation=generation,
                offsets=accepted, request_id=request_id, requested=now,
            )  # fmt: skip
        else:
            yield record_key, RepairRequest(
                topic=source.pair.source.name, partition=partition, generation=generation,
                offsets=accepted, refused=refused, request_id=request_id, requested=now,
            )  # fmt: skip


def _named(source: Source, partition: int, lacks: Lacks) -> dict[bytes | None, tuple[tuple[int, ...], tuple[int, ...]]]:
    """By record key the offsets of every record that was accepted, and of those whose dead letters are gone."""
    record_keys = set[bytes | None](lacks.record_keys) | _keys_of(source, partition, lacks)
    known = source.refused(partition)
    accepted: dict[bytes | None, list[int]] = {key: [] for key in record_keys}
    refused: dict[bytes | None, list[int]] = {key: [] for key in record_keys}
    for record in source.events(partition):
        if record.key not in record_keys or record.offset in known:
            continue
        if record.offset in lacks.letters:
            refused[record.key].append(record.offset)
        elif lacks.until is None or record.offset < lacks.until:
            accepted[record.key].append(record.offset)
    return {key: (tuple(accepted[key]), tuple(refused[key])) for key in record_keys if accepted[key] or refused[key]}


def _keys_of(source: Source, partition: int, lacks: Lacks) -> set[bytes | None]:
    """The record keys of the records whose dead letters are gone."""
    if not lacks.letters:
        return set()
    last = max(lacks.letters)
    some = takewhile(lambda record: record.offset <= last, source.events(partition, min(lacks.letters)))
    return {record.key for record in some if record.offset in lacks.letters}
