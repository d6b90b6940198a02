"""
One batch of candidates against what is held: prefetch, judge in log order, write.

Everything a batch touches is fetched first, in key order; judging then works on plain dicts; what changed is put in key
order. That keeps a bulk load's tree walks local, and gives a single record the same path.
"""

from collections.abc import Sequence
from typing import Any, Final, TypeVar

import lmdb

from keymill.core import claim_log, view
from keymill.core.view import APPLIED, SAME, KidOwner, Verdict
from keymill.snapshot import layout, peek, policy_index
from keymill.snapshot.incoming import Candidate, Examined
from keymill.snapshot.layout import KIDS, NAMES, PLACE, PLACE_SIZE, RECORDS
from schemas import topics
from schemas.access import Credential, Entitlement, Service
from schemas.codec import decode
from schemas.records import AssetRecord, Claim, KeyRecord, PolicyRecord
from schemas.values import KID_SIZE, Record

R = TypeVar("R", bound=Record)

_SEQUENCED: Final[dict[str, type[view.Sequenced]]] = {
    topics.CREDENTIALS.name: Credential, topics.SERVICES.name: Service, topics.ENTITLEMENTS.name: Entitlement,
}  # fmt: skip
_NAMED: Final = frozenset({topics.SERVICES.name, topics.CREDENTIALS.name})
_INDEXED: Final = _NAMED | {topics.POLICIES.name}
"""Topics whose records stand in the database of names too, one by one; they are few."""


class Batch:
    """The state that one write transaction reads and leaves behind."""

    def __init__(
        self, txn: "lmdb.Transaction[bytes]", handles: dict[bytes, Any], candidates: Sequence[Candidate]
    ) -> None:
        self._txn = txn
        self._handles = handles
        self._keys = sorted({candidate.key for candidate in candidates})
        self._kid_keys = sorted({kid for candidate in candidates if candidate.kids for kid in candidate.kids})
        self._records = self._fetch(RECORDS, self._keys)
        self._kids = self._fetch(KIDS, self._kid_keys)
        self._changed: dict[bytes, bytes] = {}
        self._new_kids: dict[bytes, bytes] = {}

    def take(self, candidate: Candidate) -> Verdict:
        """Judge a candidate, in log order, and keep what its verdict says."""
        key, kids = candidate.key, candidate.kids
        if key not in self._records and (kids is None or self._unknown(kids)):
            self._keep(candidate, candidate.value)  # what every judge says of a record when nothing is held
            return APPLIED
        held = self._records.get(key)
        verdict = self._judge(candidate, held[PLACE_SIZE:] if held else None)
        if verdict is SAME and candidate.message.topic == topics.CLAIMS.name:
            return SAME
        if verdict is APPLIED or verdict is SAME:
            self._keep(candidate, candidate.value)  # a repeat moves the place to the copy that compaction keeps
        return verdict

    def flush(self) -> None:
        """Put everything that changed, in key order."""
        changed, new_kids = self._changed, self._new_kids
        self._put(RECORDS, [(key, changed[key]) for key in self._keys if key in changed])
        self._put(KIDS, [(kid, new_kids[kid]) for kid in self._kid_keys if kid in new_kids])

    def _fetch(self, database: bytes, keys: list[bytes]) -> dict[bytes, bytes]:
        with self._txn.cursor(self._handles[database]) as cursor:
            return dict(cursor.getmulti(keys))

    def _put(self, database: bytes, items: list[tuple[bytes, bytes]]) -> None:
        with self._txn.cursor(self._handles[database]) as cursor:
            cursor.putmulti(items, append=not cursor.first())

    def _unknown(self, kids: list[bytes]) -> bool:
        """Whether nobody owns any of these KIDs, and none is there twice."""
        return self._kids.keys().isdisjoint(kids) and len(set(kids)) == len(kids)

    def _keep(self, candidate: Candidate, value: bytes) -> None:
        key, message = candidate.key, candidate.message
        if message.topic == topics.POLICIES.name:
            held = self._records.get(key)
            before = None if held is None else decode(held[PLACE_SIZE:], PolicyRecord)
            policy_index.keep(self._txn, self._handles[NAMES], _whole(candidate, PolicyRecord), before)
        self._changed[key] = self._records[key] = PLACE.pack(message.partition, message.offset) + value
        if candidate.kids and candidate.tracks:
            for kid, (_, fp) in zip(candidate.kids, candidate.tracks, strict=True):
                if kid not in self._kids:
                    self._kids[kid] = self._new_kids[kid] = fp + candidate.rest
        elif message.topic in _NAMED:
            self._txn.put(layout.name_key(key[:1], key[1:]), b"", db=self._handles[NAMES])

    def _judge(self, candidate: Candidate, held: bytes | None) -> Verdict:
        topic = candidate.message.topic
        if topic == topics.KEYS.name:
            if candidate.kids is not None:
                return self._judge_keys(candidate, candidate.kids, held)
            return _judge_asset(candidate, held)
        if topic == topics.POLICIES.name:
            record = _whole(candidate, PolicyRecord)
            return view.judge_policy_record(record, None if held is None else decode(held, PolicyRecord))
        if topic == topics.CLAIMS.name:
            return APPLIED if held is None else _judge_claim(_whole(candidate, Claim), decode(held, Claim))
        kind = _SEQUENCED[topic]
        return view.judge_sequenced(_whole(candidate, kind), None if held is None else decode(held, kind))

    def _judge_keys(self, candidate: Candidate, kids: list[bytes], held: bytes | None) -> Verdict:
        if held == candidate.value:
            return SAME
        organization = candidate.key[1:].split(b"/", 1)[0].decode("ascii")
        owners: dict[bytes, KidOwner] = {}
        for kid in kids:
            if entry := self._kids.get(kid):
                owner = layout.unpack_owner(organization, entry)
                owners[kid[-KID_SIZE:]] = KidOwner(asset=owner.asset, fp=owner.fp)
        new = _whole(candidate, KeyRecord)
        return view.judge_key_record(new, None if held is None else decode(held, KeyRecord), owners)


