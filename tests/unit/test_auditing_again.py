"""An audit that looks again: what is mended is told no more, what is not stays, and what waited is judged."""

import msgspec
import pytest

from keymill.core.envelope import unwrap_keys
from keymill.errors import UnknownKey
from keymill.kms.keyring import Keyring
from keymill.ops.audit_following import Schedule
from keymill.ops.auditing import Audit
from keymill.ops.auditing_assets import AssetPartition, News
from keymill.ops.auditing_copies import Copy, compare_copy, find_strangers
from keymill.ops.ledger import Ledger
from keymill.ops.verifying import Verifier
from schemas import framing, topics
from schemas.codec import encode
from schemas.ids import asset_key
from schemas.records import KeyOrigin, KeyRecord
from tests.builders import assign, ingest, rotate
from tests.fakes import MemoryKms
from tests.unit.test_auditing import audit, check, claim, given, kinds, named
from tests.unit.test_replaying import HERE, PARTITIONS, World, changed_key_record, same_partition
from tests.view_records import asset_record, at, key_record

KEYRING = Keyring(MemoryKms())
OTHER = (HERE + 1) % PARTITIONS


class Looks:
    """An audit of one partition of a `World`."""

    def __init__(self, world: World) -> None:
        self.audit, self.partition, self.world = audit(), AssetPartition(HERE, 0), world
        self.decider = Verifier(KEYRING, framing.decode_event, partitions=PARTITIONS, generation=0)

    def look(
        self, *, made: slice | list = slice(0), events: slice = slice(0), refused: tuple[int, ...] = (), done: int = 0
    ) -> dict:
        """At these of what the world has written."""
        records = made if isinstance(made, list) else self.world.topic[made]
        news = News(records, refused, self.world.events[events], done=done)
        self.partition.step(news, self.audit, self.decider, {})
        return check(self.audit)


def test_a_forged_record_is_told_until_it_is_mended() -> None:
    """In every look, also in one at which nothing came."""
    looks = Looks(World(ingest("SD"), assign(0)))
    assert {} == looks.look(made=slice(None), events=slice(None))
    key, value = looks.world.topic[0]
    assert value is not None
    for made in ([(key, changed_key_record(value, fp=b"f" * 16))], []):
        assert {"different": 1} == looks.look(made=made)
        assert [key.decode()] == named(looks.audit)
    assert {} == looks.look(made=[(key, value)])
    assert (2, 2) == looks.audit.numbers[:2]


@pytest.mark.parametrize("rubbish", [None, b'{"oops":1}'], ids=["tombstone", "undecodable"])
@pytest.mark.parametrize("place", [0, -1], ids=["key record", "asset record"])
def test_what_is_no_record_is_told_until_it_is_written_over(place: int, rubbish: bytes | None) -> None:
    """Once, however often it is written; no more once the right record is back, in the same look or in a later one."""
    looks = Looks(World(ingest("SD")))
    looks.look(made=slice(None), events=slice(None))
    key, value = looks.world.topic[place]
    for _ in range(2):
        assert {"different": 1} == looks.look(made=[(key, rubbish)])
    assert {} == looks.look(made=[(key, value)])
    assert {} == looks.look(made=[(key, rubbish), (key, value)])
    assert {"different": 1} == looks.look(made=[(key, value), (key, rubbish)])


def test_a_pending_event_is_judged_when_its_record_comes() -> None:
    """And is no difference before."""
    looks = Looks(World(ingest("SD"), assign(0)))
    assert {} == looks.look(events=slice(None))
    assert (2, 0, 0, 2) == looks.audit.numbers
    assert {} == looks.look(made=slice(None))
    assert (2, 2, 0, 0) == looks.audit.numbers


def test_a_pending_event_is_missing_its_record_once_a_later_one_has_its_own() -> None:
    """The processors decide a partition's events in order."""
    first, second = same_partition(2)
    looks = Looks(World(ingest("SD", asset=first), ingest("SD", asset=second)))
    looks.look(events=slice(None))
    later = [entry for entry in looks.world.topic if entry[0].startswith(asset_key("demo", second))]
    assert {"missing": 2} == looks.look(made=later)


def test_an_event_that_is_committed_is_missing_its_records() -> None:
    """Also where none that is newer tells so: they were acknowledged before, and are lost."""
    looks = Looks(World(ingest("SD"), rotate(2)))
    assert {} == looks.look(events=slice(None), made=slice(2))
    assert {} == looks.look(done=1)
    assert {"missing": 2} == looks.look(done=2)
    assert {"missing": 2} == looks.look(done=0)
    assert {} == looks.look(made=slice(2, None))


def test_a_dead_letter_that_comes_late_is_the_event_s() -> None:
    """It was missing one, or was accepted by mistake: its asset is judged without it."""
    looks = Looks(World(ingest("SD"), b"junk", assign(0)))
    assert {"missing": 1} == looks.look(made=slice(None), events=slice(None))
    assert {} == looks.look(refused=(1,))
    assert {"different": 1} == looks.look(refused=(2,))
    assert 2 == looks.audit.numbers.refused


def test_a_half_published_key_record_is_not_unexpected() -> None:
    """Its asset record stands behind it, and the topic's end was taken between the two."""
    looks = Looks(World(ingest("SD")))
    assert {} == looks.look(made=slice(1), events=slice(None))
    assert {} == looks.look(made=slice(1, None))


