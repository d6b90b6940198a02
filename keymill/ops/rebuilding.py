"""
Rebuild of a topic that the processors made: create it if it is gone, fill it from its source, adopt it at the end.

Until the adoption no processor starts and no view reads the new topic, so a rebuild that was killed leaves nothing that
anybody would trust; the next one writes what is still missing.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from keymill.kafka.admin import adopt, describe, plan_adoption
from keymill.kafka.cluster import connected, create
from keymill.kafka.outgoing import Outgoing
from keymill.ops.changes import Changes
from keymill.ops.replaying import Lacking
from keymill.ops.report import Report
from keymill.ops.source import Source
from schemas import topics
from schemas.codec import encode
from schemas.records import DeadLetter

WRITTEN: Final = "written again"
REFUSED: Final = "refused: its dead letter is missing"


class Target(NamedTuple):
    """The topic to fill, as it was found."""

    name: str
    exists: bool
    adopted: bool


def target_of(bootstrap: str, name: str) -> Target:
    """Look whether the topic is there, and whether it is the adopted one."""
    exists = name in describe(bootstrap, [name])
    return Target(name, exists, exists and not plan_adoption(bootstrap, [name]))


def prepare(bootstrap: str, target: Target, source: Source) -> None:
    """Create the topic with as many partitions and replicas as its source has."""
    if not target.exists:
        state = describe(bootstrap, [source.pair.source.name])[source.pair.source.name]
        with connected(bootstrap) as client:
            create(client, [source.pair.made], source.partitions, state.replicas)


def complete(bootstrap: str, target: Target, report: Report) -> bool:
    """Adopt what was filled, unless it contradicts its source; whether it is the adopted one now."""
    if report.different or report.unexpected:
        return target.adopted
    if not target.adopted:
        adopt(bootstrap, plan_adoption(bootstrap, [target.name]))
    return True


def lacking_to(changes: Changes, made: str, partition: int) -> Lacking:
    """Hand over what is missing on a partition of the topic *made*."""

    def make(record_key: bytes, value: bytes) -> None:
        changes.make(Outgoing(topic=made, record_key=record_key, value=value, partition=partition), WRITTEN)

    return make


def refused_to(changes: Changes) -> Callable[[DeadLetter], None]:
    """Hand over dead letters, as an agent would have written them."""

    def make(letter: DeadLetter) -> None:
        key = f"{letter.topic}/{letter.partition}/{letter.offset}".encode()
        name = topics.DEAD_LETTERS.name
        changes.make(Outgoing(topic=name, record_key=key, value=encode(letter), partition=letter.partition), REFUSED)

    return make
