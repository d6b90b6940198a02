"""
Player tokens: JWTs that say who may play what until when. docs/tokens.md is their description.

The header names a key id and nothing else is believed of it: the algorithm is the key's own, keys are looked up in the
local view alone, and a header that brings a key or an address of one is refused. Verified tokens are kept in a bounded
cache, since a player asks more than once; key, times and address are checked again at every use.
"""

import base64
import ipaddress
from collections.abc import Callable
from functools import lru_cache
from typing import Final, Literal

import jwt
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from keymill.errors import KeymillError
from keymill.proxy.request import Reason, Refusal
from keymill.secret import Secret
from schemas import ids
from schemas.access import Credential, TokenKey
from schemas.values import Record, check_label

ALGORITHMS: Final = ("EdDSA", "ES256", "HS256")
MAX_TOKEN: Final = 4096
"""Bytes of a token; one with every claim has about 600."""
CACHED_TOKENS: Final = 10_000
"""Verified tokens per worker, about 1.5 KiB each."""
MAX_TIME_S: Final = 253_402_300_800
"""The year 10000; a larger number is milliseconds or nonsense."""
_FORBIDDEN: Final = ("jku", "x5u", "jwk", "x5c", "crit", "b64", "zip", "enc")
"""Header members that bring a key, or change what is signed."""


class Claims(msgspec.Struct, frozen=True, kw_only=True):
    """What a token says. Members that are not listed here mean nothing to the proxy."""

    organization: str
    exp: int | float
    nbf: int | float | None = None
    asset: str | None = None
    product: str | None = None
    sub: str | None = None
    tracks: tuple[str, ...] | None = None
    max_track: Literal["SD", "HD", "UHD1", "UHD2"] | None = None
    server_side: bool = False
    jti: str | None = None
    ip: str | None = None

    @property
    def exp_ms(self) -> int:
        """When the token ends, epoch ms."""
        return int(self.exp * 1000)

    def __post_init__(self) -> None:
        ids.check_organization(self.organization)
        for name in ("asset", "product", "sub", "jti"):
            if (value := getattr(self, name)) is not None:
                ids.check_name(value, name)
        for label in self.tracks or ():
            check_label(label, "tracks")
        for at in (self.exp, self.nbf):
            if at is not None and not 0 <= at < MAX_TIME_S:
                raise ValueError("exp and nbf are seconds since 1970")
        if self.asset is None and self.product is None:
            raise ValueError("asset or product must be named")
        if self.ip is not None:
            ipaddress.ip_address(self.ip)


class Verified(Record, frozen=True, kw_only=True):
    """A token whose signature was right, and the credential that said so."""

    claims: Claims
    credential: Credential


class _Header(msgspec.Struct, frozen=True):
    alg: str
    kid: str


class _Scope(msgspec.Struct, frozen=True):
    organization: str


FindCredential = Callable[[str, str], Credential | None]
"""(organization, credential id) to the credential as the view holds it now."""
OpenSecret = Callable[[str, str, TokenKey], Secret | None]
"""(organization, credential id, key) to the clear HS256 secret; None when its KEK is not here."""

_header: Final = msgspec.json.Decoder(_Header)
_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_scope: Final = msgspec.json.Decoder(_Scope)
_claims: Final = msgspec.json.Decoder(Claims)
_invalid: Final = Refusal(reason=Reason.TOKEN_INVALID, message="the token is not valid")
_unknown: Final = Refusal(reason=_invalid.reason, message=_invalid.message, absent=True)