def test_a_second_fingerprint_that_is_gone_is_no_contradiction() -> None:
    """And is counted no more; the last one that goes takes the KID along."""
    found, (key, record) = audit(), key_record("bbb", labels=["SD"])
    value, other = encode(record), encode(key_record("bbb", 1, labels=["SD"], seed="x", kid_of="bbb")[1])
    found.exchange(HERE, key, None, value)
    found.exchange(OTHER, key, None, other)
    assert {"contradiction": 1, "misplaced": 1} == check(found)
    assert (2, 2) == (found.result()["fingerprints"], len(found.ledger()))
    found.exchange(OTHER, key, other, None)
    assert {} == check(found)
    assert (1, 1) == (found.result()["fingerprints"], len(found.ledger()))
    found.exchange(HERE, key, value, None)
    assert (0, 0, 0) == (found.key_records, found.result()["fingerprints"], len(found.ledger()))


def test_a_winner_gets_its_key_record() -> None:
    """It was missing; a record of another's takes its place again."""
    found, (key, record) = audit(), given(KeyOrigin.CHOSEN)
    asset, applied = asset_record("bbb", 7)
    found.exchange(HERE, asset, None, encode(applied))
    assert {"missing": 1} == check(found, claim(record, event=at(7)))
    found.exchange(HERE, key, None, encode(record))
    assert {} == check(found)
    found.exchange(HERE, key, encode(record), None)
    assert {"missing": 1} == check(found)


def test_the_former_ledger_s_key_comes_back() -> None:
    """`key_lost` is told until then."""
    before, (key, record) = Ledger(), key_record("bbb", labels=["SD"])
    before.add("demo", [(record.tracks[0].kid, record.tracks[0].fp)])
    found = audit(before=before)
    assert {"key_lost": 1} == check(found)
    found.exchange(HERE, key, None, encode(record))
    assert {} == check(found)


def test_a_key_record_that_does_not_open_is_tried_again() -> None:
    """The KMS had not learned its KEK; a record that goes takes its failure along."""
    known: list[int] = []

    def opened(record: KeyRecord) -> object:
        if record.kek_epoch not in known:
            raise UnknownKey(f"KEK epoch {record.kek_epoch} is not here")
        return unwrap_keys(KEYRING.kek("demo", record.kek_epoch), KEYRING.k_fp("demo"), record)

    for mend in (lambda found, key, value: found.exchange(HERE, key, value, None), lambda *_: known.append(1)):
        found, (key, value) = audit(open=opened), World(ingest("SD")).topic[0]
        found.exchange(HERE, key, None, value)
        assert {"unopened": 1} == check(found)
        mend(found, key, value)
        found.open_again()
        assert {} == check(found)


def test_a_misplaced_asset_record_names_no_policy() -> None:
    """No view takes it; it is told for where it stands alone, and gone when it goes."""
    found, (key, record) = audit(), asset_record("bbb")
    value = encode(msgspec.structs.replace(record, policy_id=4))
    found.exchange(OTHER, key, None, value)
    assert {"misplaced": 1} == check(found)
    found.exchange(HERE, key, None, value)
    found.exchange(OTHER, key, value, None)
    assert {"unresolved": 1} == check(found)


def test_a_copy_comes_to_agree() -> None:
    """What differs, or is on its way, is looked at again; a stranger until it is gone."""
    found, (key, record), there = audit(), asset_record("film", 7), dict[bytes, bytes]()
    copy = Copy("the view", lambda _, record_key: there.get(record_key), lambda *_: True)
    behind = copy._replace(reached=lambda *_: False)
    assert {key} == compare_copy(found, behind, topics.KEYS.name, HERE, {key: encode(record)}) and {} == kinds(found)
    assert {key} == compare_copy(found, copy, topics.KEYS.name, HERE, {key: encode(record)})
    assert {"copy_missing": 1} == kinds(found)
    there[key] = encode(record)
    assert set() == compare_copy(found, copy, topics.KEYS.name, HERE, {key: encode(record)}) and {} == kinds(found)
    assert {key} == find_strangers(found, copy, topics.KEYS.name, there, set()) and {"copy_unexpected": 1} == kinds(
        found
    )
    assert {key} == compare_copy(found, copy, topics.KEYS.name, HERE, {key: None})
    assert {"copy_unexpected": 1} == kinds(found)
    there.clear()
    assert set() == compare_copy(found, copy, topics.KEYS.name, HERE, {key: None}) and {} == kinds(found)


@pytest.mark.parametrize(
    ("whole_every_s", "age_s", "due"),
    [(60, None, True), (60, 59.9, False), (60, 60.0, True), (0, None, True), (0, 1e9, False)],
)
def test_when_everything_is_read(whole_every_s: int, age_s: float | None, due: bool) -> None:
    """At first, and then as often as was asked for."""
    assert due is Schedule(1, whole_every_s, 0).whole_due(age_s)


def test_nothing_new_is_nothing_to_do() -> None:
    """A look at which nothing came judges nothing."""
    looks = Looks(World(*[ingest("SD", asset=name) for name in same_partition(5)]))
    looks.look(made=slice(None), events=slice(None))
    judged: list[tuple] = []
    found: Audit = looks.audit
    found.judged = lambda *given: judged.append(given)  # type: ignore[method-assign,assignment,func-returns-value]
    assert {} == looks.look() and [] == judged
