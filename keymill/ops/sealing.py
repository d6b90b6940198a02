"""
Encryption of a backup: a key of its own for the file, which any *quorum* of the recipients can open.

For every group of *quorum* recipients there is an envelope: the file key under HPKE (RFC 9180: X25519, HKDF-SHA256,
AES-256-GCM) to the last of them, that under HPKE to the one before, and so on. Whoever lacks one identity of a group
lacks a layer of its envelope. The content is cut into chunks under AES-256-GCM, whose nonce counts them and marks the
last one, so that none can be changed, left out, moved or appended (STREAM, Hoang and others, CRYPTO 2015).
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Final

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from keymill.core.identity import canonical
from keymill.errors import Corrupt, InvalidRecord, Misconfigured
from keymill.ops.recipients import Identity, public_key

SUITE: Final = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
FILE_KEY_SIZE: Final = 32
CHUNK: Final = 1 << 20
TAG: Final = 16
MAX_RECIPIENTS: Final = 10
"""Five of ten are 252 envelopes, which take 60 KiB and a fifth of a second."""


class Envelope(msgspec.Struct, frozen=True, array_like=True):
    """The file key for one group of recipients, by their places; the first one's layer is the outermost."""

    holders: tuple[int, ...]
    sealed: bytes


def check_group(recipients: Sequence[str], quorum: int) -> None:
    """Raise `InvalidRecord` for recipients and a quorum that no backup can have."""
    if not 1 <= len(recipients) <= MAX_RECIPIENTS or len(set(recipients)) != len(recipients):
        raise InvalidRecord(f"a backup has 1 to {MAX_RECIPIENTS} recipients, each once", field="recipient")
    if not 1 <= quorum <= len(recipients):
        raise InvalidRecord(f"the quorum is 1 to {len(recipients)}, as many recipients as there are", field="quorum")


def draw_file_key() -> bytes:
    """A key for one file; never used for another, since its chunks are counted from 0."""
    return os.urandom(FILE_KEY_SIZE)


def envelopes(file_key: bytes, recipients: Sequence[str], quorum: int, context: bytes) -> tuple[Envelope, ...]:
    """
    The file key in one envelope for every group of *quorum* recipients.

    Args:
        context: hash of what the envelopes belong to; with another one they do not open.
    """
    check_group(recipients, quorum)
    keys = [public_key(word) for word in recipients]
    found = []
    for holders in combinations(range(len(keys)), quorum):
        sealed = file_key
        for layer in reversed(range(quorum)):
            sealed = SUITE.encrypt(sealed, keys[holders[layer]], info=_info(context, holders, layer))
        found.append(Envelope(holders, sealed))
    return tuple(found)


def open_envelopes(
    found: Sequence[Envelope], recipients: Sequence[str], quorum: int, identities: Sequence[Identity], context: bytes
) -> bytes:
    """
    The file key.

    Raises:
        Misconfigured: the identities are too few, or not those of the recipients.
        Corrupt: they are, and the envelope does not open.
    """
    held: Mapping[int, Identity] = {
        recipients.index(each.recipient): each for each in identities if each.recipient in recipients
    }
    if len(held) < quorum:
        raise Misconfigured(
            f"it takes the identities of {quorum} of {', '.join(recipients)}, and {len(held)} of them are given"
        )
    holders = tuple(sorted(held))[:quorum]
    sealed = next((each.sealed for each in found if each.holders == holders), None)
    if sealed is None or len(found) != math.comb(len(recipients), quorum):
        raise Corrupt("the backup's envelopes are damaged: take another copy")
    try:
        for layer, place in enumerate(holders):
            sealed = SUITE.decrypt(sealed, held[place].private, info=_info(context, holders, layer))
    except (InvalidTag, ValueError):
        raise Corrupt("the backup's header or envelopes are damaged: take another copy") from None
    return sealed


def seal(file_key: bytes, content: bytes, context: bytes) -> Iterator[bytes]:
    """*content* in encrypted chunks, at least one."""
    cipher, last = AESGCM(file_key), max(0, (len(content) - 1) // CHUNK)
    view = memoryview(content)
    for number in range(last + 1):
        chunk = view[number * CHUNK : (number + 1) * CHUNK]
        yield cipher.encrypt(_nonce(number, last=number == last), chunk, context)


def unseal(file_key: bytes, sealed: bytes, context: bytes) -> bytes:
    """The inverse of `seal`; raises `Corrupt` when a chunk was changed, moved, left out or appended."""
    cipher, size = AESGCM(file_key), CHUNK + TAG
    last = max(0, (len(sealed) - 1) // size)
    view = memoryview(sealed)
    try:
        return b"".join(
            cipher.decrypt(_nonce(number, last=number == last), view[number * size : (number + 1) * size], context)
            for number in range(last + 1)
        )
    except (InvalidTag, ValueError):
        raise Corrupt("the backup's content is damaged or cut short: take another copy") from None


def _info(context: bytes, holders: Sequence[int], layer: int) -> bytes:
    return canonical("keymill/backup/envelope/v1", context, bytes(holders), layer)


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])
