"""Derivation, and the vectors of the standards for the libraries that it stands on."""

import hmac
import uuid

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from keymill.core.derive import derive, derive_key, derive_names, fingerprint, uuid8
from keymill.core.identity import KeyIdentity
from keymill.secret import Secret
from schemas.values import Scheme
from tests.golden import second

RFC_5869 = [
    (
        "0b" * 22,
        "000102030405060708090a0b0c",
        "f0f1f2f3f4f5f6f7f8f9",
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    (
        "".join(f"{i:02x}" for i in range(0x50)),
        "".join(f"{i:02x}" for i in range(0x60, 0xB0)),
        "".join(f"{i:02x}" for i in range(0xB0, 0x100)),
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
        "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
    ),
    (
        "0b" * 22,
        "",
        "",
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
]
"""Source: RFC 5869, appendix A, cases 1 to 3 (SHA-256)."""


def _identity(**changed):
    plain = {
        "organization": "demo",
        "asset": "bbb",
        "key_version": 1,
        "period": None,
        "scheme": Scheme.CBCS,
        "label": "SD",
        "root_version": 1,
        "salt": None,
    }
    return KeyIdentity(**plain | changed)


@pytest.mark.parametrize(("ikm", "salt", "info", "okm"), RFC_5869)
def test_hkdf_is_that_of_the_rfc(ikm, salt, info, okm):
    """The library's HKDF, and our own test's Expand, give the RFC's output."""
    size = len(okm) // 2
    made = HKDF(algorithm=SHA256(), length=size, salt=bytes.fromhex(salt), info=bytes.fromhex(info))
    assert made.derive(bytes.fromhex(ikm)).hex() == okm
    prk = hmac.digest(bytes.fromhex(salt) or bytes(32), bytes.fromhex(ikm), "sha256")
    assert HKDFExpand(algorithm=SHA256(), length=size, info=bytes.fromhex(info)).derive(prk).hex() == okm
    assert second.expand(prk, bytes.fromhex(info), size).hex() == okm


RFC_5297_KEY = "fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff"
RFC_5297_AD = "101112131415161718191a1b1c1d1e1f2021222324252627"
RFC_5297_PLAIN = "112233445566778899aabbccddee"
RFC_5297_OUT = "85632d07c6e8f37f950acd320a2ecc9340c02b9690c4dc04daef7f6afe5c"
"""Source: RFC 5297, appendix A.1."""


def test_aes_siv_is_that_of_the_rfc():
    """The library and the second implementation give the RFC's output."""
    key, data = bytes.fromhex(RFC_5297_KEY), bytes.fromhex(RFC_5297_AD)
    assert AESSIV(key).encrypt(bytes.fromhex(RFC_5297_PLAIN), [data]).hex() == RFC_5297_OUT
    assert second.siv_encrypt(key, bytes.fromhex(RFC_5297_PLAIN), [data]).hex() == RFC_5297_OUT


def test_cek_and_iv_are_hkdf_expand_of_the_prk():
    """The formula of the design, with the library's HKDFExpand."""
    from keymill.core.identity import canonical

    prk = Secret(bytes(range(32)))
    key = derive_key(prk, _identity())
    for label, made in (("keymill/cek/v1", key.cek), ("keymill/iv/v1", key.iv)):
        info = canonical(label, _identity().preimage(), key.kid)
        assert HKDFExpand(algorithm=SHA256(), length=16, info=info).derive(prk.reveal()) == made.reveal()


def test_a_kid_is_a_version_8_uuid():
    """Version and variant are RFC 9562's, so that nobody takes it for a random one."""
    kid = uuid.UUID(bytes=derive_key(Secret(b"p" * 32), _identity()).kid)
    assert kid.version == 8
    assert kid.variant == uuid.RFC_4122
    assert uuid8(b"\xff" * 32).hex() == "ffffffffffff8fffbfffffffffffffff"
    assert uuid8(bytes(32)).hex() == "00000000000080008000000000000000"


def test_iv_cek_and_kid_never_coincide():
    """Each has a label of its own."""
    key = derive_key(Secret(b"p" * 32), _identity())
    assert len({key.kid, key.cek.reveal(), key.iv.reveal()}) == 3
    assert len(key.cek) == len(key.iv) == len(key.kid) == 16


def test_a_fingerprint_depends_on_key_kid_and_cek():
    """So nobody without K_fp can test a guess, and nobody can move it to another KID."""
    kid, cek, k_fp = b"k" * 16, Secret(b"c" * 16), Secret(b"f" * 32)
    first = fingerprint(k_fp, kid, cek)
    assert first == fingerprint(k_fp, kid, cek)
    assert len(first) == 16
    assert fingerprint(Secret(b"g" * 32), kid, cek) != first
    assert fingerprint(k_fp, b"l" * 16, cek) != first
    assert fingerprint(k_fp, kid, Secret(b"d" * 16)) != first


def test_the_name_of_a_key_is_what_derivation_gives() -> None:
    """KID and fingerprint, without making the IV."""
    prk, k_fp = Secret(b"p" * 32), Secret(b"f" * 32)
    for preimage in (b"", b"demo/asset", bytes(300)):
        key = derive(prk, preimage)
        assert [(key.kid, fingerprint(k_fp, key.kid, key.cek))] == list(derive_names(prk, k_fp, [preimage]))
