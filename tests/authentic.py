"""Records as programs of `MemoryKms`'s installation write them: with the authenticator that readers ask for."""

from pathlib import Path

import msgspec

from keymill.core.record_authentication import HEADER
from keymill.kafka.authentication import install
from keymill.kms.keyfile import add_organization, create_key_file
from keymill.kms.keyring import Keyring
from keymill.kms.record_keys import RecordKeys, record_keys_of
from schemas import topics
from streams.runs import RawRecord
from tests.fakes import MemoryKms


class _EveryOrganization(tuple[str, ...]):
    """Contains every name: the keys of `MemoryKms` follow from it."""

    def __contains__(self, _name: object) -> bool:
        return True


RECORD_KEYS = RecordKeys(lambda: Keyring(MemoryKms(names=_EveryOrganization())))


def installation(folder: Path, *organizations: str) -> Path:
    """Make the key file of a new installation, whose keys this process has until `tests.conftest` forgets them."""
    path = folder / "keys.json"
    create_key_file(path)
    for organization in organizations:
        add_organization(path, organization)
    install(record_keys_of(path))
    return path


def authenticator(topic: str, record_key: bytes, value: bytes) -> bytes:
    """Return what the header holds."""
    return RECORD_KEYS.authenticate(topics.BY_NAME[topic], record_key, value)


def authentic(record: RawRecord) -> RawRecord:
    """Return the record with its authenticator."""
    header = (HEADER, authenticator(record.topic, record.key or b"", record.value or b""))
    return msgspec.structs.replace(record, headers=(*record.headers, header))
