"""What a Kafka cluster says of itself: topics, ends, groups. With `overview` all that knows kafka-python's admin."""

import base64
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType, OffsetSpec
from kafka.errors import (
    AuthorizationError,
    BrokerResponseError,
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    GroupIdNotFoundError,
    KafkaError,
    NotCoordinatorError,
    SaslAuthenticationFailedError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)

from keymill.errors import Misconfigured, Unavailable
from keymill.kafka.positions import first_since, known_offset
from schemas.topics import Topic

ANSWER_S: Final = 10.0
"""How long a cluster may take to answer; a broker that starts answers within 5 s."""
ASK_AGAIN_S: Final = 0.1
LATEST: Final = OffsetSpec.LATEST
UNKNOWN_TOPIC: Final = UnknownTopicOrPartitionError.errno


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as it is. `topic_id` is spelt as Kafka's own tools do; `configs` holds every one, defaults too."""

    name: str
    topic_id: str
    partitions: int
    replicas: int
    configs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class GroupState:
    """A consumer group. `state` is Kafka's word; `empty` is proven, not assumed; `who` are its members, for people."""

    name: str
    state: str
    members: int
    who: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """No member and no rebalance under way: nobody can commit or own a partition at this moment."""
        return self.members == 0 and self.state in {"Empty", "Dead"}


class _Client(KafkaAdminClient):  # type: ignore[misc]  # kafka-python has no types
    """The constructor starts a thread and connects; upstream leaves the thread behind when that fails."""

    def __init__(self, **configs: Any) -> None:
        try:
            super().__init__(**configs)
        except BaseException:
            if hasattr(self, "_net"):
                self._closed = False
                self.close()
            raise


@contextmanager
def connected(bootstrap: str, timeout_s: float = ANSWER_S) -> Iterator[Any]:
    """
    An admin client for the block; Kafka's errors leave it as ours.

    Raises:
        Unavailable: no broker of *bootstrap* answers in time.
        Misconfigured: the address cannot be one, or the broker refuses the request for what it is.
    """
    if not bootstrap.strip():
        raise Misconfigured("no Kafka broker is named: set KEYMILL_BOOTSTRAP or give --bootstrap host:port")
    timeout_ms = max(1, int(timeout_s * 1000))
    try:
        client = _Client(
            bootstrap_servers=bootstrap.split(","), client_id="keymill", bootstrap_timeout_ms=timeout_ms,
            request_timeout_ms=timeout_ms,
        )  # fmt: skip
    except ValueError as error:
        raise Misconfigured(f"{bootstrap!r} is no list of Kafka brokers (host:port[,host:port…]): {error}") from None
    except KafkaError as error:
        raise _ours(error, bootstrap) from None
    try:
        yield client
    except KafkaError as error:
        raise _ours(error, bootstrap) from None
    finally:
        client.close()


def _ours(error: KafkaError, bootstrap: str) -> Unavailable | Misconfigured:
    text = f"Kafka at {bootstrap}: {error}"
    match error:
        case AuthorizationError() | SaslAuthenticationFailedError():
            return Misconfigured(f"{text}: this program may not do that, see its credentials and ACLs")
        case UnknownTopicOrPartitionError():
            return Misconfigured(f"{text}: no such topic, run `keymill topics create`")
        case BrokerResponseError():
            return Unavailable(f"{text}: try again") if error.retriable else Misconfigured(text)
    return Unavailable(f"no answer from {text}: is the broker up, and is KEYMILL_BOOTSTRAP or --bootstrap its address?")


def cluster_reachable(bootstrap: str, timeout_s: float = ANSWER_S) -> bool:
    """Whether a broker answers within the timeout."""
    try:
        with connected(bootstrap, timeout_s):
            return True
    except Unavailable:
        return False


def describe(bootstrap: str, names: Iterable[str]) -> dict[str, TopicState]:
    """Give the topics of these names that exist."""
    with connected(bootstrap) as client:
        return describe_with(client, names)


def describe_with(client: Any, names: Iterable[str]) -> dict[str, TopicState]:
    """Like `describe`, over an open connection."""
    found = {}
    for topic in client.describe_topics(list(names)):
        if topic["error_code"] == UNKNOWN_TOPIC:
            continue
        if topic["error_code"]:
            raise for_code(topic["error_code"])(topic["name"])
        found[topic["name"]] = topic
    wanted = [ConfigResource(ConfigResourceType.TOPIC, name) for name in found]
    configs = client.describe_configs(wanted, config_filter="all")["topic"] if wanted else {}
    return {name: _state(topic, configs[name]) for name, topic in found.items()}


