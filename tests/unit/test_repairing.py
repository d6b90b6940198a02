"""What a repair asks the owners for: all decided records of a record key, and those whose dead letters are gone."""

import msgspec
import pytest

from keymill.errors import Misconfigured
from keymill.kafka.outgoing import Outgoing
from keymill.ops import lacking, source
from keymill.ops.lacking import Lacks, Referred
from keymill.ops.repairing import MAX_REQUEST, Told, ask
from keymill.telemetry import REQUEST_ID_HEADER
from schemas import topics
from schemas.codec import decode, encode
from schemas.ids import asset_key, key_set_key
from schemas.operations import OwnerRequest, RepairRequest, RequestKind
from schemas.records import DeadLetter, TopicAdopted
from streams.runs import RawRecord
from tests.builders import NOW, assign, folded, ingest
from tests.fakes import Made

PARTITIONS = 4
ASSETS, CHANGES = topics.ASSETS.name, topics.POLICY_CHANGES.name
FILM = asset_key("demo", "film")


class Log(msgspec.Struct):
    """One partition of a source: the record keys of its records, and the offsets of those with a dead letter."""

    pair: source.Pair
    keys: list[bytes | None]
    known: frozenset[int] = frozenset()
    partitions: int = PARTITIONS

    @property
    def adopted(self) -> TopicAdopted:
        return TopicAdopted(
            topic=self.pair.source.name, topic_id="id", partitions=PARTITIONS, generation=3, adopted=NOW
        )

    def refused(self, _partition: int) -> frozenset[int]:
        return self.known

    def events(self, partition: int, start: int | None = None):
        name = self.pair.source.name
        for offset, key in enumerate(self.keys):
            if offset >= (start or 0):
                yield RawRecord(name, partition, offset, NOW, 1, key, b"", ())


def asked(log: Log, lacks: Lacks, partition: int = 2) -> tuple[list[Outgoing], Told]:
    """What is sent, and told."""
    made, name = Made(), log.pair.source.name
    told = ask(made, {name: log}, {(name, partition): lacks}, PARTITIONS)  # type: ignore[dict-item]
    return made.records, told


def letter(offset: int) -> DeadLetter:
    """A dead letter that is gone."""
    return DeadLetter(
        topic=ASSETS, partition=2, generation=3, offset=offset, timestamp=NOW, reason="conflict", field="value",
        message="no", value_size=0, value_sha256=bytes(32),
    )  # fmt: skip


def test_an_asset_that_lacks_records_is_asked_for_as_ever() -> None:
    """Under its own record key, with its accepted events alone, in a request that every release executes."""
    lacks = lacking.of_assets()
    lacks.record(FILM, b"")
    lacks.record(key_set_key("demo", "film", bytes(16)), b"")
    ((sent,), told) = asked(Log(source.ASSETS, [FILM, b"demo/other", FILM, FILM], frozenset({2})), lacks)
    request = decode(sent.value or b"", OwnerRequest)
    assert (RequestKind.REPAIR, (0, 3), 3) == (request.kind, request.offsets, request.generation)
    assert (FILM, 2, ((REQUEST_ID_HEADER, request.request_id.encode()),)) == (
        sent.record_key, sent.partition, sent.headers,
    )  # fmt: skip
    assert (1, 1, 0, 0) == (told.requests, told.assets, told.organizations, told.letters)


def test_lost_dead_letters_are_asked_for_by_record_key() -> None:
    """Whatever key their records have; what the same asset lacks besides comes with them."""
    lacks = lacking.of_assets()
    lacks.record(FILM, b"")
    for offset in (1, 3, 4):
        lacks.letter(letter(offset))
    sent, told = asked(Log(source.ASSETS, [FILM, FILM, FILM, None, b"junk", FILM], frozenset({5})), lacks)
    requests = [decode(each.value or b"", RepairRequest) for each in sent]
    assert {((0, 2), (1,)), ((), (3,)), ((), (4,))} == {(each.offsets, each.refused) for each in requests}
    assert {(ASSETS, 2, 3)} == {(each.topic, each.partition, each.generation) for each in requests}
    assert {(f"{ASSETS}/2".encode(), 2)} == {(each.record_key, each.partition) for each in sent}
    assert (3, 1, 0, 3) == (told.requests, told.assets, told.organizations, told.letters)


def test_changes_that_are_not_decided_yet_are_not_named() -> None:
    """The keeper folds them itself: a repair before it could leave one out."""
    lacks = lacking.of_policies()
    lacks.record(b"demo/7", b"")
    lacks.until = 3
    ((sent,), told) = asked(Log(source.POLICIES, [b"demo", b"demo", b"acme", b"demo"], frozenset({1})), lacks)
    request = decode(sent.value or b"", RepairRequest)
    assert (CHANGES, (0,), ()) == (request.topic, request.offsets, request.refused)
    assert (1, 0, 1) == (told.requests, told.assets, told.organizations)


def test_what_no_request_holds_is_told() -> None:
    """It is not cut: a part of an asset's events leads to another record."""
    lacks = lacking.of_assets()
    lacks.record(FILM, b"")
    sent, told = asked(Log(source.ASSETS, [FILM] * MAX_REQUEST), lacks)
    assert ([], ["demo/film"], 0) == (sent, told.too_large, told.requests)


def test_a_source_with_other_partitions_is_refused() -> None:
    """The owner of a partition of the requests is another worker than that of the source's."""
    lacks = lacking.of_assets()
    lacks.record(FILM, b"")
    with pytest.raises(Misconfigured, match="partitions"):
        asked(Log(source.ASSETS, [FILM], partitions=8), lacks)


def test_an_asset_refers_to_its_policy() -> None:
    """Key records, and what is missing without a value, refer to none."""
    referred = Referred()
    referred.take(FILM, encode(folded(ingest("SD"), assign(4))))
    referred.take(key_set_key("demo", "film", bytes(16)), b"key record")
    referred.take(FILM, b"")
    assert {b"demo/4"} == referred.policies
