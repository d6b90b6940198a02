"""
Identifiers, and the record keys made of them.

`/` only ever separates, so no two names make one record key; golden vectors are in schemas/golden/ids.json.
"""

import re
from functools import lru_cache
from typing import Final

from keymill.errors import InvalidRecord

ORGANIZATION: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
NAME: Final = re.compile(r"[A-Za-z0-9._~:@-]{1,128}")
_KID: Final = re.compile(r"[0-9A-Fa-f]{32}|[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_is_organization = lru_cache(maxsize=1024)(ORGANIZATION.fullmatch)
_HEX_PREFIX = "hex:"
_KEY_SET = "/k/"


def check_organization(value: str, field: str = "organization") -> str:
    """Return *value* when it is an organization id, else raise `InvalidRecord`."""
    if not _is_organization(value):
        raise InvalidRecord(f"{field} must be 1 to 63 characters of a-z, 0-9 and -, not starting with -", field=field)
    return value


def check_name(value: str, field: str) -> str:
    """Return *value* when it is an asset, user or product id (1 to 128 characters), else raise `InvalidRecord`."""
    if not NAME.fullmatch(value):
        raise InvalidRecord(f"{field} must be 1 to 128 characters of A-Z a-z 0-9 . _ ~ : @ -", field=field)
    return value


def check_asset(value: str, field: str = "asset") -> str:
    """Like `check_name`; the prefix `hex:` is reserved for the spelling that `asset_of_content_id` gives."""
    check_name(value, field)
    if value.startswith(_HEX_PREFIX) and not _is_hex_spelling(value):
        message = f"{field} starts with hex:, which is reserved for content ids that are no asset id"
        raise InvalidRecord(message, field=field)
    return value


def asset_of_content_id(content_id: bytes, field: str = "content_id") -> str:
    """The asset id that a packager's content id (1 to 62 arbitrary bytes, or an asset id of up to 128) stands for."""
    text = content_id.decode("ascii", "replace")
    if NAME.fullmatch(text) and not text.startswith(_HEX_PREFIX):
        return text
    return check_name(_HEX_PREFIX + content_id.hex(), field) if content_id else check_name("", field)


def content_id_of_asset(asset: str) -> bytes:
    """The inverse of `asset_of_content_id`."""
    return bytes.fromhex(asset[len(_HEX_PREFIX) :]) if asset.startswith(_HEX_PREFIX) else asset.encode("ascii")


def _is_hex_spelling(value: str) -> bool:
    digits = value[len(_HEX_PREFIX) :]
    if not re.fullmatch(r"(?:[0-9a-f]{2})+", digits):
        return False
    return asset_of_content_id(bytes.fromhex(digits)) == value


def kid_of(text: str, field: str = "kid") -> bytes:
    """The 16 bytes of a KID, big-endian, written as 32 hex digits or as a UUID with dashes, else `InvalidRecord`."""
    if not _KID.fullmatch(text):
        message = f"{field} must be 32 hex digits, or a UUID with dashes"
        raise InvalidRecord(message, field=field)
    return bytes.fromhex(text.replace("-", ""))


def asset_key(organization: str, asset: str) -> bytes:
    """Record key of an asset's events, and of its asset record."""
    return f"{organization}/{asset}".encode("ascii")


def key_set_key(organization: str, asset: str, digest: bytes) -> bytes:
    """Record key of the key record with that digest (16 bytes)."""
    return f"{organization}/{asset}{_KEY_SET}{digest.hex()}".encode("ascii")


def claim_key(organization: str, kid: bytes) -> bytes:
    """Record key of the claims of a KID."""
    return f"{organization}/{kid.hex()}".encode("ascii")


def scoped_key(organization: str, *names: str) -> bytes:
    """Record key of anything else that belongs to an organization: policy, entitlement, service, credential."""
    return "/".join((organization, *names)).encode("ascii")


def is_key_set(record_key: bytes) -> bool:
    """Whether the record key on the key topic is a key record's; all others are asset records'."""
    return b"/k/" in record_key


def partition_key(record_key: bytes) -> bytes:
    """The part of a key topic's record key that chooses the partition: `org/asset`."""
    return record_key.split(b"/k/", 1)[0]