class Tokens:
    """Verifies tokens. One per worker; not for threads."""

    def __init__(self, open_secret: OpenSecret, *, cached: int = CACHED_TOKENS) -> None:
        self._open_secret = open_secret
        self._cached = cached
        self._verified: dict[str, Verified] = {}
        self._engines = {name: jwt.PyJWS(algorithms=[name]) for name in ALGORITHMS}

    def authenticate(self, token: str, *, find: FindCredential, now_ms: int, client: str) -> Claims | Refusal:
        """
        Return the claims of a token that is valid now and from this address.

        A refusal never says which part of a token was wrong, except its times, which its holder knows.
        """
        known = self._verified.get(token)
        if known is None or not _still(known, find):
            self._verified.pop(token, None)
            fresh = self._verify(token, find)
            if isinstance(fresh, Refusal):
                return fresh
            known = self._keep(token, fresh)
        return _refused_now(known.claims, now_ms, client) or known.claims

    def verified(self, token: str) -> Verified | None:
        """What a token says whose signature was right when it was last looked at, valid now or not."""
        return self._verified.get(token)

    def _keep(self, token: str, verified: Verified) -> Verified:
        if len(self._verified) >= self._cached:
            self._verified.pop(next(iter(self._verified)))
        self._verified[token] = verified
        return verified

    def _verify(self, token: str, find: FindCredential) -> Verified | Refusal:
        if len(token) > MAX_TOKEN or not token.isascii():
            return _invalid
        try:
            header_part, claims_part, _signature = token.split(".")
            header = _read_header(_from_base64url(header_part))
            # Which key to try is read from what is not verified yet; the key then proves that it was right.
            organization = ids.check_organization(_scope.decode(_from_base64url(claims_part)).organization)
            credential = find(organization, ids.check_name(header.kid, "kid"))
            if credential is None:
                return _unknown
            if credential.revoked or not isinstance(credential.body, TokenKey):
                return _invalid
            payload = self._signed(token, header, credential, credential.body)
            return _invalid if payload is None else Verified(claims=_claims.decode(payload), credential=credential)
        except (KeymillError, jwt.PyJWTError, msgspec.MsgspecError, ValueError, RecursionError, UnsupportedAlgorithm):
            return _invalid

    def _signed(self, token: str, header: _Header, credential: Credential, key: TokenKey) -> bytes | None:
        if header.alg != key.algorithm or key.algorithm not in self._engines:
            return None
        if key.algorithm == "HS256":
            secret = self._open_secret(credential.organization, credential.credential, key)
            if secret is None:
                return None
            return bytes(self._engines["HS256"].decode(token, key=secret.reveal(), algorithms=["HS256"]))
        public = _public_key(key.public_pem or "")
        return bytes(self._engines[key.algorithm].decode(token, key=public, algorithms=[key.algorithm]))


@lru_cache(maxsize=256)
def _public_key(pem: str) -> Ed25519PublicKey | EllipticCurvePublicKey:
    key = load_pem_public_key(pem.encode())
    if not isinstance(key, Ed25519PublicKey | EllipticCurvePublicKey):
        raise ValueError("a token key is Ed25519 or P-256")
    return key


def _still(known: Verified, find: FindCredential) -> bool:
    credential = find(known.credential.organization, known.credential.credential)
    return credential is known.credential or (credential == known.credential and not known.credential.revoked)


def _refused_now(claims: Claims, now_ms: int, client: str) -> Refusal | None:
    exp_ms = claims.exp_ms
    if exp_ms < now_ms:
        message = f"the token has expired: {exp_ms} < {now_ms}"
        return Refusal(reason=Reason.TOKEN_EXPIRED, message=message, at_ms=exp_ms, now_ms=now_ms)
    if claims.nbf is not None and int(claims.nbf * 1000) > now_ms:
        return Refusal(reason=Reason.TOKEN_NOT_YET_VALID, message="the token is not valid yet")
    if claims.ip is not None and not _same_address(claims.ip, client):
        return Refusal(reason=Reason.TOKEN_ADDRESS, message="the token was given to another address")
    return None


def _same_address(claimed: str, client: str) -> bool:
    try:
        return _plain(claimed) == _plain(client)
    except ValueError:
        return False


def _plain(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


def _read_header(data: bytes) -> _Header:
    if any(name in _members.decode(data) for name in _FORBIDDEN):
        raise ValueError("a token header may name a key, not bring one")
    return _header.decode(data)


def _from_base64url(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
