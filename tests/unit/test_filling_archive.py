"""Rebuilding a topic from the SQL archive alone: the newest of every record, and nothing that does not open."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from keymill.archive.writing import ArchiveWriter, archive_url
from keymill.config import ProcessorSettings, load
from keymill.core.provisioning import make_key_record, needed
from keymill.errors import Misconfigured
from keymill.kafka.positions import Whole
from keymill.kms.keyfile import KeyFile, add_organization, create_key_file
from keymill.kms.keyring import Keyring
from keymill.ops import source
from keymill.ops.filling_archive import fill_from
from keymill.ops.report import Report
from keymill.ops.source import Source
from schemas import topics
from schemas.codec import decode, encode
from schemas.ids import asset_key, is_key_set
from schemas.records import KeyRecord
from tests.archive_rig import adopted, slots_after
from tests.builders import NOW, assign, folded, ingest, rotate
from tests.fakes import Made

KEYS = topics.KEYS.name
PARTITIONS = 2


@pytest.fixture
def settings(tmp_path: Path) -> ProcessorSettings:
    """A key file with the organization."""
    create_key_file(tmp_path / "keys.json")
    add_organization(tmp_path / "keys.json", "demo")
    return load(ProcessorSettings, environ={}, data=tmp_path)


def records_of(settings: ProcessorSettings) -> dict[bytes, list[bytes]]:
    """By record key, every value that an asset of two versions left behind."""
    keyring = Keyring(KeyFile(settings.keys_path))
    newest = folded(ingest(), rotate(2))
    values = {asset_key("demo", newest.asset): [encode(folded(ingest())), encode(newest)]}
    for need in needed(newest, None):
        record = make_key_record(newest, need, keyring.keys_for("demo", need.root_version))
        values[need.record_key] = [encode(record)]
    return values


def rebuild(settings: ProcessorSettings, values: dict[bytes, list[bytes]]) -> tuple[Made, Report]:
    """Archive the values, and fill an empty topic from there."""
    written: list[Whole] = []
    for key, each in values.items():
        partition = topics.partition_of(topics.KEYS, key, PARTITIONS)
        for value in each:
            written.append(Whole(KEYS, partition, len(written), key, value, None, NOW, ()))
    url = archive_url("", settings.data)
    with closing(ArchiveWriter(url, adopted())) as writer:
        writer.write(written, slots_after(written))
    made, report = Made(), Report()
    lost = Source(None, source.ASSETS, adopted()[topics.ASSETS.name], {}, {}, {})  # type: ignore[arg-type]
    fill_from(url)(settings, "", lost, made, report)
    return made, report


def test_the_newest_of_every_record_comes_back(settings: ProcessorSettings) -> None:
    """Byte for byte, each on its partition, and an asset record behind the keys that it names."""
    values = records_of(settings)
    made, report = rebuild(settings, values)
    assert {record.record_key: record.value for record in made.records} == {k: v[-1] for k, v in values.items()}
    assert [is_key_set(record.record_key) for record in made.records] == [True, True, False]
    assert {record.partition for record in made.records} == {
        topics.partition_of(topics.KEYS, key, PARTITIONS) for key in values
    }
    assert (report.different, report.unexpected) == (0, 0)


@pytest.mark.parametrize("field", ["wrapped", "fp", "asset"])
def test_a_record_that_does_not_open_is_told_and_left_out(settings: ProcessorSettings, field: str) -> None:
    """A flipped bit of the wrapping, another fingerprint, another asset's record: none of them is written."""
    values = records_of(settings)
    key = next(each for each in values if is_key_set(each))
    record = decode(values[key][0], KeyRecord)
    changed = {
        "wrapped": {"wrapped": bytes([record.wrapped[0] ^ 1]) + record.wrapped[1:]},
        "fp": {"tracks": (msgspec.structs.replace(record.tracks[0], fp=b"x" * 16), *record.tracks[1:])},
        "asset": {"asset": "another"},
    }[field]
    values[key] = [encode(msgspec.structs.replace(record, **changed))]
    made, report = rebuild(settings, values)
    assert key not in {each.record_key for each in made.records}
    assert report.different == 1


