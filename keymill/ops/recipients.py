"""
Who can open a backup: an X25519 key pair, of which keymill itself needs the public half alone.

Both halves are one word each, fit for paper: a prefix, 32 bytes and 4 of their SHA-256 in base32, so that a mistyped
word is refused instead of making a backup that nobody opens.
"""

import base64
import hashlib
import os
import time
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from keymill.durable import sync_folder
from keymill.errors import InvalidRecord, Misconfigured

PUBLIC: Final = "kmpub1"
PRIVATE: Final = "kmkey1"
KEY_SIZE: Final = 32
CHECK_SIZE: Final = 4
"""Of 2^32 mistyped words one passes."""
_PADDING: Final = "=" * 6
"""36 bytes are 58 characters of base32, padded to 64."""


class Identity:
    """The private half. It has no repr that shows it, and cannot be compared or printed."""

    __slots__ = ("private", "recipient")

    def __init__(self, private: X25519PrivateKey) -> None:
        self.private = private
        self.recipient = public_word(private.public_key())

    def __repr__(self) -> str:
        return f"Identity({self.recipient})"


def public_word(key: X25519PublicKey) -> str:
    """The public half as one word."""
    return _word(PUBLIC, key.public_bytes_raw())


def public_key(word: str) -> X25519PublicKey:
    """The inverse of `public_word`; raises `InvalidRecord` for a word that is none, or is mistyped."""
    return X25519PublicKey.from_public_bytes(_bytes(PUBLIC, word, "recipient"))


def find_recipient(given: str) -> str:
    """The public word that an option names: the word itself, or a file that holds one (an identity's too)."""
    if given.startswith(PUBLIC):
        public_key(given)
        return given
    words = _words(Path(given), PUBLIC)
    if len(words) != 1:
        raise InvalidRecord(f"{given} is no recipient ({PUBLIC}…), and no file with one", field="recipient")
    public_key(words[0])
    return words[0]


def read_identity(path: Path) -> Identity:
    """The private half in a file; raises `InvalidRecord` when it holds none, or more than one."""
    words = _words(path, PRIVATE)
    if len(words) != 1:
        raise InvalidRecord(f"{path} holds no identity ({PRIVATE}…)", field="identity")
    return Identity(X25519PrivateKey.from_private_bytes(_bytes(PRIVATE, words[0], "identity")))


def make_identity(path: Path) -> Identity:
    """
    Draw a key pair and write the private half, mode 0600; it is on disk when its public half is known.

    Raises:
        Misconfigured: the file exists; nothing overwrites an identity.
    """
    identity = Identity(X25519PrivateKey.generate())
    made = time.strftime("%Y-%m-%d", time.gmtime())
    lines = [
        f"# identity of a keymill backup, made {made}: it opens backups, keep it away from them",
        f"# recipient: {identity.recipient}",
        _word(PRIVATE, identity.private.private_bytes_raw()),
    ]
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise Misconfigured(f"{path} exists: an identity is never overwritten, name a new file") from None
    with os.fdopen(descriptor, "w") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        os.fsync(descriptor)
    sync_folder(path.absolute().parent)
    return identity


def _word(prefix: str, key: bytes) -> str:
    checked = key + _check(prefix, key)
    return prefix + base64.b32encode(checked).decode().rstrip("=").lower()


def _bytes(prefix: str, word: str, field: str) -> bytes:
    try:
        decoded = base64.b32decode(word.removeprefix(prefix).upper() + _PADDING)
    except ValueError:
        decoded = b""
    key = decoded[:KEY_SIZE]
    if len(key) != KEY_SIZE or _word(prefix, key) != word:
        raise InvalidRecord(f"the {field} ({prefix}…) is mistyped: its checksum does not fit", field=field)
    return key


def _check(prefix: str, key: bytes) -> bytes:
    return hashlib.sha256(prefix.encode() + key).digest()[:CHECK_SIZE]


def _words(path: Path, prefix: str) -> list[str]:
    try:
        text = path.read_text()
    except UnicodeDecodeError:
        return []
    except FileNotFoundError:
        raise Misconfigured(f"{path}: no such file") from None
    return [word for word in text.split() if word.startswith(prefix)]
