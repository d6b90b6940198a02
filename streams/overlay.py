"""What this processor has written and its view has not read back yet."""

from schemas.records import AssetRecord


class Overlay:
    """
    Acknowledged records over the view, until the view's position has passed them.

    Only ever a newer truth than the view's; cleared on revoke and on any produce error, after which the view is
    waited for again.
    """

    def __init__(self) -> None:
        self._assets: dict[bytes, AssetRecord] = {}
        self._offsets: dict[int, dict[bytes, int]] = {}

    def asset(self, record_key: bytes) -> AssetRecord | None:
        """The asset record written last, if the view may lack it."""
        return self._assets.get(record_key)

    def holds(self, partition: int, record_key: bytes) -> bool:
        """Whether the record was written and acknowledged, and is not known to be read back."""
        return record_key in self._offsets.get(partition, ())

    def add(self, partition: int, record_key: bytes, offset: int, asset: AssetRecord | None = None) -> None:
        """Remember an acknowledged record."""
        self._offsets.setdefault(partition, {})[record_key] = offset
        if asset is not None:
            self._assets[record_key] = asset

    def read_back(self, partition: int, position: int) -> None:
        """Forget what stands below the view's *position* in the key topic's partition."""
        held = self._offsets.get(partition)
        if not held:
            return
        for record_key in [key for key, offset in held.items() if offset < position]:
            del held[record_key]
            self._assets.pop(record_key, None)

    def clear(self, partitions: frozenset[int] | None = None) -> None:
        """Forget everything written to *partitions*, or at all."""
        for partition in list(self._offsets) if partitions is None else partitions:
            for record_key in self._offsets.pop(partition, {}):
                self._assets.pop(record_key, None)

    def __len__(self) -> int:
        return sum(len(held) for held in self._offsets.values())
