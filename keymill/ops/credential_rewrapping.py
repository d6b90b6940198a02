"""The secrets of credentials under a new KEK epoch: written by the command itself, since ops own the topic."""

from collections.abc import Iterable, Iterator
from typing import Final

from keymill.core.rewrapping import credential_epoch, rewrap_credential
from keymill.kafka.admin import end_offsets
from keymill.kafka.scan import scan_partition
from keymill.kms.keyring import Keyring
from keymill.ops import access
from keymill.ops.changes import Changes
from schemas import topics
from schemas.access import Credential
from schemas.ids import scoped_key

WHY: Final = "wrap a credential again"
WHY_LOST: Final = "repeat a change that came between"


def lagging_credentials(bootstrap: str, organization: str, epoch: int) -> list[Credential]:
    """Credentials whose secret is wrapped below *epoch*, revoked ones too: they stay readable while it is held."""
    held = access.credentials(bootstrap, organization).values()
    return [each for each in held if (credential_epoch(each) or epoch) < epoch]


def rewrap_credentials(bootstrap: str, organization: str, epoch: int, keyring: Keyring, changes: Changes) -> None:
    """
    Wrap every credential again that is below *epoch*; a change that somebody else made meanwhile is not lost.

    That change is published again as it was made, under its epoch: the next look finds the credential lagging still.

    Raises:
        Corrupt: a secret does not open.
    """
    ends = end_offsets(bootstrap, topics.CREDENTIALS.name)
    number = topics.partition_of(topics.CREDENTIALS, scoped_key(organization, ""), len(ends))
    for held in lagging_credentials(bootstrap, organization, epoch):
        again = rewrap_credential(held, kek_of=lambda each: keyring.kek(organization, each), kek_epoch=epoch)
        changes.make(access.record_of(access.following(again)), WHY)
    changes.finish()
    for lost in overtaken(_written_since(bootstrap, number, ends[number]), epoch):
        changes.make(access.record_of(access.following(lost)), WHY_LOST)
    changes.finish()


def overtaken(records: Iterable[Credential], epoch: int) -> list[Credential]:
    """
    Changes that stand before a record which was wrapped again without them.

    Args:
        records: in log order, from before the credentials were read. One that was read after all does no harm if it is
            written again, since nothing newer of somebody else's stands behind it.
    """
    before: dict[str, Credential] = {}
    lost: dict[str, Credential] = {}
    for record in records:
        name = record.credential
        if credential_epoch(record) != epoch:
            before[name] = record
            lost.pop(name, None)
        elif name in before:
            lost[name] = before.pop(name)
    return list(lost.values())


def _written_since(bootstrap: str, partition: int, start: int) -> Iterator[Credential]:
    end = end_offsets(bootstrap, topics.CREDENTIALS.name)[partition]
    for message in scan_partition(bootstrap, topics.CREDENTIALS.name, partition, start=start, end=end):
        if record := access.read(message):
            yield record
