"""Records as six topics hold them, and an archive's tables as plain values to compare."""

from collections.abc import Sequence

from sqlalchemy import URL, create_engine, select

from keymill.archive import tables
from keymill.kafka.positions import Slot, Whole
from schemas import topics
from schemas.codec import encode
from schemas.ids import asset_key, key_set_key, scoped_key
from schemas.records import Claim, DeadLetter, KeyOrigin, KeyRecord, PolicyRecord, PolicyState, TopicAdopted, TrackKey
from schemas.values import LogPosition, Scheme
from tests.builders import NOW, PLAYABLE, assign, create_policy, folded, ingest, rotate

AT = LogPosition(generation=0, offset=0)


def adopted(*, generation: int = 0, topic_id: str = "first", partitions: int = 2) -> dict[str, TopicAdopted]:
    """What `require_topics` says of the archived topics."""
    return {
        name: TopicAdopted(
            topic=name, topic_id=f"{topic_id}-{name}", generation=generation, partitions=partitions, adopted=NOW
        )
        for name in tables.ARCHIVED
    }


def key_record(asset: str = "bbb", *, kek_epoch: int = 1, fill: int = 1) -> KeyRecord:
    """A key record of two tracks."""
    tracks = tuple(
        TrackKey(
            kid=bytes([fill, n]) * 8, fp=bytes([n]) * 16, label=label, scheme=Scheme.CBCS, origin=KeyOrigin.DERIVED
        )
        for n, label in enumerate(("SD", "AUDIO"))
    )
    return KeyRecord(
        kek_epoch=kek_epoch, tracks=tracks, wrapped=bytes([kek_epoch]) * 80, organization="demo", asset=asset,
        key_version=1, root_version=1, event=AT,
    )  # fmt: skip


def policy(version: int = 1) -> PolicyRecord:
    """Policy 1 of demo."""
    return PolicyRecord(
        organization="demo", policy_id=1, version=version, state=PolicyState.READY, name=f"v{version}",
        policy=PLAYABLE, applied=LogPosition(generation=0, offset=version), created=NOW, changed=NOW,
    )  # fmt: skip


def dead_letter() -> DeadLetter:
    """A refusal."""
    return DeadLetter(
        topic=topics.ASSETS.name, partition=0, generation=0, offset=7, timestamp=NOW, reason="conflict", field="tracks",
        message="a NUL \0 that somebody sent", organization="demo", asset="bbb", value_size=3, value_sha256=b"h" * 32,
    )  # fmt: skip


def logs() -> dict[tuple[str, int], list[Whole]]:
    """Two partitions of every topic, records of every kind among them poison, tombstone and holes."""
    key, json_type = asset_key("demo", "bbb"), (("content-type", b"application/json"), ("x", b"\xff"))
    first, second = ingest(), rotate(2)
    claim = Claim(
        organization="demo", kid=b"k" * 16, asset="bbb", key_version=1, label="SD", scheme=Scheme.CENC,
        root_version=1, fp=b"f" * 16, event=AT,
    )  # fmt: skip
    set_key = key_set_key("demo", "bbb", b"d" * 16)
    values: dict[tuple[str, int], list[tuple[bytes | None, bytes | None, tuple[tuple[str, bytes], ...]]]] = {
        (topics.ASSETS.name, 0): [
            (key, encode(first), ()), (key, b'{"half": ', json_type), (None, None, ()), (key, encode(second), ()),
            (key, encode(assign(1)), ()),
        ],
        (topics.ASSETS.name, 1): [(b"\xff/\x00", b"poison", ())],
        (topics.KEYS.name, 0): [
            (set_key, encode(key_record()), ()), (key, encode(folded(first)), ()),
            (key, encode(folded(first, second, assign(1))), ()), (key, encode(folded(first, second)), ()),
            (set_key, encode(key_record(kek_epoch=2)), ()), (set_key, b"poison", ()),
        ],
        (topics.CLAIMS.name, 0): [(scoped_key("demo", "6b" * 16), encode(claim), ())],
        (topics.POLICY_CHANGES.name, 1): [(b"demo", encode(create_policy(name="n\0me")), ())],
        (topics.POLICIES.name, 1): [(scoped_key("demo", "1"), encode(policy(v)), ()) for v in (1, 2)],
        (topics.DEAD_LETTERS.name, 0): [(b"drm.assets.v1/0/7", encode(dead_letter()), ())],
    }  # fmt: skip
    return {
        (topic, partition): [
            Whole(topic, partition, 2 * n, record_key, value, None, NOW + n, headers)
            for n, (record_key, value, headers) in enumerate(each)
        ]
        for (topic, partition), each in values.items()
    }


def slots_after(records: Sequence[Whole]) -> dict[str, dict[int, Slot]]:
    """The positions behind the last of *records*."""
    slots: dict[str, dict[int, Slot]] = {}
    for record in records:
        slots.setdefault(record.topic, {})[record.partition] = Slot(record.offset + 1, 3)
    return slots


def contents(url: URL) -> dict[str, list[tuple[object, ...]]]:
    """Every table's rows, sorted; without the time at which positions moved."""
    engine = create_engine(url)
    found = {}
    with engine.connect() as connection:
        for table in tables.METADATA.sorted_tables:
            columns = [column for column in table.columns if column.name != "moved"]
            rows = connection.execute(select(*columns).order_by(*table.primary_key)).all()
            found[table.name] = [tuple(row) for row in rows]
    engine.dispose()
    return found
