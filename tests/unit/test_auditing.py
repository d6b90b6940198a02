"""What an audit finds between the records: each kind of difference, once."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from keymill.core.envelope import unwrap_keys
from keymill.kms.keyring import Keyring
from keymill.ops.audit_following import KINDS, Looked, show
from keymill.ops.auditing import Audit
from keymill.ops.auditing_assets import AssetPartition, News
from keymill.ops.auditing_copies import Copy, compare_copy, find_strangers
from keymill.ops.held import Held
from keymill.ops.ledger import Ledger
from keymill.ops.replaying_policies import HeldPolicies
from keymill.ops.report import Report
from keymill.telemetry import AUDIT_DIFFERENCES
from schemas import topics
from schemas.codec import decode, encode
from schemas.ids import asset_key
from schemas.records import Claim, KeyOrigin, KeyRecord
from tests.builders import ingest, rotate
from tests.fakes import MemoryKms
from tests.unit.test_replaying import HERE, PARTITIONS, World
from tests.view_records import asset_record, at, key_record, policy_record

KEYS, POLICIES = topics.KEYS.name, topics.POLICIES.name
ASSET = asset_key("demo", "bbb")


def held(*records: tuple[bytes, Any]) -> Held:
    """What a partition holds."""
    found = Held(HERE)
    for key, record in records:
        found.add(key, record if isinstance(record, bytes) else encode(record), Report())
    return found


def audit(**more: Any) -> Audit:
    return Audit(PARTITIONS, **more)


def look(found: Audit, *records: tuple[bytes, Any], partition: int = HERE) -> None:
    """Let it see what a partition holds."""
    for key, value in held(*records).values.items():
        found.exchange(partition, key, None, value)


def check(found: Audit, *made: Claim, accepted: bool = True) -> dict[str, int]:
    """The kinds of differences after these claims, whose events were accepted or not."""
    for each in made:
        found.claims.add(each)
    found.check(lambda _: accepted)
    return kinds(found)


def kinds(found: Audit) -> dict[str, int]:
    return dict(found.findings.counts)


def named(found: Audit) -> list[str]:
    return [each.record_key for each in found.findings.listed()]


def given(origin: KeyOrigin, **changes: Any) -> tuple[bytes, KeyRecord]:
    """A key record of one track whose KID was not derived."""
    key, record = key_record("bbb", labels=["SD"])
    track = msgspec.structs.replace(record.tracks[0], origin=origin, **changes)
    return key, msgspec.structs.replace(record, tracks=(track,))


def claim(record: KeyRecord, **changes: Any) -> Claim:
    """The claim that calls for it."""
    track = record.tracks[0]
    made = Claim(
        organization="demo", kid=track.kid, asset=record.asset, key_version=1, label=track.label, scheme=track.scheme,
        root_version=1, fp=track.fp if track.origin is KeyOrigin.IMPORTED else None, event=at(3),
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def test_a_clean_world_is_clean() -> None:
    """Records that the processors wrote: nothing is found, and their fingerprints are in the ledger."""
    world, keyring = World(ingest("SD", "HD"), rotate(2)), Keyring(MemoryKms())
    found = audit(open=lambda record: unwrap_keys(keyring.kek("demo", record.kek_epoch), keyring.k_fp("demo"), record))
    found.judged(("events",), world.replay())
    look(found, *[(key, value) for key, value in world.topic if value])
    assert {} == check(found) and found.clean()
    again = audit(before=found.ledger())
    look(again, *[(key, value) for key, value in world.topic if value])
    assert {} == check(again)
    result = found.result()
    assert (2, 1, 2, 4) == tuple(result[name] for name in ("events", "assets", "key_records", "fingerprints"))


def test_what_a_replay_finds_is_taken_over() -> None:
    """Counted by kind, and named."""
    found, report = audit(), Report()
    for kind in ("missing", "different", "unexpected"):
        report.note(kind, b"demo/x", "why")
    found.judged(("events",), report)
    assert {"missing": 1, "different": 1, "unexpected": 1} == kinds(found)
    assert 3 == len(named(found))


def test_a_record_on_another_partition_is_misplaced() -> None:
    """Compaction would keep two truths."""
    found = audit()
    look(found, *World(ingest("SD")).topic, partition=(HERE + 1) % PARTITIONS)
    assert {"misplaced": 2} == kinds(found)
    assert f"belongs on {HERE}" in found.findings.listed()[0].detail


def test_a_misplaced_policy_is_told() -> None:
    """All policies of an organization stand together."""
    found, kept = audit(), HeldPolicies()
    key, record = policy_record(4)
    kept.add(key, encode(record), Report())
    right = topics.partition_of(topics.POLICIES, key, PARTITIONS)
    found.exchange_policies(right, HeldPolicies(), kept)
    assert {} == kinds(found)
    found.exchange_policies((right + 1) % PARTITIONS, HeldPolicies(), kept)
    assert {"misplaced": 1} == kinds(found)


def test_a_key_that_does_not_open_is_told() -> None:
    """A wrapping that another KEK made."""
    keyring = Keyring(MemoryKms())
    found = audit(open=lambda record: unwrap_keys(keyring.kek("demo", 1), keyring.k_fp("demo"), record))
    key, value = World(ingest("SD")).topic[0]
    record = decode(value or b"", KeyRecord)
    look(found, (key, msgspec.structs.replace(record, wrapped=bytes(len(record.wrapped)))))
    assert {"unopened": 1} == kinds(found)


def test_an_asset_that_names_no_policy_is_unresolved() -> None:
    """Policy 0 always exists; another one must have been made."""
    found, (key, record) = audit(), asset_record("bbb")
    look(found, (key, record))
    assert {} == check(found)
    value, assigned = encode(record), encode(msgspec.structs.replace(record, policy_id=4))
    found.exchange(HERE, key, value, assigned)
    assert {"unresolved": 1} == check(found) and ["demo/4"] == named(found)
    found.exchange(HERE, key, assigned, value)
    assert {} == check(found)
    found.exchange(HERE, key, value, assigned)
    kept, (policy, content) = HeldPolicies(), policy_record(4)
    kept.add(policy, encode(content), Report())
    found.exchange_policies(topics.partition_of(topics.POLICIES, b"demo/4", PARTITIONS), HeldPolicies(), kept)
    assert {} == check(found)


@pytest.mark.parametrize("origin", [KeyOrigin.CHOSEN, KeyOrigin.IMPORTED])
def test_a_kid_is_its_winners(origin: KeyOrigin) -> None:
    """Chosen and imported: the first claim and the key record say the same."""
    found, keyed = audit(), given(origin)
    look(found, keyed)
    assert {} == check(found, claim(keyed[1]), claim(keyed[1], asset="loser"))


@pytest.mark.parametrize(
    "change",
    [{"asset": "other"}, {"key_version": 2}, {"label": "HD"}, {"fp": b"x" * 16}, {"fp": None}],
    ids=lambda change: next(iter(change)),
)
def test_a_key_record_against_its_claim_is_a_contradiction(change: dict[str, Any]) -> None:
    """Another asset, version, track, key, or origin."""
    found, keyed = audit(), given(KeyOrigin.IMPORTED)
    look(found, keyed)
    assert {"contradiction": 1} == check(found, claim(keyed[1], **change))


def test_a_kid_without_claim_is_unclaimed() -> None:
    """Nobody may give a caller's KID without the log's word."""
    found = audit()
    look(found, given(KeyOrigin.CHOSEN))
    assert {"unclaimed": 1} == check(found)


def test_a_winner_without_key_record_is_missing() -> None:
    """Unless its event was refused, or is not applied yet."""
    wanted = claim(given(KeyOrigin.CHOSEN)[1], event=at(7))
    for applied, refused, expected in ((7, (), {"missing": 1}), (7, (7,), {}), (6, (), {})):
        found, here = audit(), AssetPartition(HERE, 0)
        key, record = asset_record("bbb", applied)
        here.step(News([(key, encode(record))], refused), found, World.decider(MemoryKms()), {})
        assert expected == {
            kind: 1 for kind in check(found, wanted, accepted=here.accepted(wanted)) if kind == "missing"
        }
        here.let_go({key})
        assert bool(expected) is here.accepted(wanted)
        here.let_go(set())
        assert not here.accepted(wanted)


def test_two_fingerprints_of_a_kid_are_a_contradiction() -> None:
    """In two key records."""
    found = audit()
    one, other = key_record("bbb", labels=["SD"]), key_record("bbb", 1, labels=["SD"], seed="other", kid_of="bbb")
    look(found, one, (one[0][:-1] + b"0", other[1]))
    assert {"contradiction": 1} == check(found)


def test_the_former_ledger_is_compared() -> None:
    """A key that is gone, and one that is another; new ones are no difference."""
    now, before = audit(), Ledger()
    look(now, key_record("bbb", labels=["SD", "HD"]))
    (first, second) = now.ledger().entries()
    before.add("demo", [(first.kid, b"x" * 16), (b"g" * 16, b"f" * 16)])
    found = audit(before=before)
    look(found, key_record("bbb", labels=["SD", "HD"]))
    assert {"key_lost": 1, "key_changed": 1} == check(found)
    assert {f"demo/{first.kid.hex()}", f"demo/{(b'g' * 16).hex()}"} == set(named(found))
    assert second.kid != first.kid


def compared(here: Any, there: Any, *, reached: bool = True, topic: str = KEYS) -> dict[str, int]:
    """What a copy that holds *there* under the record key of *here* is found to be."""
    found, (key, record) = audit(), here
    copy = Copy("the view", lambda _topic, _key: there if there is None else encode(there), lambda *_: reached)
    compare_copy(found, copy, topic, HERE, {key: encode(record)})
    return kinds(found)


def test_a_copy_may_be_newer_or_on_its_way() -> None:
    """The same, a later one, and an earlier one while it catches up, are no difference."""
    film, epoch = asset_record("film", 7), key_record("film", epoch=2)
    assert {} == compared(film, film[1])
    assert {} == compared(film, asset_record("film", 9)[1])
    assert {} == compared(film, asset_record("film", 5)[1], reached=False)
    assert {} == compared(film, None, reached=False)
    assert {} == compared(epoch, key_record("film", epoch=3)[1])
    assert {} == compared(epoch, key_record("film", epoch=1)[1], reached=False)
    assert {} == compared(policy_record(4), policy_record(4, 2, applied=9)[1], topic=POLICIES)


def test_a_copy_that_lacks_a_record_is_told() -> None:
    """It has read past it, so it lost it."""
    assert {"copy_missing": 1} == compared(asset_record("film"), None)


@pytest.mark.parametrize(
    ("here", "there", "topic"),
    [
        (asset_record("film", 7), asset_record("film", 5)[1], KEYS),
        (asset_record("film", 7), asset_record("film", 7, product="gold")[1], KEYS),
        (key_record("film"), key_record("film", seed="other")[1], KEYS),
        (key_record("film", epoch=2), key_record("film", epoch=1)[1], KEYS),
        (policy_record(4), policy_record(4, 2)[1], POLICIES),
        (key_record("film"), asset_record("film")[1], KEYS),
    ],
    ids=["older asset", "other asset", "other key", "older epoch", "other policy", "unreadable"],
)
def test_a_copy_that_contradicts_is_told(here: Any, there: Any, topic: str) -> None:
    """Older than what it has read, or another record of the same event."""
    assert {"copy_different": 1} == compared(here, there, topic=topic)


def test_what_only_a_copy_has_is_told() -> None:
    """The topic has lost it."""
    found, copy = audit(), Copy("the view", lambda *_: None, lambda *_: True)
    find_strangers(found, copy, KEYS, [b"demo/a", b"demo/b"], {b"demo/a"})
    assert {"copy_unexpected": 1} == kinds(found) and ["demo/b"] == named(found)


def gauges() -> Mapping[str, float]:
    (family,) = AUDIT_DIFFERENCES.collect()
    return {sample.labels["kind"]: sample.value for sample in family.samples}


def test_the_metrics_show_every_kind() -> None:
    """From 0 on, and back to it when the next audit is clean."""
    found = audit()
    found.note(("place",), "misplaced", b"k", "d")
    show(Looked(found, whole=True), 1.0)
    assert dict.fromkeys(KINDS, 0.0) | {"misplaced": 1.0} == gauges()
    show(Looked(audit(), whole=False), 1.0)
    assert dict.fromkeys(KINDS, 0.0) == gauges()
