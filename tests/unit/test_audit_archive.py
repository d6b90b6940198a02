"""An audit against the SQL archive: what the archive saw of keys, the topic must still hold, and the reverse."""

from contextlib import ExitStack, closing
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import URL

from keymill.archive.reading import ArchiveReader
from keymill.archive.writing import ArchiveWriter, archive_url
from keymill.kafka.positions import Whole
from keymill.ops.audit_archive import ArchiveCopy, opener
from keymill.ops.audit_copies import Copies
from keymill.ops.auditing import Audit
from keymill.ops.auditing_copies import Ends, compare_copy, find_strangers
from schemas import topics
from schemas.codec import encode
from schemas.ids import key_set_key
from tests.archive_rig import adopted, key_record, slots_after
from tests.builders import NOW

KEYS = topics.KEYS.name
PARTITIONS = 2
RECORDS = {
    key_set_key("demo", name, b"d" * 16): encode(key_record(name, fill=number))
    for number, name in enumerate(("bbb", "ccc", "ddd", "eee"), 1)
}
CHANGED = msgspec.structs.replace(key_record("ccc", fill=2), tracks=key_record("ccc", fill=9).tracks)


NEW = key_set_key("demo", "new", b"d" * 16)


def partition_of(record_key: bytes) -> int:
    """Where it stands."""
    return topics.partition_of(topics.KEYS, record_key, PARTITIONS)


def archived(folder: Path) -> URL:
    """An archive that has read all of `RECORDS`."""
    written: list[Whole] = []
    for record_key, value in RECORDS.items():
        partition = partition_of(record_key)
        offset = sum(each.partition == partition for each in written)
        written.append(Whole(KEYS, partition, offset, record_key, value, None, NOW, ()))
    url = archive_url("", folder)
    with closing(ArchiveWriter(url, adopted())) as writer:
        writer.write(written, slots_after(written))
    return url


def ends(behind: int = 0) -> Ends:
    """Of the key topic, so many records after what the archive has read."""
    return {KEYS: {p: sum(partition_of(key) == p for key in RECORDS) + behind for p in range(PARTITIONS)}}


@pytest.mark.parametrize("few", [False, True], ids=["partitions at once", "one by one"])
@pytest.mark.parametrize(
    ("topic", "behind", "found"),
    [
        (RECORDS, 0, {}),
        (dict(list(RECORDS.items())[1:]), 0, {"copy_unexpected": 1}),
        (RECORDS | {key_set_key("demo", "new", b"d" * 16): encode(key_record("new", fill=7))}, 0, {"copy_missing": 1}),
        (RECORDS | {key_set_key("demo", "new", b"d" * 16): encode(key_record("new", fill=7))}, 1, {}),
        (RECORDS | {key_set_key("demo", "ccc", b"d" * 16): encode(CHANGED)}, 0, {"copy_different": 1}),
    ],
    ids=["equal", "lost from the topic", "lost from the archive", "archive behind", "a key has changed"],
)
def test_topic_and_archive_must_agree(
    tmp_path: Path, topic: dict[bytes, bytes], behind: int, found: dict[str, int], few: bool
) -> None:
    """Each difference is told once; what an archive that is behind lacks is none."""
    audit = Audit(PARTITIONS, None)
    with closing(ArchiveReader(archived(tmp_path))) as reader:
        archive = ArchiveCopy(reader, "archive", ends(behind), few=few)
        for partition in range(PARTITIONS):
            held = {key: value for key, value in topic.items() if partition_of(key) == partition}
            compare_copy(audit, archive.copy(), KEYS, partition, held)
        find_strangers(audit, archive.copy(), KEYS, archive.keys(KEYS), topic.keys())
    assert dict(audit.findings.counts) == found


def test_a_copy_is_looked_at_again_where_it_may_agree(tmp_path: Path) -> None:
    """Records that changed, and those that differed or were not there yet; nothing is opened where there is none."""
    topic, audit, url = dict(RECORDS), Audit(PARTITIONS, None), archived(tmp_path)
    first, second = list(topic)[:2]
    del topic[first]
    copies = Copies((), opener(str(url), tmp_path))

    def look_again(behind: int) -> dict[str, int]:
        copies.look_again(audit, ends(behind), lambda _topic, _partition, key: topic.get(key))
        return dict(audit.findings.counts)

    with ExitStack() as stack:
        copies.open(stack, ends())
        for partition in range(PARTITIONS):
            copies.look(audit, KEYS, partition, {key: topic[key] for key in topic if partition_of(key) == partition})
        copies.find_strangers(audit, ends())
    assert {"copy_unexpected": 1} == dict(audit.findings.counts)
    topic |= {NEW: encode(key_record("new", fill=7)), second: encode(CHANGED)}
    copies.changed(KEYS, partition_of(NEW), [NEW])
    assert {"copy_unexpected": 1} == look_again(1)
    assert {"copy_unexpected": 1, "copy_missing": 1} == look_again(0)
    copies.changed(KEYS, partition_of(second), [second])
    topic[first] = RECORDS[first]
    assert {"copy_different": 1, "copy_missing": 1} == look_again(0)
    del topic[NEW]
    topic[second] = RECORDS[second]
    assert {} == look_again(0)
    archive_file = Path(str(url.database))
    archive_file.unlink()
    assert {} == look_again(0)
