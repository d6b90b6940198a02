"""Keys that sign and verify player tokens: their files, their ids, their algorithms."""

import hashlib
import os
import stat
from pathlib import Path
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from keymill.durable import own_folder
from keymill.errors import Misconfigured

FOLDER: Final = "token-keys"
ID_CHARACTERS: Final = 22
"""Of the hash in hex: 88 bits, so that ids do not meet by accident."""

PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey
PublicKey = Ed25519PublicKey | EllipticCurvePublicKey


def signing_key(data: Path, organization: str, *, make: bool = False) -> tuple[Path, PrivateKey | None]:
    """
    Where the organization's signing key is, and the key; None when there is none and it is not to be made.

    Raises:
        Misconfigured: others may read the file, or it holds no such key.
    """
    path = data / FOLDER / f"{organization}.pem"
    if make and not path.exists():
        _make(path)
    try:
        state = path.stat()
    except FileNotFoundError:
        return path, None
    if stat.S_IMODE(state.st_mode) & 0o077 or state.st_uid != os.geteuid():
        raise Misconfigured(f"token key {path} must belong to this user alone: chmod 600")
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Misconfigured(
            f"token key {path} is damaged: restore it, or move it away and start `keymill up`"
        ) from None
    if not isinstance(key, PrivateKey):
        raise Misconfigured(f"token key {path} must be Ed25519 or P-256")
    return path, key


def read_public_key(path: Path) -> PublicKey:
    """The public key in a PEM file. Raises `Misconfigured` for anything else, a private key too."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise Misconfigured(f"public key {path}: {error.strerror}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise Misconfigured(f"{path} holds no public key in PEM: openssl pkey -pubout makes one") from None
    if isinstance(key, Ed25519PublicKey) or (
        isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1)
    ):
        return key
    raise Misconfigured(f"{path} must hold an Ed25519 (EdDSA) or P-256 (ES256) key")


def algorithm_of(key: PublicKey) -> str:
    """The one algorithm that a key is used with."""
    return "EdDSA" if isinstance(key, Ed25519PublicKey) else "ES256"


def pem_of(key: PublicKey) -> str:
    """PEM of a public key."""
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def key_id_of(key: PublicKey) -> str:
    """A key's id: `tk-` and the beginning of its hash."""
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "tk-" + hashlib.sha256(der).hexdigest()[:ID_CHARACTERS]


def _make(path: Path) -> None:
    own_folder(path.parent)
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    fresh = path.with_suffix(f".{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(fresh, path)  # fails where another start has just made one, which then holds
    except FileExistsError:
        pass
    finally:
        fresh.unlink()
