"""
The index of an organization's policies in a view: by request id, by number, and where the newest change stands.

So neither a request nor a run of changes looks through all of them. It is kept in the transaction that keeps the
record, in the database of names, under tags that no topic has.
"""

import hashlib
import struct
from typing import Any, Final

import lmdb

from schemas.records import PolicyRecord, PolicyState
from schemas.values import LogPosition, Record

_REQUEST: Final = b"r"
"""tag | digest of organization and request id → policy id. An entry may be of a change that a later one went over."""
_NUMBER: Final = b"i"
"""tag | organization / policy id → whether it is deleted."""
_HEAD: Final = b"h"
"""tag | organization → `PolicyHead`."""
_DIGEST_SIZE: Final = 16
_ID: Final = struct.Struct(">q")
_HEAD_VALUE: Final = struct.Struct(">qqqqq")
"""Signed, as the record has them: whatever anybody wrote under a record key of its own can be kept."""
_DELETED: Final = b"\x01"
_READY: Final = b"\x00"


class PolicyHead(Record, frozen=True, kw_only=True):
    """An organization's stored policies: the highest id, how many there are and are deleted, the newest change."""

    newest: int
    stored: int
    deleted: int
    applied: LogPosition


def keep(txn: "lmdb.Transaction[bytes]", handle: Any, new: PolicyRecord, held: PolicyRecord | None) -> None:
    """Take *new* into the index, in place of what was *held* of its policy."""
    organization = new.organization.encode("ascii")
    if held and held.changed_by and held.changed_by != new.changed_by:
        key = request_key(new.organization, held.changed_by.request_id)
        if txn.get(key, db=handle) == _ID.pack(new.policy_id):  # or it was used anew, for another policy
            txn.delete(key, db=handle)
    for accepted in (new.created_by, new.changed_by):
        if accepted is not None:
            txn.put(request_key(new.organization, accepted.request_id), _ID.pack(new.policy_id), db=handle)
    deleted = new.state is PolicyState.DELETED
    txn.put(number_key(organization, new.policy_id), _DELETED if deleted else _READY, db=handle)
    before = read_head(txn.get(_HEAD + organization, db=handle))
    after = PolicyHead(
        newest=max(before.newest, new.policy_id) if before else new.policy_id,
        stored=(before.stored if before else 0) + (held is None),
        deleted=(before.deleted if before else 0) + deleted - (held is not None and held.state is PolicyState.DELETED),
        applied=max(before.applied, new.applied) if before else new.applied,
    )
    at = after.applied
    value = _HEAD_VALUE.pack(after.newest, after.stored, after.deleted, at.generation, at.offset)
    txn.put(_HEAD + organization, value, db=handle)


def request_key(organization: str, request_id: str) -> bytes:
    """Key of the entry of a request id, which may be of any length."""
    name = f"{organization}/{request_id}".encode()
    return _REQUEST + hashlib.sha256(name).digest()[:_DIGEST_SIZE]


def number_key(organization: bytes, policy_id: int) -> bytes:
    """Key of the entry of a policy."""
    return number_prefix(organization) + _ID.pack(policy_id)


def number_prefix(organization: bytes) -> bytes:
    """Where the entries of an organization's policies begin; they ascend by id."""
    return _NUMBER + organization + b"/"


def head_key(organization: bytes) -> bytes:
    """Key of an organization's head."""
    return _HEAD + organization


def read_id(entry: bytes) -> int:
    """The policy id of an entry, or at the end of a key."""
    policy_id: int = _ID.unpack(entry[-_ID.size :])[0]
    return policy_id


def read_head(entry: bytes | None) -> PolicyHead | None:
    """An organization's head; None where it has no stored policy."""
    if entry is None:
        return None
    newest, stored, deleted, generation, offset = _HEAD_VALUE.unpack(entry)
    at = LogPosition(generation=generation, offset=offset)
    return PolicyHead(newest=newest, stored=stored, deleted=deleted, applied=at)


def is_deleted(entry: bytes) -> bool:
    """Whether an entry by number is of a deleted policy."""
    return entry == _DELETED
