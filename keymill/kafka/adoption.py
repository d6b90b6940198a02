"""
Which topic ids the programs work with: read from and written to a topic of their own, which ops commands alone write.

A topic that is deleted and created again has its old name and offsets that start over. Programs refuse it until
`keymill topics adopt` has counted one generation more, so that (generation, offset) still orders its events after
those of the lost topic (design 3, `applied`).

Adoptions once stood on the status topic, to which every program may write. What is found there is carried over by
`keymill topics create`, `keymill topics adopt` and `keymill up`, and believed by nobody else; nor by these once the
topic of adoptions is adopted itself, which is recorded last.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from keymill.errors import InvalidRecord, Misconfigured
from keymill.kafka.cluster import TopicState
from keymill.kafka.latest import Read, Unreadable, Whole, misplaced, read_whole, unreadable
from keymill.kafka.producer import Publisher
from keymill.kafka.status_topic import ADOPTED
from schemas.codec import decode, encode
from schemas.records import TopicAdopted
from schemas.topics import ADOPTIONS, KEYS, POLICIES, STATUS, Topic, partition_of

WRITE_S: Final = 10.0
FOREIGN: Final = "no adoption's record key: topic/NAME"

Ends = Mapping[str, Mapping[int, int]]
"""End offset by topic and partition."""


class Adoptions(NamedTuple):
    """
    What the topic of adoptions says.

    Args:
        held: by topic name; of several for one name the highest generation counts.
        unreadable: the last record of a record key, where it is no adoption; the adoption before it is held on.
        hidden: topics with such a record: their adoption is lost with the next compaction, unless it is written again.
    """

    held: Mapping[str, TopicAdopted]
    unreadable: tuple[Unreadable, ...] = ()
    hidden: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Takeover:
    """One topic id that an adoption takes over; `before` and `after` are one where it is only written again."""

    before: TopicAdopted | None
    after: TopicAdopted


def read_adoptions(bootstrap: str) -> Adoptions:
    """
    Read every adoption, and what stands in its place.

    Raises:
        Unavailable: no broker answers, or reading makes no progress for 10 s.
        Misconfigured: there is no topic of adoptions.
    """
    return adoptions_of(ADOPTIONS, read_whole(bootstrap, ADOPTIONS))


def load_adoptions(bootstrap: str) -> dict[str, TopicAdopted]:
    """Like `read_adoptions`, without what cannot be read."""
    return dict(read_adoptions(bootstrap).held)


def read_former_adoptions(bootstrap: str) -> dict[str, TopicAdopted]:
    """The adoptions on the status topic, for whoever carries them over."""
    return dict(adoptions_of(STATUS, read_whole(bootstrap, STATUS)).held)


def adoptions_of(topic: Topic, found: Whole) -> Adoptions:
    """
    What these records say. Nothing takes an adoption away: neither what cannot be read, nor a tombstone.

    Args:
        topic: the one that was read.
    """
    held: dict[str, TopicAdopted] = {}
    bad: dict[tuple[int, bytes], Unreadable] = {}
    for read in found.records:
        place = read.partition, read.record_key
        bad.pop(place, None)
        try:
            adopted = _adoption(topic, read, found.partitions)
        except InvalidRecord as error:
            if read.value is not None or read.record_key.startswith(ADOPTED):
                bad[place] = unreadable(topic, read, str(error))
            continue
        known = held.get(adopted.topic)
        if known is None or adopted.generation >= known.generation:
            held[adopted.topic] = adopted
    hidden = frozenset(
        name for name in held if (partition_of(topic, key := _record_key(name), found.partitions), key) in bad
    )
    return Adoptions(held, tuple(bad[place] for place in sorted(bad)), hidden)


def _adoption(topic: Topic, read: Read, partitions: int) -> TopicAdopted:
    if not read.record_key.startswith(ADOPTED):
        raise InvalidRecord(FOREIGN, field="record key")
    if wrong := misplaced(topic, read, partitions):
        raise InvalidRecord(wrong, field="record key")
    if read.refusal and topic is not STATUS:  # there stand those of releases before authenticators
        raise InvalidRecord(f"it does not verify ({read.refusal}): is the key file this installation's?", field="value")
    if read.value is None:
        raise InvalidRecord("a tombstone, and adoptions are for ever", field="value")
    adopted = decode(read.value, TopicAdopted)
    if _record_key(adopted.topic) != read.record_key:
        raise InvalidRecord("its record key names another topic", field="record key")
    return adopted


def _record_key(name: str) -> bytes:
    return ADOPTED + name.encode()


def record_adoptions(bootstrap: str, partitions: int, adoptions: Iterable[TopicAdopted]) -> None:
    """
    Write adoptions and wait until the broker has them.

    That of the topic of adoptions comes alone and last: whoever sees it need look nowhere else.

    Args:
        partitions: of the topic of adoptions.
    """
    ordered = sorted(adoptions, key=lambda each: each.topic == ADOPTIONS.name)
    own = [each for each in ordered if each.topic == ADOPTIONS.name]
    publisher = Publisher(bootstrap, {ADOPTIONS.name: partitions}, delivery_timeout_s=WRITE_S)
    try:
        for group in (ordered[: len(ordered) - len(own)], own):
            sent = [publisher.send(ADOPTIONS.name, _record_key(each.topic), encode(each)) for each in group]
            publisher.flush_all(sent)
    finally:
        publisher.close()


@dataclass(frozen=True, slots=True)
class Ground:
    """
    What adopting starts from.

    Args:
        states: the topics that exist.
        held: the adoptions that count.
        former: those of the status topic, as long as they are asked (`former_count`), else none.
        ends: end offsets of the topics.
    """

    states: Mapping[str, TopicState]
    held: Mapping[str, TopicAdopted]
    former: Mapping[str, TopicAdopted]
    ends: Ends

    @property
    def carried(self) -> dict[str, TopicAdopted]:
        """
        The former adoptions to write over: of topics that are still those, and have no other adoption.

        Of a topic that is another by now nobody can say whether it was adopted since, on a topic of adoptions that
        is lost; so its generation is not known.
        """
        return {
            name: each for name, each in self.former.items() if name not in self.held and _is(each, self.states, name)
        }

    @property
    def adoptions(self) -> dict[str, TopicAdopted]:
        """Those that count, with the carried ones."""
        return {**self.carried, **self.held}

    @property
    def known(self) -> bool:
        """
        Whether a topic without an adoption never had one.

        It is so when the topic of adoptions is the adopted one, or the only one without; or the status topic was and
        all that it says holds; or nothing was folded.
        """
        if self.states.keys() - self.adoptions.keys() <= {ADOPTIONS.name}:
            return True
        if _is(self.held.get(ADOPTIONS.name), self.states, ADOPTIONS.name):
            return True
        if _is(self.former.get(STATUS.name), self.states, STATUS.name):
            return self.former.keys() & self.states.keys() <= self.adoptions.keys()
        return not any(any(self.ends.get(topic.name, {}).values()) for topic in (KEYS, POLICIES))


def former_count(states: Mapping[str, TopicState], held: Mapping[str, TopicAdopted]) -> bool:
    """Whether the adoptions on the status topic are asked: until that of the topic of adoptions is recorded."""
    return STATUS.name in states and ADOPTIONS.name not in held


def first_adoptions(ground: Ground) -> list[TopicAdopted]:
    """
    What is recorded without being asked: former adoptions, and as generation 0 new topics, nothing ever written.

    The latter not at all when the topic of adoptions is new but something was folded before: its adoptions are lost,
    and a 0 could place new events before old ones.
    """
    carried, adoptions = list(ground.carried.values()), ground.adoptions
    if not ground.known:
        return carried
    new = [name for name in ground.states if name not in adoptions and _never_written(name, ground.ends)]
    return [*carried, *(_adopted(ground.states[name], 0) for name in new)]


def _never_written(name: str, ends: Ends) -> bool:
    """The topic of adoptions itself has some from a creation that was interrupted."""
    return name == ADOPTIONS.name or not any(ends[name].values())


def takeovers(
    ground: Ground, names: Iterable[str], *, generation: int | None, hidden: frozenset[str] = frozenset()
) -> list[Takeover]:
    """
    What adopting the topics of these names would record; those that are as adopted are left out.

    Args:
        generation: for topics without an adoption, where the generations are not known.
        hidden: topics whose adoption must be written again.

    Raises:
        Misconfigured: partitions were added to a topic, or the generation is needed and not given.
    """
    plan, carried, adoptions = [], ground.carried, ground.adoptions
    for name in names:
        state, before = ground.states[name], adoptions.get(name)
        if before and before.topic_id == state.topic_id:
            if before.partitions != state.partitions:
                raise Misconfigured(
                    f"{name} had {before.partitions} partitions and has {state.partitions}: its record keys belong "
                    "elsewhere now. This cannot be adopted; create the topic anew and replay into it"
                )
            if name in hidden or name in carried:
                plan.append(Takeover(before=before, after=before))
            continue
        if before is None and generation is None and not ground.known:
            raise Misconfigured(
                f"{name}: its generations are lost with the former {ADOPTIONS.name}. Give --generation, one more than "
                "the highest that `keymill explain` shows for the records derived from it"
            )
        count = before.generation + 1 if before else generation or 0
        plan.append(Takeover(before=before, after=_adopted(state, count)))
    return plan


def _is(adopted: TopicAdopted | None, states: Mapping[str, TopicState], name: str) -> bool:
    return adopted is not None and name in states and adopted.topic_id == states[name].topic_id


def _adopted(state: TopicState, generation: int) -> TopicAdopted:
    return TopicAdopted(
        topic=state.name,
        topic_id=state.topic_id,
        generation=generation,
        partitions=state.partitions,
        adopted=int(time.time() * 1000),
    )
