"""The keys that authenticate records, derived from the KMS once per organization and epoch."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from keymill.core import record_authentication as records
from keymill.core.record_authentication import Mac, Signer, Verifier
from keymill.errors import KeymillError, UnknownKey
from keymill.kms.keyfile import KeyFile
from keymill.kms.keyring import Keyring
from schemas import topics
from schemas.topics import Authentication, Topic

INSTALLATION_EPOCH: Final = 1
"""Of the installation's own key, which follows the first intake KEK for ever."""
_FORMS: Final = {Authentication.MAC: records.MAC_FORM, Authentication.SIGNATURE: records.SIGNATURE_FORM}
_MILLISECONDS: Final = 1000


class RecordKeys:
    """
    Authenticates what a program writes, and judges what it reads; see `keymill.kafka.authentication`.

    Args:
        keyring: called at the first use, so that a program can be made before its key file is.
    """

    def __init__(self, keyring: Callable[[], Keyring]) -> None:
        self._open = keyring
        self._keyring: Keyring | None = None
        self._writers: dict[tuple[str, str, int], Mac | Signer] = {}
        self._readers: dict[tuple[str, bytes, bytes], Mac | Verifier] = {}

    def authenticate(self, topic: Topic, record_key: bytes, value: bytes) -> bytes:
        """
        Return the authenticator of a record of a topic that has them.

        Raises what the KMS raises: without the organization's root nobody writes in its name.
        """
        organization = topics.organization_of(topic, record_key)
        epoch = self._epoch(organization)
        writer = self._writers.get((topic.name, organization, epoch))
        if writer is None:
            keyring, name = self._opened(), logical_name(topic.name)
            if topic.authentication is Authentication.MAC:
                writer = Mac(keyring.record_mac_key(organization, epoch), name, epoch)
            else:
                writer = Signer(keyring.record_signing_key(organization, epoch), name, epoch)
            self._writers[topic.name, organization, epoch] = writer
        return writer.authenticate(record_key, value)

    def judge(self, topic: str, record_key: bytes, value: bytes, authenticator: bytes | None) -> str:
        """Return why a record is not to be trusted, a code of `record_authentication`; empty when it is."""
        if authenticator is None:
            return records.UNAUTHENTICATED
        place = (topic, record_key.partition(b"/")[0], authenticator[: records.HEAD_SIZE])
        reader = self._readers.get(place)
        if reader is None:
            found = self._reader(topic, record_key, authenticator)
            if isinstance(found, str):
                return found
            reader = self._readers[place] = found
        return "" if reader.verifies(record_key, value, authenticator) else records.FORGED

    def knows(self, organization: str, epoch: int) -> bool:
        """Tell whether the organization's keys of that epoch are here."""
        try:
            self._opened().record_mac_key(organization, epoch)
        except KeymillError:
            return False
        return True

    def epochs(self) -> frozenset[tuple[str, int]]:
        """Return every (organization, epoch) of which there are keys."""
        return self._opened().roots()

    def _reader(self, topic: str, record_key: bytes, authenticator: bytes) -> Mac | Verifier | str:
        entry, head = topics.entry_of(topic), records.read_head(authenticator)
        if head is None or head.form != _FORMS.get(entry.authentication):
            return records.FORGED
        organization = topics.organization_of(entry, record_key)
        try:
            keyring = self._opened()
            if entry.authentication is Authentication.MAC:
                return Mac(keyring.record_mac_key(organization, head.epoch), entry.name, head.epoch)
            return Verifier(keyring.record_signing_key(organization, head.epoch), entry.name)
        except UnknownKey:
            return records.NO_RECORD_KEY

    def _epoch(self, organization: str) -> int:
        if not organization:
            return INSTALLATION_EPOCH
        return self._opened().root_version_at(organization, int(time.time() * _MILLISECONDS))

    def _opened(self) -> Keyring:
        if self._keyring is None:
            self._keyring = self._open()
        return self._keyring


def record_keys_of(path: Path) -> RecordKeys:
    """Return the record keys of a key file, which is opened when one is needed."""
    return RecordKeys(lambda: Keyring(KeyFile(path)))


def logical_name(topic: str) -> str:
    """Return the catalogue's name of a topic: an authenticator holds in every set of topics."""
    return topics.entry_of(topic).name
