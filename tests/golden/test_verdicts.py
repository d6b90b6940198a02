"""Every golden record gets the verdict that stands beside it: one loop per file."""

import json
import time
from importlib.resources import files

import pytest

import schemas.access
import schemas.events
import schemas.records
from keymill.errors import InvalidRecord, UnknownKey
from keymill.kms.keyring import Keyring
from schemas.codec import decode, encode
from schemas.framing import decode_event
from streams.decide import Decider
from streams.runs import RawRecord
from tests.fakes import MemoryKms
from tests.golden import verdicts
from tests.known import MemoryKnown, decide

FOLDER = files("schemas").joinpath("golden")
RECORDS = json.loads(FOLDER.joinpath("records.json").read_text())
EVENTS = json.loads(FOLDER.joinpath("events.json").read_text())
QUICK_S = 0.5


@pytest.mark.parametrize("case", RECORDS, ids=lambda case: case["name"])
def test_a_value_gets_its_verdict(case):
    """Accepted values come back byte for byte; broken ones are refused quickly, by name of the field."""
    kind = getattr(schemas.events, case["record"], None) or getattr(schemas.records, case["record"])
    value = bytes.fromhex(case["value"])
    before = time.perf_counter()
    if case["verdict"] == "accepted":
        assert encode(decode(value, kind)) == value
    else:
        with pytest.raises(InvalidRecord) as refused:
            decode(value, kind)
        assert refused.value.field == case["field"]
        assert refused.value.code == case["verdict"]
    assert time.perf_counter() - before < QUICK_S


def registry(number: int) -> str:
    """A schema registry with one schema."""
    if number != 7:
        raise UnknownKey(f"schema {number}")
    return files("schemas").joinpath("asset_event.avsc").read_text()


@pytest.mark.parametrize("case", EVENTS, ids=lambda case: case["name"])
def test_an_event_gets_its_verdict(case):
    """What the processor decides about a whole Kafka record: records, or a dead letter with reason and field."""
    headers = tuple((name, text.encode()) for name, text in case["headers"].items())
    key = None if case["key"] is None else case["key"].encode()
    value = None if case["value"] is None else bytes.fromhex(case["value"])
    record = RawRecord("drm.assets.v1", case["partition"], 5, verdicts.NOW, 1, key, value, headers)
    decider = Decider(
        Keyring(MemoryKms()),
        lambda data, given: decode_event(data, given, registry),
        partitions=verdicts.PARTITIONS,
        generation=0,
    )
    decided = decide(decider, MemoryKnown(), record)
    if case["verdict"] == "accepted":
        assert decided.dead_letters == []
        assert len(decided.assets) == 1
        assert decided.key_records
    else:
        (letter,) = decided.dead_letters
        assert (letter.reason, letter.field) == (case["verdict"], case["field"])
        assert not decided.assets
        assert not decided.key_records
        assert decode(encode(letter), type(letter)) == letter
