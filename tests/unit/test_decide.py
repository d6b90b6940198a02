"""A run's records become what must be published, whatever an ingest system puts into them."""

import json
from functools import partial

import pytest

from keymill.kafka.outgoing import Outgoing, place
from keymill.kms.keyring import Keyring
from keymill.telemetry import REQUEST_ID_HEADER
from schemas import framing, topics
from schemas.codec import encode
from schemas.partition import partition_for
from schemas.records import AssetRecord
from streams.decide import MAX_FIELD, Decided, Decider
from streams.runs import RawRecord, Run
from tests.builders import NOW, ingest
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


def decided(value: bytes, *headers: tuple[str, bytes | None]) -> Decided:
    """What one record with the key demo/bbb calls for."""
    key = b"demo/bbb"
    record = RawRecord(topics.ASSETS.name, partition_for(key, PARTITIONS), 5, NOW, 1, key, value, headers)
    run = Run(record.topic, record.partition, 1, 1, 5, 6, [record], len(value))
    decode = partial(framing.decode_event, registry=None)
    decider = Decider(Keyring(MemoryKms()), decode, partitions=PARTITIONS, generation=0)
    outcome = decider.begin(run)
    decider.record(record, outcome, Nothing())
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
