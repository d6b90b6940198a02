"""What a follower does when its topics are not those that it read."""

import time
from pathlib import Path

import msgspec
import pytest

from keymill.errors import Misconfigured
from keymill.kafka.positions import Checkpoint, Described
from keymill.kafka.succession import Succession
from keymill.snapshot import following
from keymill.snapshot.following import FollowerSettings, Following
from keymill.snapshot.state import Heartbeat, HeartbeatFile, boot_id
from keymill.snapshot.writer import SnapshotWriter
from schemas import topics
from tests.fakes import TRUSTING
from tests.view_records import Log

KEYS, POLICIES = topics.KEYS.name, topics.POLICIES.name
NOT_YET = Succession(frozenset({KEYS, POLICIES}), {})
HALF = Succession(frozenset({KEYS, POLICIES}), {KEYS: "new"})
ALL = Succession(frozenset({KEYS, POLICIES}), {KEYS: "new", POLICIES: "new"})


class FakeTail:
    """Refuses what was read before, and begins what it is told nothing of with the topics' new ids."""

    asked: list[dict[str, Checkpoint]] = []
    topic_id = "new"

    def __init__(self, client, names, *, stall_s, pulse) -> None:
        self.contact, self.notice, self.behind, self.caught_up = 0.0, None, 0, False

    def start(self, known):
        FakeTail.asked.append(dict(known))
        if KEYS in known:
            raise Misconfigured("drm.keys.v1 was created anew")
        fresh = Described(topic_id=FakeTail.topic_id, partitions=4)
        return Log(4).checkpoints() | {
            name: Checkpoint(topic=fresh, slots=each.slots)
            for name, each in Log(4).checkpoints().items()
            if name in (KEYS, POLICIES)
        }

    def close(self) -> None:
        """Nothing."""


def settings_of(writer: SnapshotWriter) -> FollowerSettings:
    return FollowerSettings(
        folder=str(writer.folder), key_file="keys.json", topics=Log(4).followed, client={"bootstrap.servers": "b"}
    )


@pytest.fixture
def writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(following, "Tail", FakeTail)
    monkeypatch.setattr(following, "SUCCESSOR_EVERY_S", 0.001)
    monkeypatch.setattr(following, "BEAT_EVERY_S", 0.001)
    FakeTail.asked, FakeTail.topic_id = [], "new"
    with SnapshotWriter(tmp_path / "view", TRUSTING, map_size=16 << 20) as view:
        view.bind(Log(4).checkpoints())
        yield view


def followed(writer: SnapshotWriter, monkeypatch: pytest.MonkeyPatch, answers: list[Succession], looks: int = 50):
    """Run until all *answers* were given, or the new topics are bound; what is left, and the ids."""
    left, turns = list(answers), iter(range(looks))
    monkeypatch.setattr(following, "succession", lambda _bootstrap, _known: left.pop(0) if len(left) > 1 else left[0])
    settings = FollowerSettings(
        folder=str(writer.folder), key_file="keys.json", topics=Log(4).followed, client={"bootstrap.servers": "b"}
    )
    run = Following(
        writer, TRUSTING, settings, lambda: next(turns, None) is None or writer.facts.topics[KEYS].topic_id == "new"
    )
    try:
        run.run()
    finally:
        run._tail.close()
    return len(left)


def test_a_view_waits_until_every_replaced_topic_is_adopted(writer, monkeypatch) -> None:
    """Neither one that nobody adopted nor half of them is taken over; then only those are begun anew."""
    for answers in ([NOT_YET], [HALF]):
        followed(writer, monkeypatch, answers)
        assert {"id-" + name for name in Log(4).followed} == {each.topic_id for each in writer.facts.topics.values()}
        assert all(KEYS in known for known in FakeTail.asked)
    FakeTail.asked = []
    assert 1 == followed(writer, monkeypatch, [NOT_YET, HALF, ALL])
    assert ("new", "new") == (writer.facts.topics[KEYS].topic_id, writer.facts.topics[POLICIES].topic_id)
    first, last = FakeTail.asked[0], FakeTail.asked[-1]
    assert {KEYS, POLICIES} == first.keys() - last.keys()


