"""PlayReady's own forms: the little-endian KID, and the checksum of a content key."""

from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from keymill.secret import Secret

CHECKSUM_SIZE: Final = 8


def little_endian(kid: bytes) -> bytes:
    """A KID as PlayReady stores it: the first three fields of its GUID little-endian. Its own inverse."""
    return kid[3::-1] + kid[5:3:-1] + kid[7:5:-1] + kid[8:]


def checksum(cek: Secret, kid: bytes) -> bytes:
    """
    The first 8 bytes of one AES-ECB block: *kid*, as it is stored, under the content key.

    Source: PlayReady Header Specification, CHECKSUM for ALGID AESCTR.
    """
    encryptor = Cipher(algorithms.AES(cek.reveal()), modes.ECB()).encryptor()  # noqa: S305 as the format says
    return encryptor.update(kid)[:CHECKSUM_SIZE]
