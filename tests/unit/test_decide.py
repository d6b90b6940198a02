"""A run's records become what must be published, whatever an ingest system puts into them."""

import json
from functools import partial

import pytest

from keymill.errors import Misconfigured, UnknownKey
from keymill.kafka.outgoing import Outgoing, place
from keymill.kms.keyring import Keyring
from keymill.kms.provider import Kms
from keymill.secret import Secret
from keymill.telemetry import REQUEST_ID_HEADER
from schemas import framing, topics
from schemas.codec import encode
from schemas.partition import partition_for
from schemas.records import AssetRecord
from streams.decide import Decided, Decider, Lookup
from streams.raw import MAX_FIELD
from streams.runs import RawRecord, Run
from tests.builders import NOW, folded, ingest
from tests.fakes import MemoryKms

PARTITIONS = 12
JSON = ("content-type", b"application/json")


class Nothing:
    """A `Lookup` before the first event."""

    def asset(self, organization: str, asset: str) -> AssetRecord | None:
        """None."""
        return None

    def has(self, record_key: bytes) -> bool:
        """Nothing."""
        return False


def decided(
    value: bytes, *headers: tuple[str, bytes | None], kms: Kms | None = None, lookup: Lookup | None = None,
    goes_on: bool = False,
) -> Decided:  # fmt: skip
    """What one record with the key demo/bbb calls for."""
    key = b"demo/bbb"
    record = RawRecord(topics.ASSETS.name, partition_for(key, PARTITIONS), 5, NOW, 1, key, value, headers)
    run = Run(record.topic, record.partition, 1, 1, 5, 6, [record], len(value))
    decode = partial(framing.decode_event, registry=None)
    decider = Decider(Keyring(kms or MemoryKms()), decode, partitions=PARTITIONS, generation=0, goes_on=goes_on)
    outcome = decider.begin(run)
    decider.record(record, outcome, lookup or Nothing())
    return outcome


@pytest.mark.parametrize("value", [None, b"", b"\xff" * 300, b"a\r\n\0"])
def test_any_request_id_header_is_borne(value: bytes | None) -> None:
    """Kafka allows a header without a value; one such record must not stop its partition for ever."""
    outcome = decided(encode(ingest()), (REQUEST_ID_HEADER, value))
    assert (len(outcome.assets), outcome.dead_letters) == (1, [])


def test_a_field_name_of_any_length_fits_the_dead_letter_topic() -> None:
    """A JSON event chooses the names of its members; a refusal names the beginning of a long one."""
    plain = {"organization": "demo", "asset": "bbb", "event_time": NOW, "body": {"type": "AssetIngested"}}
    (letter,) = decided(json.dumps(plain | {"f" * 900_000: 1}).encode(), JSON).dead_letters
    assert letter.field == "f" * MAX_FIELD
    outgoing = Outgoing(topic=topics.DEAD_LETTERS.name, record_key=b"k", value=encode(letter), partition=0)
    assert place(outgoing, {topics.DEAD_LETTERS.name: PARTITIONS}) == 0


class _Held(Nothing):
    def asset(self, organization: str, asset: str) -> AssetRecord | None:
        return folded(ingest())


class _OldBackup(MemoryKms):
    """Knows the schedule, and lacks the root that it names."""

    def hmac(self, organization: str, root_version: int, message: bytes) -> Secret:
        raise UnknownKey(f"organization {organization} has no root version {root_version}")


def test_an_organization_without_roots_is_the_events_fault() -> None:
    """Nobody has created it: the event is refused."""
    (letter,) = decided(encode(ingest()), kms=MemoryKms(names=("other",))).dead_letters
    assert (letter.reason, letter.field) == ("unknown_organization", "organization")


@pytest.mark.parametrize(("kms", "lookup"), [(MemoryKms(names=()), _Held()), (_OldBackup(), None)])
def test_a_command_stops_where_keys_are_lost(kms: Kms, lookup: Lookup | None) -> None:
    """With an old copy of the keys no replay can say anything."""
    with pytest.raises(Misconfigured, match="restore"):
        decided(encode(ingest()), kms=kms, lookup=lookup)


@pytest.mark.parametrize(("kms", "lookup"), [(MemoryKms(names=("other",)), _Held()), (_OldBackup(), None)])
def test_lost_keys_cost_their_organization_alone(kms: Kms, lookup: Lookup | None) -> None:
    """The processor refuses what it cannot decide, to be redriven, and decides the next organization's event."""
    made = decided(encode(ingest()), kms=kms, lookup=lookup, goes_on=True)
    assert [("keys_missing", "organization")] == [(each.reason, each.field) for each in made.dead_letters]
    assert "restore" in made.dead_letters[0].message
    assert not made.key_records


def test_an_event_that_was_decided_before_its_keys_were_lost_is_not_refused() -> None:
    """Redelivered, it changes nothing: an accepted event is never refused later."""

    class Applied(Nothing):
        def asset(self, organization: str, asset: str) -> AssetRecord | None:
            return folded(ingest(), start=5)

    made = decided(encode(ingest()), kms=MemoryKms(names=()), lookup=Applied(), goes_on=True)
    assert [] == made.dead_letters
    assert {} == made.assets == made.key_records
