"""What a replay found missing, by the partitions of the sources that call for it: what a repair asks for."""

from collections.abc import Callable, Mapping
from contextlib import suppress

from keymill.errors import InvalidRecord
from schemas.codec import decode
from schemas.ids import is_key_set, partition_key, scoped_key
from schemas.records import AssetRecord, DeadLetter


class Lacks:
    """
    What one partition of a source calls for and is not there.

    `record_keys` are those of the source's records, `letters` the offsets of those whose dead letters are gone.

    Args:
        source_key: the record key of the source, of a record key of what is made of it.
        until: only records before that offset have been decided; None where that is told otherwise.
    """

    def __init__(self, source_key: Callable[[bytes], bytes], until: int | None = None) -> None:
        self.record_keys: set[bytes] = set()
        self.letters: set[int] = set()
        self.until = until
        self._source_key = source_key

    def record(self, record_key: bytes, _value: bytes) -> None:
        """A record is missing."""
        self.record_keys.add(self._source_key(record_key))

    def letter(self, letter: DeadLetter) -> None:
        """A dead letter is missing."""
        self.letters.add(letter.offset)

    def __bool__(self) -> bool:
        return bool(self.record_keys or self.letters)


Lacking = Mapping[tuple[str, int], Lacks]
"""By topic and partition of the source."""


def of_assets() -> Lacks:
    """Of a partition of the asset events."""
    return Lacks(partition_key)


def of_policies() -> Lacks:
    """Of a partition of the policy changes."""
    return Lacks(lambda record_key: record_key.partition(b"/")[0])


class Referred:
    """The record keys of the policies that asset records refer to."""

    def __init__(self) -> None:
        self.policies: set[bytes] = set()

    def take(self, record_key: bytes, value: bytes) -> None:
        """See a record of the key topic; *value* is empty where it is not known."""
        if value and not is_key_set(record_key):
            with suppress(InvalidRecord):  # told as different by whoever judges the record
                asset = decode(value, AssetRecord)
                self.policies.add(scoped_key(asset.organization, str(asset.policy_id)))
