"""An audit against the SQL archive: what the archive saw of keys, the topic must still hold, and the reverse."""

from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from keymill.archive.reading import ArchiveReader
from keymill.archive.writing import ArchiveWriter, archive_url
from keymill.kafka.positions import Whole
from keymill.ops.audit_archive import ArchiveCopy
from keymill.ops.auditing import Audit
from keymill.ops.auditing_copies import compare_copy, find_strangers
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


def partition_of(record_key: bytes) -> int:
    """Where it stands."""
    return topics.partition_of(topics.KEYS, record_key, PARTITIONS)


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
    tmp_path: Path, topic: dict[bytes, bytes], behind: int, found: dict[str, int]
) -> None:
    """Each difference is told once; what an archive that is behind lacks is none."""
    written: list[Whole] = []
    for record_key, value in RECORDS.items():
        partition = partition_of(record_key)
        offset = sum(each.partition == partition for each in written)
        written.append(Whole(KEYS, partition, offset, record_key, value, NOW, ()))
    url = archive_url("", tmp_path)
    with closing(ArchiveWriter(url, adopted())) as writer:
        writer.write(written, slots_after(written))
    ends = {KEYS: {p: sum(each.partition == p for each in written) + behind for p in range(PARTITIONS)}}
    audit = Audit(PARTITIONS, None)
    with closing(ArchiveReader(url)) as reader:
        archive = ArchiveCopy(reader, "archive", ends)
        for partition in range(PARTITIONS):
            held = {key: value for key, value in topic.items() if partition_of(key) == partition}
            compare_copy(audit, archive.copy(), KEYS, partition, held)
        find_strangers(audit, archive.copy(), KEYS, archive.keys(KEYS), topic.keys())
    assert dict(audit.findings.counts) == found
