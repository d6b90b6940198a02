"""
One batch of candidates against what is held: prefetch, judge in log order, write.

Everything a batch touches is fetched first, in key order; judging then works on plain dicts; what changed is put in key
order. That keeps a bulk load's tree walks local, and gives a single record the same path.
"""

from collections.abc import Iterable
from typing import Any, Final, TypeVar

import lmdb

from keymill.core import view
from keymill.core.view import APPLIED, SAME, Fate, KidOwner, Verdict
from keymill.snapshot import layout, peek
from keymill.snapshot.incoming import Candidate
from keymill.snapshot.layout import KIDS, NAMES, PLACE, PLACE_SIZE, RECORDS
from schemas import topics
from schemas.codec import decode
from schemas.records import AssetRecord, KeyRecord, PolicyRecord
from schemas.values import Record

R = TypeVar("R", bound=Record)

_NAMED: Final = frozenset({topics.SERVICES.name, topics.CREDENTIALS.name})


class Batch:
    """The state that one write transaction reads and leaves behind."""

    def __init__(
        self, txn: "lmdb.Transaction[bytes]", handles: dict[bytes, Any], candidates: Iterable[Candidate]
    ) -> None:
        self._txn = txn
        self._handles = handles
        records, kids = set(), set()
        for candidate in candidates:
            records.add(candidate.key)
            if candidate.tracks:
                organization = candidate.key[1:].split(b"/", 1)[0]
                kids.update([organization + b"/" + kid for kid, _ in candidate.tracks])
        self._records = self._fetch(RECORDS, records)
        self._kids = self._fetch(KIDS, kids)
        self._changed: dict[bytes, bytes | None] = {}
        self._new_kids: dict[bytes, bytes] = {}

    def take(self, candidate: Candidate) -> Verdict:
        """Judge a candidate, in log order, and keep what its verdict says."""
        held = self._records.get(candidate.key)
        verdict = self._judge(candidate, held[PLACE_SIZE:] if held else None)
        if verdict.fate is Fate.APPLIED or (
            verdict.fate is Fate.SAME and candidate.message.topic != topics.CLAIMS.name
        ):
            self._keep(candidate)  # a repeat moves the place to the copy that compaction keeps; a claim's is its first
        return verdict

    def flush(self) -> None:
        """Put everything that changed, in key order."""
        kept = [(key, value) for key, value in sorted(self._changed.items()) if value is not None]
        self._put(RECORDS, kept)
        self._put(KIDS, sorted(self._new_kids.items()))
        for key in [key for key, value in self._changed.items() if value is None]:
            self._txn.delete(key, db=self._handles[RECORDS])

    def _fetch(self, database: bytes, keys: set[bytes]) -> dict[bytes, bytes]:
        with self._txn.cursor(self._handles[database]) as cursor:
            return dict(cursor.getmulti(sorted(keys)))

    def _put(self, database: bytes, items: list[tuple[bytes, bytes]]) -> None:
        with self._txn.cursor(self._handles[database]) as cursor:
            append = not cursor.first()
            cursor.putmulti(items, append=append)

    def _keep(self, candidate: Candidate) -> None:
        key, value, message = candidate.key, candidate.value, candidate.message
        if value is None:
            self._records.pop(key, None)
            self._changed[key] = None
            return
        self._changed[key] = self._records[key] = PLACE.pack(message.partition, message.offset) + value
        if candidate.tracks:
            organization, asset = key[1:-35].split(b"/", 1)
            rest = bytes.fromhex(key[-32:].decode("ascii")) + asset
            for kid, fp in candidate.tracks:
                name = layout.kid_key(organization, kid)
                if name not in self._kids:
                    self._kids[name] = self._new_kids[name] = fp + rest
        elif message.topic in _NAMED:
            self._txn.put(layout.name_key(key[:1], key[1:]), b"", db=self._handles[NAMES])

    def _judge(self, candidate: Candidate, held: bytes | None) -> Verdict:
        topic = candidate.message.topic
        if topic == topics.KEYS.name:
            if candidate.tracks is not None:
                return self._judge_keys(candidate, candidate.tracks, held)
            return self._judge_asset(candidate, held)
        if topic == topics.POLICIES.name:
            record = _whole(candidate, PolicyRecord)
            return view.judge_policy_record(record, None if held is None else decode(held, PolicyRecord))
        if topic == topics.CLAIMS.name:
            return APPLIED if held is None else SAME  # the lowest offset wins for ever
        return APPLIED if held != candidate.value else SAME

    def _judge_keys(self, candidate: Candidate, tracks: list[tuple[bytes, bytes]], held: bytes | None) -> Verdict:
        organization = candidate.key[1:].split(b"/", 1)[0].decode("ascii")
        prefix = organization.encode("ascii")
        known = {kid: entry for kid, _ in tracks if (entry := self._kids.get(prefix + b"/" + kid))}
        if held is None and not known and len(dict(tracks)) == len(tracks):
            return APPLIED
        if held == candidate.value:
            return SAME
        entries = {kid: layout.unpack_owner(organization, entry) for kid, entry in known.items()}
        owners = {kid: KidOwner(asset=owner.asset, fp=owner.fp) for kid, owner in entries.items()}
        new = _whole(candidate, KeyRecord)
        return view.judge_key_record(new, None if held is None else decode(held, KeyRecord), owners)

    def _judge_asset(self, candidate: Candidate, held: bytes | None) -> Verdict:
        if held is None:
            return APPLIED
        if held == candidate.value:
            return SAME
        if candidate.about:
            organization, asset = candidate.key[1:].split(b"/", 1)
            before = peek.asset_peek(held, organization, asset)
            if before and candidate.about.applied > before.applied and candidate.about.versions == before.versions:
                return APPLIED
        return view.judge_asset_record(_whole(candidate, AssetRecord), decode(held, AssetRecord))


def _whole(candidate: Candidate, kind: type[R]) -> R:
    """The record of a candidate that a peek took."""
    if isinstance(candidate.record, kind):
        return candidate.record
    assert candidate.value is not None
    return decode(candidate.value, kind)
