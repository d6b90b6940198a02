"""
The second source of a rebuild: the records themselves, as the SQL archive saw them, where the logs are gone too.

Every record is judged before it is taken: it stands where it belongs, a key record opens under the KMS and holds the
keys that its fingerprints promise, and nothing that the topic holds already is contradicted.
"""

from collections.abc import Mapping
from contextlib import closing

from sqlalchemy import URL

from keymill.archive.reading import ArchiveReader
from keymill.config import ProcessorSettings
from keymill.core.envelope import unwrap_keys
from keymill.core.view import Fate, Verdict, judge_asset_record, judge_key_record, judge_policy_record, misplaced
from keymill.errors import InvalidRecord, KeymillError, Misconfigured
from keymill.kafka.producer import Outgoing
from keymill.kms.keyfile import KeyFile
from keymill.kms.keyring import Keyring
from keymill.ops.changes import Changes
from keymill.ops.filling import Fill
from keymill.ops.progress import Advance
from keymill.ops.report import Report
from keymill.ops.source import Source
from schemas import topics
from schemas.codec import decode
from schemas.ids import is_key_set
from schemas.records import AssetRecord, KeyRecord, PolicyRecord

WHY = "the archive has it"
Made = AssetRecord | KeyRecord | PolicyRecord


def fill_from(url: URL) -> Fill:
    """A `Fill` of the topic with the newest record of every record key that the archive has seen."""

    def fill(settings: ProcessorSettings, _bootstrap: str, source: Source, changes: Changes, report: Report) -> None:
        keyring = Keyring(KeyFile(settings.keys_path))
        topic = source.pair.made.name
        with closing(ArchiveReader(url)) as archive, Advance("rebuilding, partitions", source.partitions) as progress:
            if lost := _partitions_of(archive, topic) - set(range(source.partitions)):
                raise Misconfigured(
                    f"the archive has partition {max(lost)} of {topic}: create it with as many partitions"
                )
            for partition in range(source.partitions):
                held = {key: value for key, value in source.held(partition) if value is not None}
                newest = dict(archive.newest_records(topic, partition))
                for record_key in sorted(newest, key=lambda key: (not is_key_set(key), key)):  # keys before their asset
                    report.events += 1
                    record = Outgoing(topic=topic, record_key=record_key, value=newest[record_key], partition=partition)
                    if topics.partition_of(source.pair.made, record_key, source.partitions) != partition:
                        report.note("different", record_key, "it belongs on another partition: the count has changed")
                    else:
                        _take(record, held, keyring, changes, report)
                progress.step()

    return fill


def _partitions_of(archive: ArchiveReader, topic: str) -> set[int]:
    return {partition for each in archive.topics() if each.topic == topic for partition in each.positions}


def _take(record: Outgoing, held: Mapping[bytes, bytes], keyring: Keyring, changes: Changes, report: Report) -> None:
    try:
        new, there = _read(record, record.value), _read(record, held.get(record.record_key))
        assert new is not None
        if wrong := misplaced(record.record_key, new):
            report.note("different", record.record_key, f"the archive's record is quarantined: {wrong.reason}")
            return
        if isinstance(new, KeyRecord):
            unwrap_keys(keyring.kek(new.organization, new.kek_epoch), keyring.k_fp(new.organization), new)
    except KeymillError as error:
        report.note("different", record.record_key, f"the archive's record: {error}")
        return
    verdict = _judged(new, there)
    if there is not None and verdict.fate in (Fate.SAME, Fate.STALE):
        report.identical += 1
    elif verdict.fate is Fate.APPLIED:
        changes.make(record, WHY)
    else:
        report.note("different", record.record_key, f"the topic's record stays: {verdict.reason}")


def _read(record: Outgoing, value: bytes | None) -> Made | None:
    if value is None:
        return None
    if record.topic == topics.POLICIES.name:
        return decode(value, PolicyRecord)
    return decode(value, KeyRecord) if is_key_set(record.record_key) else decode(value, AssetRecord)


def _judged(new: Made, held: Made | None) -> Verdict:
    """What a view that holds *held* would say."""
    match new, held:
        case KeyRecord(), None | KeyRecord():
            return judge_key_record(new, held, {})
        case AssetRecord(), None | AssetRecord():
            return judge_asset_record(new, held)
        case PolicyRecord(), None | PolicyRecord():
            return judge_policy_record(new, held)
    raise InvalidRecord("two kinds of records under one key", field="key")
