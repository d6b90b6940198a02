"""
Roots to keys: PRK and identity give KID, CEK, IV and fingerprint, and nothing else has a say.

A change of any label or encoding here would change every key; schemas/golden/keys.json holds 100 that must not.

Source: RFC 5869 (HKDF), RFC 9562 section 5.8 (UUID version 8).
"""

from collections.abc import Iterable, Iterator
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

from keymill.core.identity import KeyIdentity, canonical, framed
from keymill.secret import Secret
from schemas.values import FINGERPRINT_SIZE, KID_SIZE, Record

CEK_SIZE: Final = 16
IV_SIZE: Final = 16
_KID: Final = canonical("keymill/kid/v1")
_CEK: Final = canonical("keymill/cek/v1")
_IV: Final = canonical("keymill/iv/v1")
_CHOSEN: Final = canonical("keymill/chosen/v1")
_IMPORTED_IV: Final = canonical("keymill/imported-iv/v1")
_KID_FRAME: Final = KID_SIZE.to_bytes(4, "big")
_RANDOM: Final = 0xFFFFFFFF_FFFF_0FFF_3FFF_FFFFFFFFFFFF
_VERSION_8: Final = 0x00000000_0000_8000_8000_000000000000


class DerivedKey(Record, frozen=True, kw_only=True):
    """A content key with its names. `cek` and `iv` have 16 bytes each."""

    kid: bytes
    cek: Secret
    iv: Secret


def prk_message(organization: str, root_version: int) -> bytes:
    """What the KMS signs with the organization's root of that version to give the PRK (32 bytes)."""
    return canonical("keymill/prk/v1", organization, root_version)


def fingerprint_message(organization: str) -> bytes:
    """What the KMS signs with the organization's first root to give K_fp (32 bytes), which never rotates."""
    return canonical("keymill/fp/v1", organization)


def derive_key(prk: Secret, identity: KeyIdentity) -> DerivedKey:
    """Derive the one key of an identity. *prk*: 32 bytes of (organization, root version)."""
    return derive(prk, identity.preimage())


def derive(prk: Secret, preimage: bytes) -> DerivedKey:
    """Like `derive_key`, of the identity's canonical bytes."""
    return derive_all(prk, [preimage])[0]


def derive_all(prk: Secret, preimages: Iterable[bytes]) -> list[DerivedKey]:
    """Like `derive`, of each preimage. HKDF-Expand of one block is a single HMAC (RFC 5869): a test compares."""
    kids, ceks, ivs = prk.keyed(_kid_mac), prk.keyed(_cek_mac), prk.keyed(_iv_mac)
    made = []
    for preimage in preimages:
        ident = framed(preimage)
        kid = uuid8(_finished(kids, ident))
        block = ident + _KID_FRAME + kid + b"\x01"
        cek, iv = _finished(ceks, block)[:CEK_SIZE], _finished(ivs, block)[:IV_SIZE]
        made.append(DerivedKey(kid=kid, cek=Secret(cek), iv=Secret(iv)))
    return made


def derive_kid(prk: Secret, preimage: bytes) -> bytes:
    """The KID alone."""
    return uuid8(_finished(prk.keyed(_kid_mac), framed(preimage)))


def derive_chosen(prk: Secret, organization: str, kid: bytes) -> DerivedKey:
    """The key of a KID that the caller chose. *prk*: of the root version that the KID's claim pins."""
    both = _expand(prk, _CHOSEN + canonical(organization, kid), CEK_SIZE + IV_SIZE).reveal()
    return DerivedKey(kid=kid, cek=Secret(both[:CEK_SIZE]), iv=Secret(both[CEK_SIZE:]))


def imported_iv(cek: Secret, organization: str, kid: bytes) -> Secret:
    """The IV, 16 bytes, of an imported key that came without one."""
    return Secret(_mac(cek, _IMPORTED_IV + canonical(organization, kid))[:IV_SIZE])


def derive_names(prk: Secret, k_fp: Secret, preimages: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """KID and fingerprint of each key that `derive` gives: what a comparison needs, for half of the work."""
    kids, ceks, marks = prk.keyed(_kid_mac), prk.keyed(_cek_mac), k_fp.keyed(_hmac_sha256)
    for preimage in preimages:
        ident = framed(preimage)
        state = kids.copy()
        state.update(ident)
        kid = uuid8(state.finalize())
        state = ceks.copy()
        state.update(ident + _KID_FRAME + kid + b"\x01")
        cek = state.finalize()[:CEK_SIZE]
        state = marks.copy()
        state.update(kid + cek)
        yield kid, state.finalize()[:FINGERPRINT_SIZE]


def fingerprint(k_fp: Secret, kid: bytes, cek: Secret) -> bytes:
    """What may be published about a CEK, 16 bytes: lets anyone compare and nobody invert."""
    return _mac(k_fp, kid + cek.reveal())[:FINGERPRINT_SIZE]


def uuid8(digest: bytes) -> bytes:
    """The first 16 bytes of *digest* with version 8 and the RFC 9562 variant set; 122 bits stay."""
    return (int.from_bytes(digest[:KID_SIZE], "big") & _RANDOM | _VERSION_8).to_bytes(KID_SIZE, "big")


def _expand(prk: Secret, info: bytes, size: int) -> Secret:
    """HKDF-Expand of at most one block: RFC 5869 makes that a single HMAC, and a test compares."""
    return Secret(_mac(prk, info + b"\x01")[:size])


def _hmac_sha256(key: bytes) -> HMAC:
    return HMAC(key, SHA256())


def _mac(key: Secret, message: bytes) -> bytes:
    return _finished(key.keyed(_hmac_sha256), message)


def _finished(begun: HMAC, message: bytes) -> bytes:
    state = begun.copy()
    state.update(message)
    return state.finalize()


def _kid_mac(key: bytes) -> HMAC:
    return _begun(key, _KID)


def _cek_mac(key: bytes) -> HMAC:
    return _begun(key, _CEK)


def _iv_mac(key: bytes) -> HMAC:
    return _begun(key, _IV)


def _begun(key: bytes, label: bytes) -> HMAC:
    """One that has seen the label: no message is put together with it again."""
    state = _hmac_sha256(key)
    state.update(label)
    return state
