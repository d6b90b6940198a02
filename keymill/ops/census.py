"""Which key records of an organization are still wrapped under an older KEK epoch, as the topic has them now."""

from collections.abc import Mapping
from typing import Final

from keymill.errors import InvalidRecord
from keymill.kafka.admin import end_offsets
from keymill.kafka.scan import scan_partition
from schemas import topics
from schemas.codec import decode
from schemas.ids import is_key_set
from schemas.records import KeyRecord

UNREADABLE: Final = ""
"""Stands for the asset of a key record that cannot be read."""


class Partition:
    """
    One partition of the key topic: which assets of an organization have key records below an epoch.

    What counts is the last record of each record key, since that is what compaction keeps for a view that starts.
    """

    def __init__(self, bootstrap: str, partition: int, organization: str, epoch: int) -> None:
        self._bootstrap = bootstrap
        self._partition = partition
        self._prefix = f"{organization}/".encode()
        self._epoch = epoch
        self._position: int | None = None
        self.lagging: dict[bytes, str] = {}
        """Asset by record key."""

    def read(self, ends: Mapping[int, int]) -> None:
        """Read on to the partition's end."""
        end = ends[self._partition]
        if self._position is not None and self._position >= end:
            return
        for message in scan_partition(
            self._bootstrap, topics.KEYS.name, self._partition, start=self._position, end=end
        ):
            self._take(message.key() or b"", message.value())
        self._position = end

    def assets(self) -> list[str]:
        """Every asset that has such a record and can be asked for, once."""
        return sorted({asset for asset in self.lagging.values() if asset != UNREADABLE})

    def unreadable(self) -> int:
        """Records that nobody here can judge."""
        return sum(asset == UNREADABLE for asset in self.lagging.values())

    def _take(self, record_key: bytes, value: bytes | None) -> None:
        if not record_key.startswith(self._prefix) or not is_key_set(record_key):
            return
        try:
            record = decode(value or b"", KeyRecord)
        except InvalidRecord:
            self.lagging[record_key] = UNREADABLE
            return
        if record.kek_epoch < self._epoch:
            self.lagging[record_key] = record.asset
        else:
            self.lagging.pop(record_key, None)


def key_ends(bootstrap: str) -> dict[int, int]:
    """Where the partitions of the key topic end now."""
    return end_offsets(bootstrap, topics.KEYS.name)