def test_a_topic_that_is_replaced_once_more_is_not_bound(writer, monkeypatch) -> None:
    """Between the adoption and the first read: what is there is nobody's choice."""
    FakeTail.topic_id = "newer"
    monkeypatch.setattr(following, "succession", lambda *_: ALL)
    settings = FollowerSettings(
        folder=str(writer.folder), key_file="keys.json", topics=Log(4).followed, client={"bootstrap.servers": "b"}
    )
    turns = iter(range(50))
    run = Following(writer, TRUSTING, settings, lambda: next(turns, None) is None)
    run.run()
    assert {"id-" + name for name in Log(4).followed} == {each.topic_id for each in writer.facts.topics.values()}


def test_trouble_that_no_adoption_ends_is_told(writer, monkeypatch) -> None:
    """All are adopted and the topics still cannot be read: a few tries, and then a person must look."""
    monkeypatch.setattr(following, "ERROR_SHOWN_S", 0.0)
    monkeypatch.setattr(following, "succession", lambda *_: ALL)

    def refuse(_self, _known):
        raise Misconfigured("a gap")

    monkeypatch.setattr(FakeTail, "start", refuse)
    settings = FollowerSettings(
        folder=str(writer.folder), key_file="keys.json", topics=Log(4).followed, client={"bootstrap.servers": "b"}
    )
    turns = iter(range(1000))
    with pytest.raises(Misconfigured, match="a gap"):
        Following(writer, TRUSTING, settings, lambda: next(turns, None) is None).run()


def test_a_retry_says_why_the_run_before_stopped_until_it_reads(writer, monkeypatch) -> None:
    """Its heartbeat has the reason from the first beat on, and loses it when the topics are bound."""
    beats = HeartbeatFile(writer.folder, write=True)
    beats.write(Heartbeat(environment=writer.manifest.environment, boot=boot_id(), ready=True, error="a gap"))
    seen = []
    monkeypatch.setattr(FakeTail, "start", lambda *_: seen.append(beats.read().stopped) or Log(4).checkpoints())
    run = Following(writer, TRUSTING, settings_of(writer), lambda: False)
    run._write_beat()
    assert run._connect()
    run._write_beat()
    assert (["a gap"], None) == (seen, beats.read().stopped)
    run._tail.close()
    beats.close()


@pytest.mark.parametrize("what", ["succession", "keys that came", "the end of a bulk load"])
def test_whatever_takes_long_does_not_look_like_a_frozen_follower(writer, monkeypatch, what: str) -> None:
    """Brokers that are silent while they are asked, or a slow disk: it goes on beating."""
    run = Following(writer, TRUSTING, settings_of(writer), lambda: False)
    beats, gaps = HeartbeatFile(writer.folder), []

    def long(*_args):
        last = beats.read().beat_boot_s
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            time.sleep(0.01)
            gaps.append(time.monotonic() - beats.read().beat_boot_s)
        assert beats.read().beat_boot_s > last
        return NOT_YET

    run._write_beat()
    run._tail.caught_up, run._tail.slots = True, {}
    monkeypatch.setattr(FakeTail, "poll", lambda *_: [], raising=False)
    monkeypatch.setattr(following, "READER_CHECK_S", 1e9)
    if what == "succession":
        monkeypatch.setattr(following, "succession", long)
        left = iter(range(2))
        run._stopping = lambda: next(left, None) is None
        run._await_successor(Misconfigured("gone"))
    elif what == "keys that came":
        writer.facts = msgspec.structs.replace(writer.facts, keyless=("demo",), ready=True)
        monkeypatch.setattr(run, "_judge_keyless", long)
        run._step()
    else:
        monkeypatch.setattr(writer, "mark_ready", long)
        run._step()
    assert gaps and max(gaps) < 0.2
    run._tail.close()
    beats.close()
