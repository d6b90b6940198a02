"""The catalogue holds what the design promises of every topic."""

import pytest

from schemas import topics
from schemas.topics import CATALOGUE, Cleanup, Program


@pytest.mark.parametrize("topic", CATALOGUE, ids=lambda t: t.name)
def test_every_topic_has_one_cleanup_and_safe_appends(topic):
    """Never both compaction and deletion; the broker's clock; an acknowledged record survives one broker."""
    configs = topic.all_configs(3)
    assert configs["cleanup.policy"] in ("compact", "delete")
    assert configs["message.timestamp.type"] == "LogAppendTime"
    assert configs["min.insync.replicas"] == "2"
    assert configs["unclean.leader.election.enable"] == "false"
    assert topic.all_configs(1)["min.insync.replicas"] == "1"


@pytest.mark.parametrize("topic", [t for t in CATALOGUE if t.cleanup is Cleanup.COMPACT], ids=lambda t: t.name)
def test_compacted_topics_never_delete_by_age(topic):
    """A key that is still licensed must not expire."""
    assert "retention.ms" not in topic.all_configs(3)
    if topic is not topics.STATUS:
        assert int(topic.all_configs(3)["min.compaction.lag.ms"]) >= 7 * topics.DAY_MS


@pytest.mark.parametrize("topic", [topics.ASSETS, topics.CLAIMS, topics.POLICY_CHANGES], ids=lambda t: t.name)
def test_sources_of_truth_are_kept_for_ever(topic):
    """Replay starts at offset 0, and claims decide by their lowest offset."""
    assert topic.all_configs(3)["cleanup.policy"] == "delete"
    assert topic.all_configs(3)["retention.ms"] == "-1"


def test_sizes_are_those_of_the_design():
    """1 MiB for events, 64 KiB for keys."""
    assert topics.ASSETS.max_message_bytes == 1_048_576
    assert topics.KEYS.max_message_bytes == 65_536


def test_only_the_processor_writes_keys_claims_policies_and_dead_letters():
    """One writer for every derived topic."""
    for topic in (topics.KEYS, topics.CLAIMS, topics.POLICIES, topics.DEAD_LETTERS):
        assert topic.writers == (Program.PROCESSOR,)


def test_names_are_unique_and_the_index_has_them_all():
    """A topic is found by its name."""
    assert len({topic.name for topic in CATALOGUE}) == len(CATALOGUE)
    assert list(topics.BY_NAME.values()) == list(CATALOGUE)
