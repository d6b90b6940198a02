"""What must never be found, every spelling it could have, and every place to look in."""

import base64
import json
import mmap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from keymill.core.envelope import unwrap_keys
from keymill.kafka.admin import end_offsets
from keymill.kafka.scan import scan_partition
from keymill.kms.keyfile import KeyFile
from keymill.kms.keyfile_format import Content
from keymill.kms.keyring import Keyring
from keymill.ops.demo.stack import Credentials
from keymill.ops.token_keys import signing_key
from schemas import topics
from schemas.codec import decode
from schemas.ids import is_key_set
from schemas.records import KeyRecord

OWN_PLACES: Final = ("keys.json", "credentials.json", "token-keys")
"""Where the data folder's own secrets stand, and may stand."""
NO_CONTENT: Final = (".index", ".timeindex", ".txnindex", ".snapshot")
"""Kafka's files of numbers, preallocated and never written with a record's bytes."""

Secrets = dict[str, bytes]


def content_secrets(bootstrap: str, data: Path) -> Secrets:
    """CEK and IV of every key record on the key topic."""
    keyring, found = Keyring(KeyFile(data / "keys.json")), {}
    for partition, end in end_offsets(bootstrap, topics.KEYS.name).items():
        for message in scan_partition(bootstrap, topics.KEYS.name, partition, end=end):
            key, value = message.key() or b"", message.value() or b""
            if not is_key_set(key):
                continue
            record = decode(value, KeyRecord)
            kek = keyring.kek(record.organization, record.kek_epoch)
            clear = unwrap_keys(kek, keyring.k_fp(record.organization), record)
            for track, entry in zip(record.tracks, clear, strict=True):
                found[f"CEK of {track.kid.hex()}"] = entry.cek.reveal()
                found[f"IV of {track.kid.hex()}"] = entry.iv.reveal()
    return found


def audit_text(bootstrap: str) -> bytes:
    """Everything on the audit topic, which lies compressed on disk."""
    values = []
    for partition, end in end_offsets(bootstrap, topics.AUDIT.name).items():
        found = scan_partition(bootstrap, topics.AUDIT.name, partition, end=end)
        values += [message.value() or b"" for message in found]
    return b"\n".join(values)


def house_secrets(data: Path, credentials: Credentials) -> Secrets:
    """Roots, PRKs, KEKs, K_fp, the intake KEK, the token key's private half, and every credential's secret."""
    keys, keyring = KeyFile(data / "keys.json"), Keyring(KeyFile(data / "keys.json"))
    content = msgspec.json.decode((data / "keys.json").read_bytes(), type=Content)
    found = {f"intake KEK {kek.epoch}": base64.b64decode(kek.key) for kek in content.intake}
    for organization in keys.organizations():
        group = content.organizations[organization]
        found |= {f"root {organization}/{root.version}": base64.b64decode(root.key) for root in group.roots}
        found |= {f"KEK {organization}/{kek.epoch}": base64.b64decode(kek.key) for kek in group.keks}
        found |= {
            f"PRK {organization}/{root.version}": keyring.prk(organization, root.version).reveal()
            for root in group.roots
        }
        found[f"K_fp {organization}"] = keyring.k_fp(organization).reveal()
    _, signer = signing_key(data, credentials.organization)
    assert signer is not None
    found["token key"] = signer.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())[-32:]
    found["API key"] = credentials.api_key.encode()
    found["NCP secret"] = credentials.ncp_secret_key.encode()
    found["signer key"] = bytes.fromhex(credentials.widevine_key_hex)
    found["signer IV"] = bytes.fromhex(credentials.widevine_iv_hex)
    return found


def spellings(secret: bytes) -> set[bytes]:
    """The bytes themselves, hex in both cases and dashed, base64 in both alphabets at any alignment, and escaped."""
    text = secret.hex()
    dashed = "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:32]))
    found = {secret, text.encode(), text.upper().encode(), repr(secret)[2:-1].encode(), dashed.encode()}
    for lead in range(3):
        whole = base64.b64encode(bytes(lead) + secret)
        # The characters that mix with neighbours are left out, at both ends.
        core = whole[(0, 2, 3)[lead] : len(whole) - (0, 4, 4)[(lead + len(secret)) % 3]]
        found |= {core, core.translate(bytes.maketrans(b"+/", b"-_"))}
    found.add(json.dumps(secret.decode("latin-1"))[1:-1].encode())
    return found


def files_of(*folders: Path) -> Iterator[Path]:
    """Every file that a program wrote, apart from the secrets' own places."""
    for folder in folders:
        for path in sorted(folder.rglob("*") if folder.is_dir() else [folder]):
            inside = path.relative_to(folder).parts if path != folder else ()
            if path.is_file() and not path.name.endswith(NO_CONTENT) and not (inside and inside[0] in OWN_PLACES):
                yield path


def leaks(secrets: Secrets, paths: Iterable[Path], texts: dict[str, bytes]) -> list[str]:
    """Which secret stands where; never the secret."""
    needles = [(name, spelt) for name, secret in secrets.items() for spelt in spellings(secret)]
    found = []
    for path in paths:
        if path.stat().st_size == 0:
            continue
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found += [f"{name} in {path}" for name, needle in needles if content.find(needle) >= 0]
    for place, text in texts.items():
        found += [f"{name} in {place}" for name, needle in needles if needle in text]
    return sorted(set(found))
