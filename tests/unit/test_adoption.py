"""Which adoptions count, what is carried over from the status topic, and when a generation may be guessed."""

from collections.abc import Mapping

import pytest

from keymill.errors import Misconfigured
from keymill.kafka.adoption import Ground, adoptions_of, first_adoptions, former_count, takeovers
from keymill.kafka.cluster import TopicState
from keymill.kafka.latest import Read, Whole
from keymill.kafka.status_topic import status_of
from schemas.codec import encode
from schemas.operations import ProgramReport
from schemas.records import TopicAdopted
from schemas.topics import ADOPTIONS, ASSETS, CATALOGUE, KEYS, STATUS, Topic, partition_of

NAMES = tuple(topic.name for topic in CATALOGUE)
REPORT = ProgramReport(program="proxy", instance="one", version="1", started=1, at=1)


def adopted(name: str, generation: int = 0, topic_id: str = "id") -> TopicAdopted:
    return TopicAdopted(topic=name, topic_id=topic_id, generation=generation, partitions=3, adopted=1)


def whole(topic: Topic, *records: tuple[bytes, bytes | None], wrong_by: int = 0) -> Whole:
    places = [(partition_of(topic, key, 3) + wrong_by) % 3 for key, _ in records]
    return Whole(3, tuple(Read(place, n, *each) for n, (place, each) in enumerate(zip(places, records, strict=True))))


def under(name: str, *values: bytes | None) -> list[tuple[bytes, bytes | None]]:
    return [(b"topic/" + name.encode(), value) for value in values]


def ground(
    held: Mapping[str, TopicAdopted] = {}, former: Mapping[str, TopicAdopted] = {}, *, folded: bool = True,
    ids: Mapping[str, str] = {},
) -> Ground:  # fmt: skip
    """Topics that have the id "id" unless told otherwise, all written to if *folded*."""
    states = {name: TopicState(name, ids.get(name, "id"), 3, 1, {}) for name in NAMES}
    return Ground(states, held, former, {name: {0: int(folded)} for name in NAMES})


FORMER = {name: adopted(name, 2) for name in NAMES if name != ADOPTIONS.name}
"""What a release before has left on the status topic."""


def generations(ground: Ground) -> dict[str, int]:
    return {each.topic: each.generation for each in first_adoptions(ground)}


def test_only_what_an_adoption_can_be_counts() -> None:
    """Rubbish, a tombstone, another topic's adoption, a wrong partition: named, and the adoption before is held on."""
    good, other = encode(adopted(KEYS.name, 1)), encode(adopted(ASSETS.name, 1))
    for bad in (b"", b"rubbish", b"\xc3\x01" + bytes(8), good + b"x", None, other):
        found = adoptions_of(ADOPTIONS, whole(ADOPTIONS, *under(KEYS.name, good, bad)))
        assert {KEYS.name: adopted(KEYS.name, 1)} == found.held and {KEYS.name} == found.hidden
        assert ["topic/drm.keys.v1"] == [each.record_key for each in found.unreadable]
        healed = adoptions_of(ADOPTIONS, whole(ADOPTIONS, *under(KEYS.name, good, bad, good)))
        assert ((), frozenset()) == healed[1:]
    assert not adoptions_of(ADOPTIONS, whole(ADOPTIONS, *under(KEYS.name, good), wrong_by=1)).held
    foreign = adoptions_of(ADOPTIONS, whole(ADOPTIONS, (b"proxy/one", b"rubbish"), (b"", b"x"), (b"\x1b[2J\xff", b"x")))
    assert {"proxy/one", "", r"\x1b[2J\xff"} == {each.record_key for each in foreign.unreadable}


def test_an_older_generation_takes_nothing_back() -> None:
    """A late write of before."""
    values = [encode(adopted(KEYS.name, generation)) for generation in (0, 2, 1)]
    assert 2 == adoptions_of(ADOPTIONS, whole(ADOPTIONS, *under(KEYS.name, *values))).held[KEYS.name].generation


