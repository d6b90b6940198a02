"""
The authenticator of a record: what shows that a program with the organization's keys wrote it under this record key.

    mac        HMAC-SHA-256(K_rec, message)[:16]      bulk: a reader could write them too
    signature  Ed25519(K_sign, message), 64 bytes     what grants authority: readers hold the public key alone
    message    label | topic | record key | value     the parts before the value length-prefixed

It travels beside the value, in the Kafka header `keymill-auth`: form (1 byte), epoch (4, big-endian), MAC or signature.
So a value stays the one canonical byte string of its record, and a program that knows no authenticators reads it. Both
are deterministic. Both keys derive from the organization's root of that epoch; records about no organization are the
installation's own.

Source: RFC 2104 (HMAC), RFC 8032 (Ed25519); the message's framing is `keymill.core.identity.canonical`.
"""

import hmac
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from keymill.core.identity import canonical, framed
from keymill.secret import Secret

HEADER: Final = "keymill-auth"
"""Name of the Kafka header."""
HEAD_SIZE: Final = 5
MAC_SIZE: Final = 16
SIGNATURE_SIZE: Final = 64
MAC_FORM: Final = 1
SIGNATURE_FORM: Final = 2
_LABEL: Final = "keymill/rec/v1"

UNAUTHENTICATED: Final = "unauthenticated"
"""The record has no authenticator: an older release wrote it, or somebody who holds no keys."""
FORGED: Final = "forged"
"""The authenticator is not the one of this topic, record key and value."""
NO_RECORD_KEY: Final = "no_record_key"
"""The keys of the record's organization are not here, so nobody can tell."""
REASONS: Final = frozenset({UNAUTHENTICATED, FORGED, NO_RECORD_KEY})


class Head(NamedTuple):
    """How an authenticator begins: its form, and the epoch of its key, which is a root version."""

    form: int
    epoch: int


def mac_key_message(organization: str) -> bytes:
    """Return what the KMS signs to give K_rec, 32 bytes; *organization* is empty for the installation's own."""
    return canonical("keymill/rec/v1", organization)


def signing_key_message(organization: str) -> bytes:
    """Return what the KMS signs to give the seed of the organization's Ed25519 key, 32 bytes."""
    return canonical("keymill/sign/v1", organization)


def read_head(authenticator: bytes) -> Head | None:
    """Return form and epoch; None for what is no authenticator."""
    sizes = {MAC_FORM: HEAD_SIZE + MAC_SIZE, SIGNATURE_FORM: HEAD_SIZE + SIGNATURE_SIZE}
    if not authenticator or sizes.get(authenticator[0]) != len(authenticator):
        return None
    return Head(authenticator[0], int.from_bytes(authenticator[1:HEAD_SIZE], "big"))


def write_head(form: int, epoch: int) -> bytes:
    """Return the first 5 bytes of an authenticator."""
    return bytes((form,)) + epoch.to_bytes(4, "big")


class Mac:
    """The MAC of one topic's records under one key: set up once, since that costs as much as a record."""

    def __init__(self, key: Secret, topic: str, epoch: int) -> None:
        self._begun = key.keyed(_hmac_sha256).copy()
        self._begun.update(canonical(_LABEL, topic))
        self._head = write_head(MAC_FORM, epoch)

    def authenticate(self, record_key: bytes, value: bytes) -> bytes:
        """Return the authenticator of a record."""
        state = self._begun.copy()
        state.update(len(record_key).to_bytes(4, "big") + record_key + value)
        return self._head + state.finalize()[:MAC_SIZE]

    def verifies(self, record_key: bytes, value: bytes, authenticator: bytes) -> bool:
        """Tell whether the authenticator is the record's."""
        return hmac.compare_digest(self.authenticate(record_key, value), authenticator)


class Signer:
    """The signatures of one topic's records by one organization."""

    def __init__(self, seed: Secret, topic: str, epoch: int) -> None:
        self._key = seed.keyed(Ed25519PrivateKey.from_private_bytes)
        self._label = canonical(_LABEL, topic)
        self._head = write_head(SIGNATURE_FORM, epoch)

    def authenticate(self, record_key: bytes, value: bytes) -> bytes:
        """Return the authenticator of a record."""
        return self._head + self._key.sign(self._label + framed(record_key) + value)


class Verifier:
    """The public half of `Signer`."""

    def __init__(self, seed: Secret, topic: str) -> None:
        self._key: Ed25519PublicKey = seed.keyed(_public_key)
        self._label = canonical(_LABEL, topic)

    def verifies(self, record_key: bytes, value: bytes, authenticator: bytes) -> bool:
        """Tell whether the authenticator is the record's. Takes about 60 µs."""
        try:
            self._key.verify(authenticator[HEAD_SIZE:], self._label + framed(record_key) + value)
        except InvalidSignature:
            return False
        return True


def _hmac_sha256(key: bytes) -> HMAC:
    return HMAC(key, SHA256())


def _public_key(seed: bytes) -> Ed25519PublicKey:
    return Ed25519PrivateKey.from_private_bytes(seed).public_key()