def _state(topic: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> TopicState:
    return TopicState(
        name=topic["name"],
        topic_id=base64.urlsafe_b64encode(UUID(topic["topic_id"]).bytes).rstrip(b"=").decode("ascii"),
        partitions=len(topic["partitions"]),
        replicas=min(len(partition["replica_nodes"]) for partition in topic["partitions"]),
        configs={name: str(entry["value"]) for name, entry in configs.items()},
    )


def create(client: Any, wanted: Iterable[Topic], partitions: int, replicas: int) -> set[str]:
    """
    Create topics with the catalogue's configs and wait until each has leaders; returns the names that were new.

    A topic that exists already, also since a moment ago, is left as it is.
    """
    options = {
        topic.name: {
            "num_partitions": partitions,
            "replication_factor": replicas,
            "configs": topic.all_configs(replicas),
        }
        for topic in wanted
    }
    if not options:
        return set()
    answer = client.create_topics(options, raise_errors=False)
    new = set()
    for topic in answer["topics"]:
        error = for_code(topic["error_code"])
        if topic["error_code"] == 0:
            new.add(topic["name"])
        elif error is not TopicAlreadyExistsError:
            raise error(f"creating {topic['name']}: {topic.get('error_message') or error.description}")
    client.wait_for_topics(list(options), timeout_ms=int(ANSWER_S * 1000))
    return new


def set_configs(client: Any, wanted: Mapping[str, Mapping[str, str]]) -> None:
    """Set these configs of topics, by topic; the others stay as they are. Raises what a broker says of any."""
    asked = [ConfigResource(ConfigResourceType.TOPIC, name, dict(configs)) for name, configs in wanted.items()]
    client.alter_configs(asked, incremental=True)


def end_offsets(bootstrap: str, topic: str) -> dict[int, int]:
    """
    The high watermark of every partition, unfinished transactions included: what a reader has to reach.

    Source: research/streaming-reliability.md 2.4; a read_committed end hides records behind an open transaction.
    """
    with connected(bootstrap) as client:
        return end_offsets_with(client, [topic])[topic]


def end_offsets_with(client: Any, names: Iterable[str]) -> dict[str, dict[int, int]]:
    """Like `end_offsets`, of several topics over an open connection."""
    wanted: dict[Any, Any] = {}
    for topic in client.describe_topics(list(names)):
        if topic["error_code"]:
            raise for_code(topic["error_code"])(topic["name"])
        wanted |= {TopicPartition(topic["name"], each["partition_index"]): LATEST for each in topic["partitions"]}
    ends: dict[str, dict[int, int]] = {}
    answer = client.list_partition_offsets(wanted, isolation_level="read_uncommitted") if wanted else {}
    for tp, end in sorted(answer.items()):
        ends.setdefault(tp.topic, {})[tp.partition] = known_offset(tp.topic, tp.partition, end.offset)
    return ends


def offsets_since(bootstrap: str, topic: str, since_ms: int) -> dict[int, int]:
    """The first offset of every partition whose record is not older; partitions without one are absent."""
    with connected(bootstrap) as client:
        return offsets_since_with(client, range(describe_with(client, [topic])[topic].partitions), topic, since_ms)


def offsets_since_with(client: Any, partitions: Iterable[int], topic: str, since_ms: int) -> dict[int, int]:
    """Like `offsets_since`, of some partitions over an open connection."""
    wanted = {TopicPartition(topic, number): since_ms for number in partitions}
    answer = client.list_partition_offsets(wanted, isolation_level="read_uncommitted") if wanted else {}
    found = {tp.partition: first_since(topic, tp.partition, each.offset) for tp, each in answer.items()}
    return {partition: offset for partition, offset in found.items() if offset is not None}


def group_state(bootstrap: str, group: str) -> GroupState:
    """Describe a consumer group; one that nobody ever joined is `Dead` and empty."""
    with connected(bootstrap) as client:
        found = _patiently(lambda: client.describe_groups([group])[group])
    if found["error"] and GroupIdNotFoundError.__name__ not in found["error"]:
        raise Unavailable(f"consumer group {group} at {bootstrap}: {found['error']}")
    members = found["members"]
    return GroupState(name=group, state=found["group_state"], members=len(members), who=tuple(map(_member, members)))


def _member(member: Mapping[str, Any]) -> str:
    name = member.get("group_instance_id") or member.get("member_id") or "?"
    return f"{name} at {str(member.get('client_host', '?')).lstrip('/')}"


def group_offsets(bootstrap: str, group: str) -> dict[tuple[str, int], int]:
    """Committed offsets by topic and partition; partitions without a commit are absent."""
    with connected(bootstrap) as client:
        committed = _patiently(lambda: client.list_group_offsets([group])[group])
    return {(tp.topic, tp.partition): each.offset for tp, each in committed.items() if each.offset >= 0}


def _patiently(ask: Callable[[], Any]) -> Any:
    """Ask until the group's coordinator is there: a new cluster makes its topic at the first question."""
    deadline = time.monotonic() + ANSWER_S
    while True:
        try:
            return ask()
        except (CoordinatorNotAvailableError, CoordinatorLoadInProgressError, NotCoordinatorError):
            if time.monotonic() > deadline:
                raise
            time.sleep(ASK_AGAIN_S)
