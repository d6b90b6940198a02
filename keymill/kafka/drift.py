"""How topics differ from the catalogue and from what was adopted. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from keymill.kafka.cluster import TopicState
from keymill.kafka.latest import Unreadable
from schemas.records import TopicAdopted
from schemas.topics import ADOPTIONS, ASSETS, BY_NAME, DEAD_LETTERS, KEYS, POLICIES, POLICY_CHANGES, REQUESTS, Topic

CLEANUP: Final = "cleanup.policy"
COPARTITIONED: Final = tuple(topic.name for topic in (ASSETS, KEYS, REQUESTS, POLICY_CHANGES, POLICIES, DEAD_LETTERS))
"""
An asset's events, keys and repairs stand on partitions of one number, so do an organization's policy changes and
policies, and each refused record's dead letter (design 2).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Something that is not as it must be. A fatal one keeps programs from starting; `advice` says what to do."""

    topic: str
    what: str
    expected: str
    found: str
    fatal: bool
    advice: str = ""

    def __str__(self) -> str:
        text = f"{self.topic}: {self.what} must be {self.expected}, is {self.found}"
        return f"{text}; {self.advice}" if self.advice else text


def differences(
    names: Iterable[str],
    states: Mapping[str, TopicState],
    adoptions: Mapping[str, TopicAdopted],
    *,
    partitions: int | None = None,
    replicas: int | None = None,
) -> list[Difference]:
    """
    Compare the topics of these names.

    Args:
        partitions: expected of topics that are not adopted yet; an adoption freezes its own count.
        replicas: expected replication factor; if absent, any will do.
    """
    found: list[Difference] = []
    for name in names:
        state, adopted = states.get(name), adoptions.get(name)
        if state is None:
            found.append(
                Difference(
                    topic=name, what="topic", expected="there", found="missing", fatal=True,
                    advice="run `keymill topics create`",
                )
            )  # fmt: skip
            continue
        if ADOPTIONS.name in states:  # without it, that is what is wrong, and of adoptions nothing can be said
            found += _adoption(state, adopted)
        found += _partitions(state, adopted.partitions if adopted else partitions)
        found += _configs(BY_NAME[name], state, replicas)
    return [*found, *_uneven(states)]


def settable(found: Iterable[Difference]) -> list[Difference]:
    """Return those that are configs of topics, which the brokers take while everything runs."""
    return [each for each in found if each.topic in BY_NAME and each.what in BY_NAME[each.topic].all_configs(1)]


def unreadable(records: Sequence[Unreadable]) -> Iterator[Difference]:
    """What a topic holds that nobody can read, if anything."""
    if records:
        yield Difference(
            topic=records[0].topic, what="records", expected="readable", fatal=False,
            found=f"passed over {len(records)} times, first {records[0]}",
            advice="see docs/runbook.md, A record cannot be read",
        )  # fmt: skip


def _adoption(state: TopicState, adopted: TopicAdopted | None) -> Iterator[Difference]:
    if adopted and adopted.topic_id == state.topic_id:
        return
    reason = "it was created again" if adopted else "nobody has taken it over"
    yield Difference(
        topic=state.name, what="topic id", expected=adopted.topic_id if adopted else "adopted", found=state.topic_id,
        fatal=True, advice=f"{reason}: if that is meant, run `keymill topics adopt`",
    )  # fmt: skip


def _partitions(state: TopicState, expected: int | None) -> Iterator[Difference]:
    if expected is not None and expected != state.partitions:
        yield Difference(
            topic=state.name, what="partitions", expected=str(expected), found=str(state.partitions), fatal=True,
            advice="record keys would go elsewhere: create the topic anew and replay into it",
        )  # fmt: skip


def _configs(topic: Topic, state: TopicState, replicas: int | None) -> Iterator[Difference]:
    if replicas is not None and replicas != state.replicas:
        yield Difference(
            topic=topic.name, what="replication factor", expected=str(replicas), found=str(state.replicas), fatal=False,
            advice="reassign its partitions (kafka-reassign-partitions.sh)",
        )  # fmt: skip
    for config, value in topic.all_configs(replicas or state.replicas).items():
        found = state.configs.get(config, "absent")
        if found != value:
            yield Difference(
                topic=topic.name, what=config, expected=value, found=found, fatal=config == CLEANUP,
                advice="run `keymill topics configure`",
            )  # fmt: skip


def _uneven(states: Mapping[str, TopicState]) -> Iterator[Difference]:
    counts = [(name, states[name].partitions) for name in COPARTITIONED if name in states]
    for name, count in counts[1:]:
        if count != counts[0][1]:
            yield Difference(
                topic=name, what="partitions", expected=f"{counts[0][1]} as {counts[0][0]} has", found=str(count),
                fatal=True, advice="records that belong together must stand on partitions of one number",
            )  # fmt: skip