def put_new(txn: "lmdb.Transaction[bytes]", handles: dict[bytes, Any], examined: Sequence[Examined]) -> bool:
    """
    Put a batch of which every record key and KID is new, without looking first: half the work of judging it.

    Every judge takes a record when nothing is held that it could contradict. When something is, or anything in the
    batch is not as simple as that, the answer is False and the transaction must be aborted.
    """
    records: dict[bytes, bytes] = {}
    kids: dict[bytes, bytes] = {}
    count = kid_count = 0
    for found in examined:
        if isinstance(found, str) or found.message.topic in _INDEXED:
            return False
        message, rest = found.message, found.rest
        records[found.key] = PLACE.pack(message.partition, message.offset) + found.value
        count += 1
        if found.kids and found.tracks:
            kid_count += len(found.kids)
            for kid, (_, fp) in zip(found.kids, found.tracks, strict=True):
                kids[kid] = fp + rest
    if len(records) != count or len(kids) != kid_count:
        return False
    return _all_new(txn, handles[RECORDS], records) and _all_new(txn, handles[KIDS], kids)


def _all_new(txn: "lmdb.Transaction[bytes]", handle: Any, entries: dict[bytes, bytes]) -> bool:
    with txn.cursor(handle) as cursor:
        _, added = cursor.putmulti([(key, entries[key]) for key in sorted(entries)], overwrite=False)
    return added == len(entries)


def _judge_claim(new: Claim, held: Claim) -> Verdict:
    """The lowest offset has won, until its claim is released."""
    return SAME if claim_log.folded(held, new) is held else APPLIED


def _judge_asset(candidate: Candidate, held: bytes | None) -> Verdict:
    if held is None:
        return APPLIED
    if held == candidate.value:
        return SAME
    if candidate.names:
        new, before = peek.asset_peek(candidate.value, candidate.names), peek.asset_peek(held, candidate.names)
        if new and before and new.applied > before.applied and new.versions == before.versions:
            return APPLIED
    return view.judge_asset_record(_whole(candidate, AssetRecord), decode(held, AssetRecord))


def _whole(candidate: Candidate, kind: type[R]) -> R:
    """The record of a candidate that a peek took."""
    if isinstance(candidate.record, kind):
        return candidate.record
    return decode(candidate.value, kind)
