"""Challenges and licenses of no real DRM system: opaque to a proxy, checkable by a test."""

import base64
import hashlib
import hmac
import json
import os
from collections.abc import Iterable
from typing import Any

import msgspec

MAGIC = b"KMCH\x00\xff"
LICENSE = b"KMLI\x01"
EVERY_BYTE = bytes(range(256))
"""Ends each challenge and each license: whatever a proxy does to text, it would do to these."""


class Key(msgspec.Struct, frozen=True):
    """A key as the license server has it after decrypting; `label` is its track's, or its usage policy's."""

    kid: bytes
    cek: bytes
    iv: bytes = b""
    label: str = ""


def challenge_of(
    *kids: bytes, client_token: bytes | None = None, persistent: bool = False, level: int | None = None
) -> bytes:
    """What a device asks; no two are alike. `level` is the device's Widevine security level, 5 the best."""
    asked: dict[str, Any] = {
        "kids": [kid.hex() for kid in kids],
        "persistent": persistent,
        "nonce": os.urandom(8).hex(),
    }
    if client_token is not None:
        asked["client_token"] = base64.b64encode(client_token).decode()
    if level is not None:
        asked["level"] = level
    return MAGIC + json.dumps(asked).encode() + b"\0" + EVERY_BYTE


def read_challenge(challenge: bytes) -> dict[str, Any]:
    """What a device asks; nothing is known of a challenge of another make."""
    if not challenge.startswith(MAGIC) or not challenge.endswith(b"\0" + EVERY_BYTE):
        return {}
    read: dict[str, Any] = json.loads(challenge[len(MAGIC) : -len(EVERY_BYTE) - 1])
    return read


def license_of(
    license_key: bytes, system: str, challenge: bytes, keys: Iterable[Key], client_token: str | None = None
) -> bytes:
    """A license over challenge and keys, the same for the same; the keys are in its MAC and nowhere else."""
    held = sorted(keys, key=lambda key: key.kid)
    head = json.dumps(
        {
            "system": system,
            "challenge": hashlib.sha256(challenge).hexdigest(),
            "kids": [key.kid.hex() for key in held],
            "client_token": client_token,
        }
    ).encode()
    mac = hmac.digest(license_key, head + b"".join(key.kid + key.cek + key.iv for key in held), "sha256")
    body = LICENSE + len(head).to_bytes(4, "big") + head + mac + EVERY_BYTE
    if system == "playready":
        return b'<?xml version="1.0"?>\r\n<License>' + base64.b64encode(body) + b"</License>\r\n"
    return body


def read_license(made: bytes) -> dict[str, Any]:
    """What a license says of itself."""
    if made.startswith(b"<?xml"):
        made = base64.b64decode(made.partition(b"<License>")[2].partition(b"<")[0])
    assert made.startswith(LICENSE) and made.endswith(EVERY_BYTE), made[:16]
    at = len(LICENSE) + 4
    read: dict[str, Any] = json.loads(made[at : at + int.from_bytes(made[len(LICENSE) : at], "big")])
    return read
