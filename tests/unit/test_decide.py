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
    value: bytes, *headers: tuple[str, bytes | None], kms: Kms | None = None, lookup: Lookup | None = None
) -> Decided:
    """What one record with the key demo/bbb calls for."""
    key = b"demo/bbb"
    record = RawRecord(topics.ASSETS.name, partition_for(key, PARTITIONS), 5, NOW, 1, key, value, headers)
    run = Run(record.topic, record.partition, 1, 1, 5, 6, [record], len(value))
    decode = partial(framing.decode_event, registry=None)
    decider = Decider(Keyring(kms or MemoryKms()), decode, partitions=PARTITIONS, generation=0)
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
def test_lost_keys_are_no_events_fault(kms: Kms, lookup: Lookup | None) -> None:
    """With an old copy of the keys the processor stops; refusing would turn every event of an organization away."""
    with pytest.raises(Misconfigured, match="restore"):
        decided(encode(ingest()), kms=kms, lookup=lookup)
