"""What one partition of the key topic holds, for whoever judges it."""

from contextlib import suppress

from keymill.errors import InvalidRecord
from keymill.ops.report import Report
from keymill.snapshot import layout, peek
from schemas.codec import decode
from schemas.ids import is_key_set
from schemas.records import AssetRecord


class Held:
    """
    The newest record of every record key of one partition of the key topic.

    `wrong` are the record keys whose newest record is a tombstone or cannot be read: reported, and judged no further.
    Of an asset record only the head is read at once; the rest when somebody asks, as `replaying.compare` does for each
    that is not the one expected.
    """

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.values: dict[bytes, bytes] = {}
        self.applied: dict[bytes, tuple[int, int]] = {}
        self.wrong: set[bytes] = set()
        self.newest = (0, -1)

    def add(self, record_key: bytes, value: bytes | None, report: Report) -> None:
        """Take a record in topic order."""
        if record_key in self.wrong:  # it has been put right, or is wrong in another way
            self.wrong.discard(record_key)
            report.take_back(record_key)
        if value is None:
            self._refuse(record_key, "a tombstone: keys are revoked, never deleted", report)
            return
        self.values[record_key] = value
        if not is_key_set(record_key):
            try:
                self.applied[record_key] = _applied(value)
            except InvalidRecord as error:
                self._refuse(record_key, str(error), report)
                return
            self.newest = max(self.newest, self.applied[record_key])

    def pass_by(self, record_key: bytes, value: bytes | None) -> None:
        """See a record that is not asked about, which tells all the same how far the processors have come."""
        if value is not None and not is_key_set(record_key):
            with suppress(InvalidRecord):
                self.newest = max(self.newest, _applied(value))

    def asset(self, record_key: bytes, report: Report) -> AssetRecord | None:
        """The whole asset record that is held; None where it cannot be read, which is reported."""
        try:
            return decode(self.values[record_key], AssetRecord)
        except InvalidRecord as error:
            self._refuse(record_key, str(error), report)
            return None

    def can_be_read(self, record_key: bytes, report: Report) -> bool:
        """Whether all of the asset record that is held can; it is reported if not."""
        return _is_usual(record_key, self.values[record_key]) or self.asset(record_key, report) is not None

    def _refuse(self, record_key: bytes, detail: str, report: Report) -> None:
        report.note("different", record_key, detail)
        self.wrong.add(record_key)
        self.values.pop(record_key, None)


def _applied(value: bytes) -> tuple[int, int]:
    if (found := peek.applied(value)) is not None:
        return found
    position = decode(value, AssetRecord).applied
    return position.generation, position.offset


def _is_usual(record_key: bytes, value: bytes) -> bool:
    if len(record_key) > layout.MAX_KEY:
        return False
    organization, _, asset = record_key.partition(b"/")
    return peek.is_usual_asset(value, peek.text(organization) + peek.text(asset))
