"""
Topics as the catalogue wants them: created, checked at every start, taken over by their ids.

    create_topics(bootstrap, partitions=12, replicas=1)         # keymill topics create, keymill up
    adopted = require_topics(bootstrap, [ASSETS.name, KEYS.name])    # every program, before it reads or writes
"""

from collections.abc import Iterable, Mapping, Sequence

from keymill.errors import Misconfigured
from keymill.kafka.adoption import (
    Adoptions,
    Ends,
    Ground,
    Takeover,
    first_adoptions,
    former_count,
    load_adoptions,
    read_adoptions,
    read_former_adoptions,
    record_adoptions,
    takeovers,
)
from keymill.kafka.authentication import trust_before
from keymill.kafka.cluster import (
    GroupState,
    TopicState,
    cluster_reachable,
    connected,
    create,
    describe,
    describe_with,
    end_offsets,
    end_offsets_with,
    group_offsets,
    group_state,
    set_configs,
)
from keymill.kafka.drift import COPARTITIONED, Difference, differences, settable, unreadable
from keymill.telemetry import logger
from schemas.records import TopicAdopted
from schemas.topics import ADOPTIONS, ASSETS, BY_NAME, CATALOGUE, PARTITIONS

__all__ = [
    "Difference",
    "GroupState",
    "Takeover",
    "TopicState",
    "adopt",
    "check_topics",
    "cluster_reachable",
    "configure",
    "create_topics",
    "describe",
    "end_offsets",
    "group_offsets",
    "group_state",
    "load_adoptions",
    "plan_adoption",
    "plan_configs",
    "read_adoptions",
    "require_topics",
]
ALL = tuple(BY_NAME)

log = logger("kafka.admin")


def create_topics(bootstrap: str, partitions: int = PARTITIONS, replicas: int = 1) -> list[str]:
    """
    Create the topics of the catalogue that are missing and adopt them as generation 0; returns their names.

    What exists is left as it is, and its partition count decides that of a topic that joins it. Safe to repeat and to
    run twice at once: a topic without an adoption and without a record is adopted by whoever sees it. A topic that
    took the place of an adopted one is created but not adopted. Adoptions that an earlier release has left on the
    status topic are carried over.
    """
    with connected(bootstrap) as client:
        present = describe_with(client, ALL)
        missing = [topic for topic in CATALOGUE if topic.name not in present]
        count = present[ASSETS.name].partitions if ASSETS.name in present else partitions
        created = create(client, missing, count, replicas)
        states = describe_with(client, ALL)
        ends = end_offsets_with(client, ALL)
    ground, _ = _ground(bootstrap, states, ends)
    if first := first_adoptions(ground):
        record_adoptions(bootstrap, states[ADOPTIONS.name].partitions, first)
    return sorted(created)


def check_topics(
    bootstrap: str, names: Iterable[str] = ALL, *, partitions: int | None = None, replicas: int | None = None
) -> list[Difference]:
    """
    Compare topics with the catalogue and with their adoptions; the fatal differences come first.

    Args:
        partitions: expected of topics that are not adopted yet.
        replicas: expected replication factor.
    """
    found, adoptions = _compare(bootstrap, list(names), partitions, replicas)
    return sorted([*found, *unreadable(adoptions.unreadable)], key=lambda difference: not difference.fatal)


def require_topics(bootstrap: str, names: Iterable[str]) -> dict[str, TopicAdopted]:
    """
    Return the adoptions of these topics; every program's first question.

    Raises:
        Misconfigured: a topic is missing, not adopted, was created again, or its cleanup policy or partition count
            is another. Other differences are logged.
        Unavailable: no broker answers.
    """
    wanted = list(names)
    found, adoptions = _compare(bootstrap, wanted, None, None)
    fatal = [difference for difference in found if difference.fatal]
    if fatal:
        raise Misconfigured("the topics are not what they must be: " + " | ".join(map(str, fatal)))
    for difference in found:
        log.warning("topic_drift", topic=difference.topic, config=difference.what, difference=str(difference))
    taken = {name: adoptions.held[name] for name in wanted}
    trust_before({name: adopted.authenticated_from for name, adopted in taken.items() if adopted.authenticated_from})
    return taken


def plan_adoption(bootstrap: str, names: Sequence[str] = (), *, generation: int | None = None) -> list[Takeover]:
    """
    What `adopt` would record for these topics (all if none is named); nothing is written.

    Args:
        generation: for topics whose adoptions were lost with their topic.

    Raises:
        Misconfigured: a topic is missing, or differs in what no adoption can mend.
    """
    _require_known(names)
    with connected(bootstrap) as client:
        states = describe_with(client, ALL)
        ends = end_offsets_with(client, states)
    wanted = list(names) or list(ALL)
    hopeless = [each for each in differences([ADOPTIONS.name, *wanted], states, {}) if _hopeless(each)]
    if hopeless:
        raise Misconfigured("cannot adopt: " + " | ".join(dict.fromkeys(map(str, hopeless))))
    ground, hidden = _ground(bootstrap, states, ends)
    return takeovers(ground, wanted, generation=generation, hidden=hidden)


def plan_configs(bootstrap: str, names: Sequence[str] = (), *, replicas: int | None = None) -> list[Difference]:
    """
    What `configure` would set at these topics (all if none is named); nothing is written.

    Raises:
        Misconfigured: a name is no topic of the catalogue.
    """
    _require_known(names)
    return settable(check_topics(bootstrap, list(names) or ALL, replicas=replicas))


def configure(bootstrap: str, plan: Sequence[Difference]) -> None:
    """Set what `plan_configs` showed. Everything may run meanwhile; what was written before stays as it was written."""
    wanted: dict[str, dict[str, str]] = {}
    for difference in plan:
        wanted.setdefault(difference.topic, {})[difference.what] = difference.expected
    with connected(bootstrap) as client:
        set_configs(client, wanted)


def _require_known(names: Sequence[str]) -> None:
    unknown = [name for name in names if name not in BY_NAME]
    if unknown:
        raise Misconfigured(f"{unknown[0]} is no topic of keymill: one of {', '.join(ALL)}")


def _hopeless(difference: Difference) -> bool:
    return difference.fatal and difference.what != "topic id"


def adopt(bootstrap: str, plan: Sequence[Takeover]) -> None:
    """Record what `plan_adoption` showed; programs work with the new topic ids from their next start."""
    partitions = describe(bootstrap, [ADOPTIONS.name])[ADOPTIONS.name].partitions
    record_adoptions(bootstrap, partitions, [takeover.after for takeover in plan])


def _ground(bootstrap: str, states: Mapping[str, TopicState], ends: Ends) -> tuple[Ground, frozenset[str]]:
    """What adopting starts from, and the topics whose adoption must be written again."""
    found = read_adoptions(bootstrap)
    former = read_former_adoptions(bootstrap) if former_count(states, found.held) else {}
    return Ground(states, found.held, former, ends), found.hidden


def _compare(
    bootstrap: str, names: list[str], partitions: int | None, replicas: int | None
) -> tuple[list[Difference], Adoptions]:
    joined = set(COPARTITIONED) if set(names) & set(COPARTITIONED) else set()
    states = describe(bootstrap, sorted({ADOPTIONS.name, *names} | joined))
    found = read_adoptions(bootstrap) if ADOPTIONS.name in states else Adoptions({})
    # Nobody starts before the topic of adoptions is adopted, which comes last: until then some may be missing.
    checked = list(dict.fromkeys((ADOPTIONS.name, *names)))
    return differences(checked, states, found.held, partitions=partitions, replicas=replicas), found
