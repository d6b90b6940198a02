"""The typed reads of one moment of a view. Values that were read stay valid: they are copies."""

from collections.abc import Iterator
from functools import lru_cache
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import lmdb

from keymill.core.claim_log import winner
from keymill.core.policy_records import requested
from keymill.snapshot import layout, policy_index
from keymill.snapshot.layout import Owner, Place, Rejection
from keymill.snapshot.policy_index import PolicyHead
from schemas import topics
from schemas.access import Credential, Entitlement, Service
from schemas.codec import decode
from schemas.records import AssetRecord, Claim, KeyRecord, PolicyRecord
from schemas.values import Record

T = TypeVar("T", bound=Record)

UNDECODABLE: Final = "undecodable"
CACHED_RECORDS: Final = 4096
"""Decoded records kept per process, found by their bytes: decoding costs 10 to 60 times the read."""


@lru_cache(maxsize=CACHED_RECORDS)
def _decoded(value: bytes, kind: type[T]) -> T:
    return decode(value, kind)


def key_of(*names: str) -> bytes:
    """A record key of names from outside; empty, and so never found, when one of them can be no name."""
    key = "/".join(names)
    if key.isascii() and "\0" not in key and key.count("/") == len(names) - 1:
        return key.encode("ascii")
    return b""


class Reads:
    """Several reads of one state; a `with` block ends it. Stay in one synchronous function, never across an await."""

    def __init__(self, txn: "lmdb.Transaction[bytes]", handles: dict[bytes, Any]) -> None:
        self._txn = txn
        self._handles = handles

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._txn.abort()

    def asset(self, organization: str, asset: str) -> AssetRecord | None:
        """An asset's record."""
        return self._record(topics.KEYS, key_of(organization, asset), AssetRecord)

    def key_records(self, organization: str, asset: str) -> list[KeyRecord]:
        """Every key record of an asset, ordered by record key."""
        if not (name := key_of(organization, asset)):
            return []
        return [_decoded(value, KeyRecord) for _, _, value in self.scan(topics.KEYS.name, name + b"/k/")]

    def key_record(self, record_key: bytes) -> KeyRecord | None:
        """The key record of a record key (`ids.key_set_key`)."""
        return self._record(topics.KEYS, record_key, KeyRecord)

    def has(self, topic: str, record_key: bytes) -> bool:
        """Whether the view holds a record."""
        return self._get(topic, record_key) is not None

    def coordinates(self, topic: str, record_key: bytes) -> Place | None:
        """Where the newest copy of the record that the view holds stands."""
        value = self._get(topic, record_key)
        return None if value is None else Place(*layout.PLACE.unpack_from(value))

    def raw(self, topic: str, record_key: bytes) -> bytes | None:
        """A record's Avro bytes."""
        value = self._get(topic, record_key)
        return None if value is None else value[layout.PLACE_SIZE :]

    def owner(self, organization: str, kid: bytes) -> Owner | None:
        """Who a KID of an organization belongs to: asset, record key of its key record, fingerprint."""
        name = key_of(organization)
        entry = self._txn.get(layout.kid_key(name, kid), db=self._handles[layout.KIDS]) if name else None
        return None if entry is None else layout.unpack_owner(organization, entry)

    def policy(self, organization: str, policy_id: int) -> PolicyRecord | None:
        """A policy of an organization; None for one that was never stored, policy 0 included."""
        return self._record(topics.POLICIES, key_of(organization, str(policy_id)), PolicyRecord)

    def policy_afresh(self, organization: str, policy_id: int) -> PolicyRecord | None:
        """`policy` for one of a list, which must not push out of memory what single requests find decoded there."""
        value = self.raw(topics.POLICIES.name, key_of(organization, str(policy_id)))
        return None if value is None else decode(value, PolicyRecord)

    def policies(self, organization: str) -> list[PolicyRecord]:
        """Every stored policy of an organization, by id."""
        if not (name := key_of(organization)):
            return []
        found = [_decoded(value, PolicyRecord) for _, _, value in self.scan(topics.POLICIES.name, name + b"/")]
        return sorted(found, key=lambda record: record.policy_id)

    def policy_of_request(self, organization: str, request_id: str) -> PolicyRecord | None:
        """The policy that a request created, or that it changed last."""
        key = policy_index.request_key(organization, request_id)
        entry = self._txn.get(key, db=self._handles[layout.NAMES])
        found = None if entry is None else self.policy(organization, policy_index.read_id(entry))
        return found if found and requested(found, request_id) else None

    def policy_head(self, organization: str) -> PolicyHead | None:
        """How many policies an organization has stored, and where the newest change of them stands."""
        if not (name := key_of(organization)):
            return None
        return policy_index.read_head(self._txn.get(policy_index.head_key(name), db=self._handles[layout.NAMES]))

    def policy_ids(self, organization: str, after: int = -1) -> Iterator[tuple[int, bool]]:
        """The stored policies above the id *after*, ascending, each with whether it is deleted; none is decoded."""
        if not (name := key_of(organization)):
            return
        last = policy_index.number_key(name, after) if after >= 0 else b""
        for key, entry in self._range(layout.NAMES, policy_index.number_prefix(name), last):
            yield policy_index.read_id(key), policy_index.is_deleted(entry)

    def entitlement(self, organization: str, user: str, product: str) -> Entitlement | None:
        """Return what a user may play; None for what was withdrawn."""
        found = self.entitlement_record(organization, user, product)
        return None if found is None or found.deleted else found

    def entitlement_record(self, organization: str, user: str, product: str) -> Entitlement | None:
        """Return the record of an entitlement, withdrawn or not."""
        return self._record(topics.ENTITLEMENTS, key_of(organization, user, product), Entitlement)

    def service(self, organization: str | None, service: str, version: str) -> Service | None:
        """A service configuration; without organization the only one of that name, None if several have it."""
        if organization is not None:
            return self._record(topics.SERVICES, key_of(organization, service, version), Service)
        found = self.services(service, version)
        return found[0] if len(found) == 1 else None

    def services(self, service: str, version: str) -> list[Service]:
        """The service configurations of that name in every organization."""
        keys = self._in_any_organization(topics.SERVICES, key_of(service, version))
        return [record for key in keys if (record := self._record(topics.SERVICES, key, Service))]

    def credential(self, organization: str, credential: str) -> Credential | None:
        """A credential of an organization."""
        return self._record(topics.CREDENTIALS, key_of(organization, credential), Credential)

    def credential_by_id(self, credential: str) -> Credential | None:
        """The only credential of that id in any organization; None if several organizations have one."""
        found = self.credentials_by_id(credential)
        return found[0] if len(found) == 1 else None

    def credentials_by_id(self, credential: str) -> list[Credential]:
        """The credentials of that id in every organization."""
        keys = self._in_any_organization(topics.CREDENTIALS, key_of(credential))
        return [record for key in keys if (record := self._record(topics.CREDENTIALS, key, Credential))]

    def claim(self, organization: str, kid: bytes) -> Claim | None:
        """The claim that won a KID, in a view that follows claims."""
        return winner(self._record(topics.CLAIMS, key_of(organization, kid.hex()), Claim))

    def positions(self) -> dict[str, dict[int, int]]:
        """Per topic and partition, the next offset that is not in the view yet."""
        with self._txn.cursor(self._handles[layout.CHECKPOINT]) as cursor:
            return {
                topic.decode("ascii"): {number: slot.offset for number, slot in layout.unpack_slots(data).items()}
                for topic, data in cursor
            }

    def scan(self, topic: str, prefix: bytes = b"", after: bytes = b"") -> Iterator[tuple[bytes, Place, bytes]]:
        """
        Every record of a topic by record key: record key, place, Avro bytes.

        Args:
            after: the record key that the scan goes on behind; empty for the first.
        """
        tag = layout.tag_of(topic)
        for key, value in self._range(layout.RECORDS, tag + prefix, tag + after if after else b""):
            yield key[1:], Place(*layout.PLACE.unpack_from(value)), value[layout.PLACE_SIZE :]

    def rejected(self) -> list[Rejection]:
        """What was quarantined or stale, oldest first; bounded, see the counters of `ViewState` for all."""
        return [layout.unpack_rejection(value) for _, value in self._range(layout.REJECTED, b"")]

    def regressions(self) -> list[Rejection]:
        """
        Refused records that compaction would keep in place of the right ones, the last of each record key.

        A zombie's late write, or a rogue's record or tombstone; the owner of the partition writes the right record over
        it. Not an undecodable one: a newer program may have written it, and knows better.
        """
        seen = [each for each in self.rejected() if each.reason != UNDECODABLE]
        last = {(each.topic, each.partition, each.record_key): each for each in seen}
        return [each for each in last.values() if self._supersedes(each)]

    def _supersedes(self, seen: Rejection) -> bool:
        place = self.coordinates(seen.topic, seen.record_key)
        return place is not None and place.partition == seen.partition and place.offset < seen.offset

    def _get(self, topic: str, record_key: bytes) -> bytes | None:
        if not 0 < len(record_key) <= layout.MAX_KEY:
            return None
        return self._txn.get(layout.tag_of(topic) + record_key, db=self._handles[layout.RECORDS])

    def _record(self, topic: topics.Topic, record_key: bytes, kind: type[T]) -> T | None:
        value = self._get(topic.name, record_key)
        return None if value is None else _decoded(value[layout.PLACE_SIZE :], kind)

    def _range(self, database: bytes, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        with self._txn.cursor(self._handles[database]) as cursor:
            start = max(prefix, after)
            if len(start) > layout.MAX_KEY or not (cursor.set_range(start) if start else cursor.first()):
                return
            if after and cursor.key() == after and not cursor.next():
                return
            for key, value in cursor:
                if not key.startswith(prefix):
                    return
                yield key, value

    def _in_any_organization(self, topic: topics.Topic, name: bytes) -> list[bytes]:
        prefix = layout.TAGS[topic.name] + name + b"\0"
        if not name or len(prefix) > layout.MAX_KEY:
            return []
        return [key[len(prefix) :] + b"/" + name for key, _ in self._range(layout.NAMES, prefix)]
