"""The checker passes a good history, and each invariant fails when it is broken: a checker that never fails is none."""

import dataclasses
from collections.abc import Callable

import msgspec
import pytest

from keymill.core.folding import Coordinates, fold
from keymill.core.provisioning import Keys, make_key_record, needed
from keymill.secret import Secret
from schemas.codec import decode, encode
from schemas.events import AssetEvent, AssetIngested, KeysRotated
from schemas.ids import asset_key
from schemas.partition import partition_for
from schemas.records import AssetRecord, KeyRecord
from schemas.values import LogPosition
from tests import history
from tests.history import Accepted, Committed, Event, Refused, Served, Written, check

KEYS = Keys(prk=Secret(b"p" * 32), k_fp=Secret(b"f" * 32), kek=Secret(b"k" * 64), kek_epoch=1)
RECORD_KEY = asset_key("demo", "film")
PARTITION = partition_for(RECORD_KEY, 12)


def good() -> list[Event]:
    """An ingest, a rotation, a refused event, two licenses and a commit."""
    clock = iter(range(1, 1000))
    events: list[Event] = []
    held: AssetRecord | None = None
    offset = iter(range(100, 200))
    for position, body in enumerate((AssetIngested(), KeysRotated(to_version=2))):
        event = AssetEvent(organization="demo", asset="film", event_time=0, body=body)
        at = Coordinates(partition=PARTITION, position=LogPosition(generation=0, offset=position), timestamp=1)
        accepted = Accepted(at_ns=next(clock), organization="demo", asset="film", partition=PARTITION, offset=position)
        held = fold(event, at=at, held=held, root_version=1).asset
        events.append(accepted)
        for need in list(needed(held, event))[-1:]:
            value = encode(make_key_record(held, need, KEYS))
            events.append(history.written(PARTITION, next(offset), need.record_key, value, next(clock)))
        events.append(history.written(PARTITION, next(offset), RECORD_KEY, encode(held), next(clock)))
        record = decode(bytes.fromhex(events[-2].value_hex), KeyRecord)  # type: ignore[union-attr]
        fingerprints = {track.kid.hex(): track.fp.hex() for track in record.tracks}
        served = Served(
            at_ns=next(clock), proxy="p", organization="demo", asset="film", fingerprints=fingerprints,
            key_version=record.key_version,
        )  # fmt: skip
        events.append(served)
    events.append(Accepted(at_ns=next(clock), organization="demo", asset="other", partition=3, offset=7))
    events.append(Refused(at_ns=next(clock), partition=3, offset=7, reason="conflict"))
    events.append(Committed(at_ns=next(clock), partition=PARTITION, offset=2))
    return events


def test_a_good_history_has_no_violation() -> None:
    """The checker accepts what the promises allow."""
    assert [] == check(good())


def other_key(events: list[Event]) -> None:
    first = next(event for event in events if isinstance(event, Served))
    changed = dict.fromkeys(first.fingerprints, "00" * 16)
    events.append(dataclasses.replace(first, fingerprints=changed, at_ns=900, key_version=2))


def rewritten_key(events: list[Event]) -> None:
    first = next(event for event in events if isinstance(event, Written) and "/k/" in event.record_key)
    record = decode(bytes.fromhex(first.value_hex), KeyRecord)
    tracks = tuple(msgspec.structs.replace(track, fp=b"x" * 16) for track in record.tracks)
    value = encode(msgspec.structs.replace(record, tracks=tracks))
    events.append(history.written(PARTITION, 300, first.record_key.encode(), value, 900))


def kid_of_two_assets(events: list[Event]) -> None:
    first = next(event for event in events if isinstance(event, Written) and "/k/" in event.record_key)
    record = msgspec.structs.replace(decode(bytes.fromhex(first.value_hex), KeyRecord), asset="thief")
    key = first.record_key.replace("film", "thief").encode()
    events.append(history.written(PARTITION, 300, key, encode(record), 900))


def lost_event(events: list[Event]) -> None:
    events.append(Accepted(at_ns=900, organization="demo", asset="film", partition=PARTITION, offset=5))


def lost_key_record(events: list[Event]) -> None:
    events.remove(next(event for event in events if isinstance(event, Written) and "/k/" in event.record_key))


def lost_dead_letter(events: list[Event]) -> None:
    events.remove(next(event for event in events if isinstance(event, Refused)))


def phantom(events: list[Event]) -> None:
    served = Served(
        at_ns=900, proxy="p", organization="demo", asset="film", fingerprints={"ab" * 16: "cd" * 16}, key_version=2
    )
    events.append(served)


def older_version_served(events: list[Event]) -> None:
    first = next(event for event in events if isinstance(event, Served))
    events.append(dataclasses.replace(first, at_ns=900))


def late_write_unrepaired(events: list[Event]) -> None:
    first = next(event for event in events if isinstance(event, Written) and "/k/" not in event.record_key)
    events.append(dataclasses.replace(first, offset=400, at_ns=900))


def early_commit(events: list[Event]) -> None:
    events.append(Accepted(at_ns=900, organization="demo", asset="unseen", partition=PARTITION, offset=9))
    events.append(Committed(at_ns=901, partition=PARTITION, offset=10))


def commit_before_work(events: list[Event]) -> None:
    """All the work is done in the end; only the commit came before it."""
    last = next(event for event in reversed(events) if isinstance(event, Written))
    events.append(Committed(at_ns=last.at_ns - 1, partition=PARTITION, offset=2))


def served_before_commit(events: list[Event]) -> None:
    served = next(event for event in events if isinstance(event, Served))
    events.remove(served)
    events.append(dataclasses.replace(served, at_ns=1))


def tombstone(events: list[Event]) -> None:
    events.append(history.written(PARTITION, 500, RECORD_KEY, b"", 900))


@pytest.mark.parametrize(
    ("mutate", "invariant"),
    [
        (other_key, "one_key_per_kid"),
        (rewritten_key, "one_key_per_kid"),
        (kid_of_two_assets, "one_asset_per_kid"),
        (lost_event, "nothing_accepted_is_lost"),
        (lost_key_record, "nothing_accepted_is_lost"),
        (lost_dead_letter, "nothing_accepted_is_lost"),
        (phantom, "served_was_committed"),
        (older_version_served, "versions_only_rise"),
        (late_write_unrepaired, "versions_only_rise"),
        (early_commit, "commits_follow_work"),
        (commit_before_work, "commits_follow_work"),
        (served_before_commit, "served_was_committed"),
        (tombstone, "no_tombstones"),
    ],
)
def test_each_invariant_fails_when_it_is_broken(mutate: Callable[[list[Event]], None], invariant: str) -> None:
    """A mutated history is caught by the invariant that it breaks."""
    events = good()
    mutate(events)
    assert invariant in {violation.invariant for violation in check(events)}


def test_a_history_survives_its_file(tmp_path: object) -> None:
    """What was saved is loaded."""
    path = tmp_path / "history.jsonl"  # type: ignore[operator]
    history.save(good(), path)
    assert good() == history.load(path)