def test_the_last_report_of_a_record_key_counts() -> None:
    """What was rubbish before, or is taken away, is nobody's concern; adoptions of before are none either."""
    said = status_of(
        whole(
            STATUS, (b"proxy/one", b"rubbish"), (b"proxy/one", encode(REPORT)), (b"proxy/two", b"rubbish"),
            (b"proxy/two", None), (b"proxy/three", encode(REPORT)), (b"proxy/three", b"rubbish"), (b"audit/last", b"?"),
            (b"topic/drm.keys.v1", b"rubbish"), (b"proxy/\xff", encode(REPORT)),
        )
    )  # fmt: skip
    assert ({"proxy/one": REPORT}, None) == (said.reports, said.audit)
    assert ["audit/last", "proxy/three", r"proxy/\xff"] == [each.record_key for each in said.unreadable]
    assert not any(each.newer for each in said.unreadable)


def test_a_report_of_a_later_release_is_told_apart() -> None:
    """An upgrade is no damage."""
    (said,) = status_of(whole(STATUS, (b"proxy/one", b"\xc3\x01" + bytes(40)))).unreadable
    (broken,) = status_of(whole(STATUS, (b"proxy/one", encode(REPORT)[:-1]))).unreadable
    assert (True, False) == (said.newer, broken.newer)


def test_new_topics_are_generation_0() -> None:
    """A new cluster; and a topic that a release adds, once the topic of adoptions is the adopted one."""
    assert dict.fromkeys(NAMES, 0) == generations(ground(folded=False))
    held = {ADOPTIONS.name: adopted(ADOPTIONS.name)}
    assert {} == generations(ground(held))
    assert set(NAMES) - {ADOPTIONS.name} == generations(ground(held, folded=False)).keys()


def test_former_adoptions_are_carried_over_with_their_generations() -> None:
    """And only then comes that of the topic of adoptions itself, after which nobody asks the status topic."""
    assert dict.fromkeys(FORMER, 2) | {ADOPTIONS.name: 0} == generations(ground({}, FORMER))
    states = ground().states
    assert former_count(states, {}) and not former_count(states, {ADOPTIONS.name: adopted(ADOPTIONS.name)})


def test_an_interrupted_carrying_goes_on() -> None:
    """What was carried counts, whatever the status topic says of it by now."""
    held = {KEYS.name: adopted(KEYS.name, 2)}
    forged = {**FORMER, KEYS.name: adopted(KEYS.name, 9)}
    found = generations(ground(held, forged))
    assert KEYS.name not in found and {2} == {found[name] for name in FORMER if name != KEYS.name}


def test_where_generations_cannot_be_known_nobody_guesses() -> None:
    """Adoptions are lost with their topic, or a former one is of a topic that is no more: ops say the generation."""
    lost, replaced = ground(), ground({}, FORMER, ids={ASSETS.name: "another"})
    assert {} == generations(lost)
    assert set(NAMES) - {ASSETS.name, ADOPTIONS.name} == generations(replaced).keys()
    for each in (lost, replaced):
        with pytest.raises(Misconfigured, match=r"drm\.assets\.v1.*--generation"):
            takeovers(each, [ASSETS.name], generation=None)
        (takeover,) = takeovers(each, [ASSETS.name], generation=4)
        assert 4 == takeover.after.generation
    settled = {name: adopted(name, 2) for name in FORMER} | {ASSETS.name: adopted(ASSETS.name, 4, "another")}
    assert {ADOPTIONS.name: 0} == generations(ground(settled, FORMER, ids={ASSETS.name: "another"}))


def test_an_adoption_that_is_hidden_is_written_again() -> None:
    """Compaction would keep the rubbish alone."""
    held = {name: adopted(name, 1) for name in NAMES}
    assert [] == takeovers(ground(held), NAMES, generation=None)
    (again,) = takeovers(ground(held), NAMES, generation=None, hidden=frozenset({KEYS.name}))
    assert held[KEYS.name] == again.before == again.after
