"""
Wrapping: CEKs and IVs under a KEK, bound to the identity of their record.

AES-256-SIV is deterministic, so a replay gives the same bytes within an epoch; its associated data names the
record, so a wrapped blob moved to another record does not open.

Source: RFC 5297 (AES-SIV); the key has 64 bytes.
"""

from collections.abc import Sequence
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from keymill.core.derive import CEK_SIZE, IV_SIZE, fingerprint
from keymill.core.identity import Part, canonical, canonical_name, framed, recurring
from keymill.errors import Corrupt, InvalidRecord
from keymill.secret import Secret
from schemas.events import ImportedKey
from schemas.records import KeyRecord
from schemas.values import Record

KEK_SIZE: Final = 64
TAG_SIZE: Final = 16
_ENTRY: Final = CEK_SIZE + IV_SIZE
_KEYS: Final = canonical("keymill/keys/v1")


class ClearKey(Record, frozen=True, kw_only=True):
    """One unwrapped track key, 16 bytes each."""

    cek: Secret
    iv: Secret


class Wrappable(Protocol):
    """Anything that has a CEK and an IV."""

    @property
    def cek(self) -> Secret:
        """16 bytes."""
        ...

    @property
    def iv(self) -> Secret:
        """16 bytes."""
        ...


def associated_data(record: KeyRecord) -> bytes:
    """Every field that names the record and its tracks, and the KEK epoch. `wrapped` itself is not read."""
    period, event = record.period, record.event
    at = (period.index, period.start, period.end) if period else (None, None, None)
    pieces = [
        _KEYS,
        canonical_name(record.organization, record.asset),
        recurring(record.key_version, record.root_version, *at),
        canonical(event.generation, event.offset, record.kek_epoch),
    ]
    for track in record.tracks:
        pieces += (framed(track.kid), framed(track.fp), recurring(track.label, track.scheme, track.origin))
    return b"".join(pieces)


def wrap_keys(kek: Secret, record: KeyRecord, keys: Sequence[Wrappable]) -> bytes:
    """Wrap *keys*, in the order of `record.tracks`: 16 + 32 bytes a track."""
    if len(keys) != len(record.tracks):
        raise ValueError("as many keys as tracks")
    clear = b"".join([key.cek.reveal() + key.iv.reveal() for key in keys])
    return kek.keyed(AESSIV).encrypt(clear, [associated_data(record)])


def unwrap_keys(kek: Secret, k_fp: Secret, record: KeyRecord) -> tuple[ClearKey, ...]:
    """
    Return the keys of *record* in the order of its tracks, each checked against its fingerprint.

    Raises:
        Corrupt: a field was changed, the blob is another record's, or a key is not the one that was promised.
    """
    name = f"key record of {record.organization}/{record.asset} version {record.key_version}"
    try:
        clear = kek.keyed(AESSIV).decrypt(record.wrapped, [associated_data(record)])
    except (InvalidTag, ValueError, OverflowError):  # OverflowError: a negative number, which no writer of ours wrote
        raise Corrupt(f"{name} does not open under KEK epoch {record.kek_epoch}") from None
    if len(clear) != _ENTRY * len(record.tracks):
        raise Corrupt(f"{name} holds {len(clear)} bytes for {len(record.tracks)} tracks")
    keys = tuple(_entry(clear, index) for index in range(len(record.tracks)))
    for track, key in zip(record.tracks, keys, strict=True):
        if fingerprint(k_fp, track.kid, key.cek) != track.fp:
            raise Corrupt(f"{name}: KID {track.kid.hex()} holds another key than its fingerprint says")
    return keys


def _entry(clear: bytes, index: int) -> ClearKey:
    start = index * _ENTRY
    return ClearKey(cek=Secret(clear[start : start + CEK_SIZE]), iv=Secret(clear[start + CEK_SIZE : start + _ENTRY]))


def wrap_imported(
    kek: Secret, k_fp: Secret, *, organization: str, kid: bytes, key: ClearKey, intake_epoch: int
) -> ImportedKey:
    """Wrap a key that existed before, for its event. *kek*: the intake KEK of that epoch."""
    associated = _intake_data(organization, kid, intake_epoch)
    wrapped = kek.keyed(AESSIV).encrypt(key.cek.reveal() + key.iv.reveal(), [associated])
    return ImportedKey(intake_epoch=intake_epoch, wrapped=wrapped, fp=fingerprint(k_fp, kid, key.cek))


def unwrap_imported(kek: Secret, k_fp: Secret, *, organization: str, kid: bytes, imported: ImportedKey) -> ClearKey:
    """
    The inverse of `wrap_imported`.

    Raises:
        InvalidRecord: `imported_key`; it does not open for this organization, KID and epoch, or is another key than
            its fingerprint says.
    """
    try:
        clear = kek.keyed(AESSIV).decrypt(imported.wrapped, [_intake_data(organization, kid, imported.intake_epoch)])
    except (InvalidTag, ValueError):
        raise _unfit(kid, f"does not open under intake KEK epoch {imported.intake_epoch}") from None
    key = _entry(clear, 0)
    if fingerprint(k_fp, kid, key.cek) != imported.fp:
        raise _unfit(kid, "is another key than its fingerprint says")
    return key


def _intake_data(organization: str, kid: bytes, intake_epoch: int) -> bytes:
    return canonical("keymill/intake/v1", organization, kid, intake_epoch)


def _unfit(kid: bytes, what: str) -> InvalidRecord:
    message = f"tracks.imported: the key of KID {kid.hex()} {what}"
    return InvalidRecord(message, field="tracks.imported", code="imported_key")


def wrap_secret(kek: Secret, secret: Secret, *identity: Part) -> bytes:
    """Wrap any other secret (a signer's key) under the identity of the record that carries it."""
    return kek.keyed(AESSIV).encrypt(secret.reveal(), [canonical("keymill/secret/v1", *identity)])


def unwrap_secret(kek: Secret, wrapped: bytes, *identity: Part) -> Secret:
    """The inverse of `wrap_secret`; raises `Corrupt` when the identity or the KEK is another."""
    try:
        return Secret(kek.keyed(AESSIV).decrypt(wrapped, [canonical("keymill/secret/v1", *identity)]))
    except (InvalidTag, ValueError):
        raise Corrupt(f"the wrapped secret of {'/'.join(map(str, identity))} does not open") from None