class Message:
    """What a scanner gives."""

    def __init__(self, key: bytes, value: bytes | None) -> None:
        self.key, self.value = lambda: key, lambda: value


class Held:
    """A scanner over a topic that holds something already."""

    def __init__(self, values: Mapping[bytes, bytes | None]) -> None:
        self.values = values

    def read(self, _topic: str, partition: int, *, end: int):
        for key, value in self.values.items():
            if topics.partition_of(topics.KEYS, key, PARTITIONS) == partition:
                yield Message(key, value)


def refill(
    settings: ProcessorSettings, values: Mapping[bytes, bytes], there: Mapping[bytes, bytes | None],
    *, astray: int = 0, partitions: int = PARTITIONS,
) -> tuple[Made, Report]:  # fmt: skip
    """Archive the values, *astray* partitions beside their place, and fill a topic that holds *there*."""
    written: list[Whole] = []
    for key, value in values.items():
        partition = (topics.partition_of(topics.KEYS, key, PARTITIONS) + astray) % PARTITIONS
        written.append(Whole(KEYS, partition, len(written), key, value, None, NOW, ()))
    url = archive_url("", settings.data)
    with closing(ArchiveWriter(url, adopted())) as writer:
        writer.write(written, slots_after(written))
    made, report = Made(), Report()
    told = adopted(partitions=partitions)[topics.ASSETS.name]
    lost = Source(Held(there), source.ASSETS, told, {}, dict.fromkeys(range(PARTITIONS), 9), {})  # type: ignore[arg-type]
    fill_from(url)(settings, "", lost, made, report)
    return made, report


def newest(settings: ProcessorSettings) -> dict[bytes, bytes]:
    """By record key, the last value of each."""
    return {key: each[-1] for key, each in records_of(settings).items()}


def test_what_the_topic_has_is_not_written_again(settings: ProcessorSettings) -> None:
    """The same, and a later record; a tombstone is nothing."""
    values = newest(settings)
    asset, key = asset_key("demo", "bbb"), next(each for each in values if is_key_set(each))
    there = values | {asset: encode(folded(ingest(), rotate(2), assign(4))), key: None}
    made, report = refill(settings, values, there)
    assert [key] == [each.record_key for each in made.records]
    assert (2, 0) == (report.identical, report.different)


def test_what_the_topic_contradicts_stays_and_is_told(settings: ProcessorSettings) -> None:
    """A key never changes, not even back."""
    values = newest(settings)
    key = next(each for each in values if is_key_set(each))
    record = decode(values[key], KeyRecord)
    changed = msgspec.structs.replace(record.tracks[0], fp=b"x" * 16)
    other = msgspec.structs.replace(record, tracks=(changed, *record.tracks[1:]))
    made, report = refill(settings, values, {key: encode(other)})
    assert key not in {each.record_key for each in made.records}
    assert 1 == report.different and "the topic's record stays" in report.differences[0].detail


def test_a_sound_record_under_another_record_key_is_left_out(settings: ProcessorSettings) -> None:
    """It opens, and no view would take it."""
    values = newest(settings)
    asset = values.pop(asset_key("demo", "bbb"))
    astray = asset_key("demo", "other")
    made, report = refill(settings, values | {astray: asset}, {})
    assert astray not in {each.record_key for each in made.records}
    assert 1 == report.different and "quarantined" in report.differences[0].detail


def test_records_that_belong_on_another_partition_are_left_out(settings: ProcessorSettings) -> None:
    """Two truths of one record key would stand in the topic."""
    made, report = refill(settings, newest(settings), {}, astray=1)
    assert ([], 3) == (made.records, report.different)


def test_a_topic_with_fewer_partitions_is_refused(settings: ProcessorSettings) -> None:
    """What the archive has of the others would be left out silently."""
    values = newest(settings)
    place = topics.partition_of(topics.KEYS, asset_key("demo", "bbb"), PARTITIONS)
    with pytest.raises(Misconfigured, match="create it with as many partitions"):
        refill(settings, values, {}, astray=1 - place, partitions=1)
